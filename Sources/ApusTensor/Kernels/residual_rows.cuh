// Rows that enter the residual stream, by a block each.
#pragma once

#include "rows.cuh"

#define RESIDUAL_THREADS 256
#define RESIDUAL_N 4  // elements of a thread at a time

// A row of the residual stream as the products of row_products.cu and tall_products.cu read it: times the norm's weight, and
// its sum of squares, as the first of `parts`.
template <typename Source>
__device__ __forceinline__ void begin_row(
    const Source &source, float scale, bool exists, const float *weight, float *residual, bf16_bits *y, float *squares, int parts,
    int width
) {
    __shared__ float warps[RESIDUAL_THREADS / 32];
    const bool wide = width % RESIDUAL_N == 0 && aligned(source) && aligned(weight) && aligned(residual) && aligned(y);
    float total = 0.0f;
    for (int i = threadIdx.x * RESIDUAL_N; i < width; i += RESIDUAL_THREADS * RESIDUAL_N) {
        float values[RESIDUAL_N], weights[RESIDUAL_N];
        load(source, i, width, wide, values);
        load(weight, i, width, wide, weights);
#pragma unroll
        for (int j = 0; j < RESIDUAL_N; ++j) {
            values[j] = exists ? values[j] * scale : __int_as_float(0x7fffffff);
            total += values[j] * values[j];
            weights[j] *= values[j];
        }
        if (residual != nullptr) store(residual, i, width, wide, values);
        store(y, i, width, wide, weights);
    }
    total = group_sum<RESIDUAL_THREADS>(total, warps);
    for (int i = threadIdx.x; i < parts; i += RESIDUAL_THREADS) squares[i] = i == 0 ? total : 0.0f;
}
