// Rows of float32 or bf16, read and written as float32 a few elements at a time, and sums over threads.
//
// Where `wide` holds, N elements are one access of 8 or 16 bytes (two for 8 float32): a row's width and its distance to the
// next are multiples of N, and addresses of 16. Elsewhere they go one by one, and those beyond the row are 0. Which of the
// two, every thread of a block decides alike.
#pragma once
#include "ptx.cuh"

#define FULL_WARP 0xffffffffu

__device__ __forceinline__ float as_float(float x) {
    return x;
}

__device__ __forceinline__ float as_float(bf16_bits x) {
    return bf16_to_float(x);
}

__device__ __forceinline__ void put(float *target, float x) {
    *target = x;
}

__device__ __forceinline__ void put(bf16_bits *target, float x) {
    *target = (bf16_bits)pack_bf16(x, 0.0f);
}

template <int N>
__device__ __forceinline__ void load_wide(const float *source, float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 part = *reinterpret_cast<const float4 *>(source + i);
        x[i] = part.x, x[i + 1] = part.y, x[i + 2] = part.z, x[i + 3] = part.w;
    }
}

template <int N>
__device__ __forceinline__ void load_wide(const bf16_bits *source, float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += N % 8 == 0 ? 8 : 4) {
        u32 words[4];
        if (N % 8 == 0) {
            const uint4 part = *reinterpret_cast<const uint4 *>(source + i);
            words[0] = part.x, words[1] = part.y, words[2] = part.z, words[3] = part.w;
        } else {
            const uint2 part = *reinterpret_cast<const uint2 *>(source + i);
            words[0] = part.x, words[1] = part.y;
        }
#pragma unroll
        for (int j = 0; j < (N % 8 == 0 ? 8 : 4); ++j)
            x[i + j] = __uint_as_float(j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xffff0000u);
    }
}

template <int N>
__device__ __forceinline__ void store_wide(float *target, const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 4)
        *reinterpret_cast<float4 *>(target + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
}

template <int N>
__device__ __forceinline__ void store_wide(bf16_bits *target, const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += N % 8 == 0 ? 8 : 4) {
        const u32 a = pack_bf16(x[i], x[i + 1]), b = pack_bf16(x[i + 2], x[i + 3]);
        if (N % 8 == 0) {
            const u32 c = pack_bf16(x[(i + 4) % N], x[(i + 5) % N]), d = pack_bf16(x[(i + 6) % N], x[(i + 7) % N]);
            *reinterpret_cast<uint4 *>(target + i) = make_uint4(a, b, c, d);
        } else {
            *reinterpret_cast<uint2 *>(target + i) = make_uint2(a, b);
        }
    }
}

// Elements first ... first + N - 1 of a row.
template <int N, typename T>
__device__ __forceinline__ void load(const T *row, long long first, long long width, bool wide, float (&x)[N]) {
    if (wide) {
        load_wide(row + first, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = first + i < width ? as_float(row[first + i]) : 0.0f;
}

template <int N, typename T>
__device__ __forceinline__ void store(T *row, long long first, long long width, bool wide, const float (&x)[N]) {
    if (wide) {
        store_wide(row + first, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (first + i < width) put(row + first + i, x[i]);
}

__device__ __forceinline__ bool aligned(const void *address) {
    return ((u64)address & 15) == 0;
}

// How many elements a thread takes at a time: 16 bytes of the widest type it meets.
template <typename A, typename B>
struct Vector {
    static constexpr int size = sizeof(A) == 2 && sizeof(B) == 2 ? 8 : 4;
};

// The sum over GROUP threads that follow each other (a warp, or the whole block), the same in all of them, and the same
// however often it is computed. `shared` has room for a number a warp.
template <int GROUP, typename T>
__device__ __forceinline__ T group_sum(T x, T *shared) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(FULL_WARP, x, i);
    if (GROUP == 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
    for (int i = 1; i < GROUP / 32; ++i) x += shared[i];
    return x;
}

// 1 / (1 + exp(-x)).
__device__ __forceinline__ float logistic(float x) {
    return reciprocal_approximate(1.0f + exp2_approximate(-1.4426950408889634f * x));
}
