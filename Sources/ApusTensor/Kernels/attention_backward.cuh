// What the two kernels of the backward pass share.
//
// With P = softmax(scale Q K^T) and G the gradient of the output O:
//   dV = P^T G,  dP = G V^T,  dS = P (dP - delta),  delta = row sums of O G,  dQ = scale dS K,  dK = scale dS^T Q.
//
// One kernel computes dQ tile by tile of queries, the other dK and dV tile by tile of keys, so that every sum stays in the
// registers of one warpgroup: the order of additions is fixed, no gradient is added to in memory, and neither P nor dS leaves
// registers. What this costs: S and dP are computed twice, 8 QUERY + 6 VALUE operations a score that is not masked instead of
// the 6 QUERY + 4 VALUE of one kernel that adds its parts of dQ in memory.
//
// attention_backward_queries runs first and leaves for each row what the other kernel needs of it: `rows`, [head][padded row]
// {log-sum-exp in powers of two, delta}; rows that do not exist {infinity, 0}, so that their P is 0.
#pragma once

#include "attention_panels.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

#ifndef FLOAT32
#define FLOAT32 0  // gradients are float32, otherwise bf16
#endif
#ifndef ADDS
#define ADDS 0  // gradients are added to what is there
#endif
#ifndef OUTPUT_FLOAT32
#define OUTPUT_FLOAT32 0
#endif

// Where a gradient goes, [token][head][width]; strides in elements.
struct Target {
    void *base;
    long long token_stride, head_stride;
};

__device__ __forceinline__ void *target_row(const Target &target, int token, int head) {
    return static_cast<char *>(target.base) + (token * target.token_stride + head * target.head_stride) * (FLOAT32 ? 4 : 2);
}

struct Backward {
    Work work;
    const void *output;         // [token][head][VALUE]
    const bf16_bits *gradient;  // the same
    const float *lse;           // [token][head]
    float2 *rows;               // [head][padded]
    float *once;                // [KV head][token][ONCE], what each head adds to the gradient of the key kept once
    Target query, key, value;
    int padded;
    int tokens;
};
