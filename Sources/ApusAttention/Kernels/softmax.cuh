// The softmax of a block of scores in wgmma's accumulator layout: thread t of a warpgroup holds, of rows
// 16 (t / 32) + t % 32 / 4 and 8 further, columns 8 i + 2 (t % 4) and the next, at 4 i + 2 half.
#pragma once

#include "ptx.cuh"

// Rescaling waits until a row's maximum has grown by this many powers of two.
#define RESCALE_THRESHOLD 8.0f

struct RowState {
    float reference[2];  // what the weights are relative to, in powers of two
    float sum[2];        // this thread's share of the row's weights
};

// Scores to unnormalised weights, in place. Returns the factors that what was accumulated so far must take.
template <int COUNT>
__device__ __forceinline__ float2 softmax_block(float (&s)[COUNT], RowState &state, float scale) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float largest = s[2 * half];
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) largest = fmaxf(largest, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2)) * scale;
        float old = state.reference[half];
        bool grown = largest > old + RESCALE_THRESHOLD;
        float reference = grown ? largest : old;
        factor[half] = grown ? exp2_approximate(old - reference) : 1.0f;
        state.reference[half] = reference;
        float subtract = reference == -infinity() ? 0.0f : reference;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            float x = exp2_approximate(fmaf(s[4 * i + 2 * half], scale, -subtract));
            float y = exp2_approximate(fmaf(s[4 * i + 2 * half + 1], scale, -subtract));
            s[4 * i + 2 * half] = x;
            s[4 * i + 2 * half + 1] = y;
            sum += x + y;
        }
        state.sum[half] = state.sum[half] * factor[half] + sum;
    }
    return {factor[0], factor[1]};
}

template <int COUNT>
__device__ __forceinline__ void pack_weights(u32 (&weights)[COUNT / 2], const float (&s)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT / 2; ++i) weights[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

template <int COUNT>
__device__ __forceinline__ void rescale(float (&o)[COUNT], float2 factor) {
    if (__any_sync(0xffffffff, factor.x != 1.0f || factor.y != 1.0f)) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            o[4 * i] *= factor.x;
            o[4 * i + 1] *= factor.x;
            o[4 * i + 2] *= factor.y;
            o[4 * i + 3] *= factor.y;
        }
    }
}

// Tokens from `visible` on (relative to the block) take no part.
template <int COUNT>
__device__ __forceinline__ void mask_scores(float (&s)[COUNT], int2 visible, int lane) {
#pragma unroll
    for (int i = 0; i < COUNT / 4; ++i) {
        int column = i * 8 + (lane % 4) * 2;
        if (column >= visible.x) s[4 * i] = -infinity();
        if (column + 1 >= visible.x) s[4 * i + 1] = -infinity();
        if (column >= visible.y) s[4 * i + 2] = -infinity();
        if (column + 1 >= visible.y) s[4 * i + 3] = -infinity();
    }
}

// 1 / sum and log2 of the sum of weights of a finished row; {0, -infinity} where it saw nothing.
__device__ __forceinline__ float2 finish_row(const RowState &state, int half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    return sum > 0.0f ? make_float2(1.0f / sum, state.reference[half] + log2_approximate(sum))
                      : make_float2(0.0f, -infinity());
}
