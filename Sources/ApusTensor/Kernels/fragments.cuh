// Rows of accumulators in wgmma's layout (softmax.cuh) on their way to memory.
#pragma once

#include "ptx.cuh"

// Four lanes hold 2 columns each of 4 x 8 columns; afterwards lane c of the four holds the 8 columns of the c-th.
__device__ __forceinline__ uint4 transpose_quad(u32 a, u32 b, u32 c, u32 d, int lane) {
    bool odd = lane & 1, high = lane & 2;
    u32 x = __shfl_xor_sync(0xffffffff, odd ? a : b, 1);
    u32 y = __shfl_xor_sync(0xffffffff, odd ? c : d, 1);
    u32 p0 = odd ? x : a, p1 = odd ? b : x, p2 = odd ? y : c, p3 = odd ? d : y;
    u32 u = __shfl_xor_sync(0xffffffff, high ? p0 : p2, 2);
    u32 v = __shfl_xor_sync(0xffffffff, high ? p1 : p3, 2);
    return high ? make_uint4(u, v, p2, p3) : make_uint4(p0, p1, u, v);
}

__device__ __forceinline__ u32 add_bf16(u32 pair, float low, float high) {
    return pack_bf16(__uint_as_float(pair << 16) + low, __uint_as_float(pair & 0xffff0000) + high);
}

// One of a thread's two rows (`half`), columns [FIRST, FIRST + WIDTH) of the accumulators, times `factor`, to `row`: as bf16 or
// (WIDE) float32, over what is there or (SUMS) added to it. All lanes of a warp take part; only rows that exist are written. Rows of bf16
// begin at multiples of 16 bytes, of float32 at multiples of 8.
template <int FIRST, int WIDTH, bool WIDE, bool SUMS, int COUNT>
__device__ __forceinline__ void store_row(void *row, const float (&x)[COUNT], int half, float factor, bool exists, int lane) {
    if (WIDE) {
        float2 *target = reinterpret_cast<float2 *>(row) + lane % 4;
        if (!exists) return;
#pragma unroll
        for (int i = 0; i < WIDTH / 8; ++i) {
            const float *from = &x[FIRST / 2 + 4 * i + 2 * half];
            float2 sum = SUMS ? target[4 * i] : float2{0.0f, 0.0f};
            target[4 * i] = float2{sum.x + from[0] * factor, sum.y + from[1] * factor};
        }
        return;
    }
    if (!SUMS) {
        uint4 *target = reinterpret_cast<uint4 *>(row) + lane % 4;
#pragma unroll
        for (int i = 0; i < WIDTH / 32; ++i) {
            const float *from = &x[FIRST / 2 + 16 * i + 2 * half];
            const uint4 words = transpose_quad(
                pack_bf16(from[0] * factor, from[1] * factor), pack_bf16(from[4] * factor, from[5] * factor),
                pack_bf16(from[8] * factor, from[9] * factor), pack_bf16(from[12] * factor, from[13] * factor), lane);
            if (exists) target[4 * i] = words;
        }
    }
    // Sums, and a last half of 32 columns.
    u32 *pairs = reinterpret_cast<u32 *>(row) + lane % 4;
#pragma unroll
    for (int i = SUMS ? 0 : WIDTH / 32 * 4; i < WIDTH / 8; ++i) {
        const float *from = &x[FIRST / 2 + 4 * i + 2 * half];
        if (!exists) continue;
        pairs[4 * i] = SUMS ? add_bf16(pairs[4 * i], from[0] * factor, from[1] * factor)
                            : pack_bf16(from[0] * factor, from[1] * factor);
    }
}
