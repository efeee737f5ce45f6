// The softmax of a block of scores in wgmma's accumulator layout: thread t of a warpgroup holds, of rows
// 16 (t / 32) + t % 32 / 4 and 8 further, columns 8 i + 2 (t % 4) and the next, at 4 i + 2 half.
#pragma once

#include "ptx.cuh"

// Weights may grow to 2^32, together in a thread, before what they are relative to follows: bf16 and float32 have room.
// So a block needs no maximum, which would have to be sought over lanes, before its exponentials.
#define LARGEST_SUM 4294967296.0f
#define LARGEST_SCORE 27.0f  // above the reference, of 32 columns

struct RowState {
    float reference[2];  // what the weights are relative to, in powers of two
    float sum[2];        // this thread's share of the row's weights
};

// Scores to packed weights, each times its column's factor (`factors(i)`: of a thread's i-th pair of columns), and the sums
// of weights without these.
template <int COUNT, typename Factors>
__device__ __forceinline__ float2 exponentials(
    const float (&s)[COUNT], u32 (&weights)[COUNT / 2], const RowState &state, float scale, Factors factors
) {
    float subtract[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int half = 0; half < 2; ++half) subtract[half] = state.reference[half] == -infinity() ? 0.0f : state.reference[half];
#pragma unroll
    for (int i = 0; i < COUNT / 4; ++i) {
        const float2 factor = factors(i);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float x = exp2_approximate(fmaf(s[4 * i + 2 * half], scale, -subtract[half]));
            const float y = exp2_approximate(fmaf(s[4 * i + 2 * half + 1], scale, -subtract[half]));
            sum[half] += x + y;
            weights[2 * i + half] = pack_bf16(x * factor.x, y * factor.y);
        }
    }
    return {sum[0], sum[1]};
}

// Makes the weights of rows whose scores have outgrown it relative to their largest score. Returns the factors that what
// was accumulated so far must take.
template <int COUNT>
__device__ __forceinline__ float2 raise_references(const float (&s)[COUNT], RowState &state, float scale) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float largest = s[2 * half];
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) largest = fmaxf(largest, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2)) * scale;
        const float old = state.reference[half];
        const bool grown = largest > old;
        state.reference[half] = grown ? largest : old;
        factor[half] = grown ? exp2_approximate(old - largest) : 1.0f;
        state.sum[half] *= factor[half];
    }
    return {factor[0], factor[1]};
}

// Whether a thread's weights of these scores stay in range.
template <int COUNT>
__device__ __forceinline__ bool scores_fit(const float (&s)[COUNT], const RowState &state, float scale) {
    float largest[2] = {s[0], s[2]};
#pragma unroll
    for (int i = 0; i < COUNT; ++i) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], s[i]);
    return largest[0] * scale <= state.reference[0] + LARGEST_SCORE && largest[1] * scale <= state.reference[1] + LARGEST_SCORE;
}

// Scores to unnormalised weights. Returns the factors that what was accumulated so far must take. Whether weights are in
// range is seen in their sums, or, where registers do not hold scores beside weights (SCORES_FIRST), before.
template <bool SCORES_FIRST, int COUNT, typename Factors>
__device__ __forceinline__ float2 softmax_block(
    const float (&s)[COUNT], u32 (&weights)[COUNT / 2], RowState &state, float scale, Factors factors
) {
    float2 sums, factor = {1.0f, 1.0f};
    if (!SCORES_FIRST) sums = exponentials(s, weights, state, scale, factors);
    const bool known = state.reference[0] > -infinity() && state.reference[1] > -infinity();
    const bool fit = known && (SCORES_FIRST ? scores_fit(s, state, scale) : sums.x <= LARGEST_SUM && sums.y <= LARGEST_SUM);
    if (!__all_sync(0xffffffff, fit)) {
        factor = raise_references(s, state, scale);
        if (!SCORES_FIRST) sums = exponentials(s, weights, state, scale, factors);
    }
    if (SCORES_FIRST) sums = exponentials(s, weights, state, scale, factors);
    state.sum[0] += sums.x;
    state.sum[1] += sums.y;
    return factor;
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

// Tokens before `first` (relative to the block) take no part.
template <int COUNT>
__device__ __forceinline__ void mask_scores_before(float (&s)[COUNT], int2 first, int lane) {
#pragma unroll
    for (int i = 0; i < COUNT / 4; ++i) {
        int column = i * 8 + (lane % 4) * 2;
        if (column < first.x) s[4 * i] = -infinity();
        if (column + 1 < first.x) s[4 * i + 1] = -infinity();
        if (column < first.y) s[4 * i + 2] = -infinity();
        if (column + 1 < first.y) s[4 * i + 3] = -infinity();
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
