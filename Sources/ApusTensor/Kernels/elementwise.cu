// Passes over all elements of a tensor: conversion, sums, scaling, rows copied and repeated, activations.
//
// Floor: the bytes read and written once, at the memory's bandwidth.
#include "rows.cuh"

#define THREADS 256

template <typename In, typename Out>
__device__ __forceinline__ void convert(const In *x, Out *result, long long count) {
    constexpr int N = Vector<In, Out>::size;
    const bool wide = count % N == 0 && aligned(x) && aligned(result);
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N; i < count;
         i += (long long)gridDim.x * THREADS * N) {
        float values[N];
        load(x, i, count, wide, values);
        store(result, i, count, wide, values);
    }
}

#define CONVERT(NAME, IN, OUT)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const IN *x, OUT *result, long long count) {            \
        convert(x, result, count);                                                                                     \
    }
CONVERT(convert_f32_bf16, float, bf16_bits)
CONVERT(convert_bf16_f32, bf16_bits, float)

// sum += x; `sum` is float32 or bf16.
template <typename In, typename Sum>
__device__ __forceinline__ void add(const In *x, Sum *sum, long long count) {
    constexpr int N = Vector<In, Sum>::size;
    const bool wide = count % N == 0 && aligned(x) && aligned(sum);
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N; i < count;
         i += (long long)gridDim.x * THREADS * N) {
        float values[N], sums[N];
        load(x, i, count, wide, values);
        load(sum, i, count, wide, sums);
#pragma unroll
        for (int j = 0; j < N; ++j) sums[j] += values[j];
        store(sum, i, count, wide, sums);
    }
}

#define ADD(NAME, IN, SUM)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const IN *x, SUM *sum, long long count) {               \
        add(x, sum, count);                                                                                            \
    }
ADD(add_f32_f32, float, float)
ADD(add_bf16_f32, bf16_bits, float)
ADD(add_bf16_bf16, bf16_bits, bf16_bits)

// x *= factor, or x *= *scalar where there is one; nothing is read or written where that is 1.
template <typename T>
__device__ __forceinline__ void scale(T *x, float factor, const float *scalar, long long count) {
    constexpr int N = Vector<T, T>::size;
    if (scalar != nullptr) factor = *scalar;
    if (factor == 1.0f) return;
    const bool wide = count % N == 0 && aligned(x);
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N; i < count;
         i += (long long)gridDim.x * THREADS * N) {
        float values[N];
        load(x, i, count, wide, values);
#pragma unroll
        for (int j = 0; j < N; ++j) values[j] *= factor;
        store(x, i, count, wide, values);
    }
}

#define SCALE(NAME, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(T *x, float factor, const float *scalar, long long count) {                                               \
        scale(x, factor, scalar, count);                                                                               \
    }
SCALE(scale_f32, float)
SCALE(scale_bf16, bf16_bits)

// Rows of a matrix into those of another, at distances of their own; with a distance of 0 the same row into each.
template <typename In, typename Out>
__device__ __forceinline__ void copy_rows(
    const In *x, long long x_stride, Out *result, long long stride, int rows, int columns
) {
    constexpr int N = 4;
    const bool wide = columns % N == 0 && x_stride % N == 0 && stride % N == 0 && aligned(x) && aligned(result);
    const int parts = (columns + N - 1) / N;
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < (long long)rows * parts;
         i += (long long)gridDim.x * THREADS) {
        const long long row = i / parts;
        const int first = (int)(i - row * parts) * N;
        float values[N];
        load(x + row * x_stride, first, columns, wide, values);
        store(result + row * stride, first, columns, wide, values);
    }
}

#define COPY(NAME, IN, OUT)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const IN *x, long long x_stride, OUT *result, long long stride, int rows, int columns) {                  \
        copy_rows(x, x_stride, result, stride, rows, columns);                                                         \
    }
COPY(copy_rows_f32_f32, float, float)
COPY(copy_rows_f32_bf16, float, bf16_bits)

// Heads [tokens][heads][width] at strides into others, over or (adds) added to what is there: for heads of widths that the
// kernels of attention have no tiles for, which are copied into wider ones. An element a thread.
template <typename T>
__device__ __forceinline__ void copy_heads(
    const T *x, long long x_token, long long x_head, T *result, long long token_stride, long long head_stride, int tokens,
    int heads, int width, int adds
) {
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < (long long)tokens * heads * width;
         i += (long long)gridDim.x * THREADS) {
        const int column = (int)(i % width), head = (int)(i / width % heads);
        const long long token = i / width / heads;
        T *target = result + token * token_stride + head * head_stride + column;
        const float value = as_float(x[token * x_token + head * x_head + column]);
        put(target, adds ? as_float(*target) + value : value);
    }
}

#define COPY_HEADS(NAME, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T *x, long long x_token, long long x_head, T *result, long long token_stride,                       \
             long long head_stride, int tokens, int heads, int width, int adds) {                                      \
        copy_heads(x, x_token, x_head, result, token_stride, head_stride, tokens, heads, width, adds);                 \
    }
COPY_HEADS(copy_heads_f32, float)
COPY_HEADS(copy_heads_bf16, bf16_bits)

// Matrices [rows][columns] at a distance of `stride` elements, each into one [columns][rows] after the one before: a tile of
// 32 x 32 a block and round, through shared memory, so that both sides are accessed in whole lines.
extern "C" __global__ void __launch_bounds__(THREADS)
    transpose_f32_bf16(const float *x, long long stride, bf16_bits *result, int matrices, int rows, int columns) {
    __shared__ float tile[32][33];
    const int across = (columns + 31) / 32, down = (rows + 31) / 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (long long i = blockIdx.x; i < (long long)matrices * across * down; i += gridDim.x) {
        const long long matrix = i / (across * down);
        const int part = (int)(i - matrix * across * down);
        const int row = part / across * 32, column = part % across * 32;
        for (int r = warp; r < 32; r += THREADS / 32)
            if (row + r < rows && column + lane < columns)
                tile[r][lane] = x[matrix * stride + (long long)(row + r) * columns + column + lane];
        __syncthreads();
        for (int c = warp; c < 32; c += THREADS / 32)
            if (column + c < columns && row + lane < rows)
                put(result + (matrix * columns + column + c) * rows + row + lane, tile[lane][c]);
        __syncthreads();
    }
}

// x = f(x), times `factor` where there is one; kind: 0 silu, 1 gelu (exact), 2 gelu by tanh.
extern "C" __global__ void __launch_bounds__(THREADS)
    activate(float *x, const float *factor, int kind, long long count) {
    constexpr int N = 4;
    const bool wide = count % N == 0 && aligned(x) && aligned(factor);
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N; i < count;
         i += (long long)gridDim.x * THREADS * N) {
        float values[N], factors[N];
        load(x, i, count, wide, values);
        if (factor != nullptr) load(factor, i, count, wide, factors);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float v = values[j];
            float y;
            if (kind == 0) y = v * logistic(v);
            else if (kind == 1) y = 0.5f * v * erfcf(-0.70710678118654752f * v);
            else y = v * logistic(1.5957691216057308f * (v + 0.044715f * v * v * v));  // (1 + tanh(u)) / 2 = logistic(2 u)
            values[j] = factor != nullptr ? y * factors[j] : y;
        }
        store(x, i, count, wide, values);
    }
}
