// What a decoder's step does beside products and attention: rows into the residual stream, the choice of tokens and their
// log-probabilities, SwiGLU of gate and up that lie by turns.
//
// Floor: a launch's latency; for many rows, what is read and written once over the bandwidth.
#include "residual_rows.cuh"

#define THREADS RESIDUAL_THREADS
#define N RESIDUAL_N

// The embeddings of tokens, one block a row; a token outside of the table becomes NaN.
extern "C" __global__ void __launch_bounds__(THREADS) embed_rows(
    const int *tokens, const bf16_bits *table, float scale, const float *weight, float *residual, bf16_bits *y,
    float *squares, int parts, int width, int vocabulary
) {
    grid_wait();
    grid_launch_dependents();
    const long long row = blockIdx.x, token = tokens[row];
    const bool exists = token >= 0 && token < vocabulary;
    begin_row(
        table + (exists ? token * width : 0), scale, exists, weight, residual + row * width, y + row * width,
        squares + row * parts, parts, width);
}

// Rows rows[0], rows[1], ... of the residual stream, one block each.
extern "C" __global__ void __launch_bounds__(THREADS) pick_rows(
    const float *residual, const int *rows, const float *weight, bf16_bits *y, float *squares, int parts, int width
) {
    grid_wait();
    grid_launch_dependents();
    const long long row = blockIdx.x;
    begin_row(
        residual + (long long)rows[row] * width, 1.0f, true, weight, nullptr, y + row * width,
        squares + row * parts, parts, width);
}

// The tokens that the head's blocks found best, a warp a row. They stand at position lengths[row], which becomes one more,
// so that the next step follows without the host; rows of length 0 do not exist. Where logits are nothing but NaN, so is the
// token's embedding: -1.
extern "C" __global__ void __launch_bounds__(THREADS) choose_tokens(
    const float *best, const int *best_index, int parts, int *tokens, int *lengths, int *history, int history_stride, int rows
) {
    grid_wait();
    grid_launch_dependents();
    const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float value = -infinity();
    int index = 0x7fffffff;
    for (int i = lane; i < parts; i += 32) {
        const float other = best[(long long)row * parts + i];
        const int other_index = best_index[(long long)row * parts + i];
        if (other > value || (other == value && other_index < index)) value = other, index = other_index;
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        const float other = __shfl_xor_sync(FULL_WARP, value, bit);
        const int other_index = __shfl_xor_sync(FULL_WARP, index, bit);
        if (other > value || (other == value && other_index < index)) value = other, index = other_index;
    }
    const int length = lengths[row];
    if (lane != 0 || length == 0) return;
    if (index == 0x7fffffff) index = -1;
    tokens[row] = index;
    if (length < history_stride) history[(long long)row * history_stride + length] = index;
    lengths[row] = length + 1;
}

#define WIDE_THREADS 1024
#define LOG2_E 1.4426950408889634f

// The natural log-probability of each row's token under the logits it was chosen of, after choose_tokens: a block a row.
// Each thread keeps the largest logit so far and the sum of exponentials over it (Milakov and Gimelshein 2018).
extern "C" __global__ void __launch_bounds__(WIDE_THREADS) token_log_probabilities(
    const float *logits, const int *tokens, const int *lengths, float *log_probabilities, int stride, int vocabulary
) {
    __shared__ float maxima[WIDE_THREADS / 32], sums[WIDE_THREADS / 32];
    grid_wait();
    grid_launch_dependents();
    const long long row = blockIdx.x;
    const int position = lengths[row] - 1;
    if (position < 0 || position >= stride) return;
    const float *x = logits + row * vocabulary;
    const bool wide = vocabulary % N == 0 && aligned(logits);
    // A finite start, so that rows of minus infinity subtract nothing infinite from it.
    float maximum = -3.4e38f, sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x * N; i < vocabulary; i += WIDE_THREADS * N) {
        float values[N];
        load(x, i, vocabulary, wide, values);
        float largest = maximum;
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (i + j < vocabulary) largest = fmaxf(largest, values[j]);
        sum *= exp2_approximate((maximum - largest) * LOG2_E);
        maximum = largest;
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (i + j < vocabulary) sum += exp2_approximate((values[j] - maximum) * LOG2_E);
    }
    float all = maximum;
#pragma unroll
    for (int i = 16; i > 0; i /= 2) all = fmaxf(all, __shfl_xor_sync(FULL_WARP, all, i));
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = all;
    __syncthreads();
    for (int i = 0; i < WIDE_THREADS / 32; ++i) all = fmaxf(all, maxima[i]);
    sum = group_sum<WIDE_THREADS>(sum * exp2_approximate((maximum - all) * LOG2_E), sums);
    if (threadIdx.x != 0) return;
    const int token = tokens[row];
    log_probabilities[row * stride + position] = token < 0 ? __int_as_float(0x7fffffff) : x[token] - all - logf(sum);
}

// silu(gate) up, of rows in which 8 elements of the gate and 8 of up lie by turns; `bias` likewise, or none.
extern "C" __global__ void __launch_bounds__(THREADS) swiglu_turns(
    const bf16_bits *x, const float *bias, bf16_bits *out, long long count, int width
) {
    grid_wait();
    grid_launch_dependents();
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count / 8; i += (long long)gridDim.x * THREADS) {
        float gate[8], up[8];
        load_wide(x + i * 16, gate);
        load_wide(x + i * 16 + 8, up);
        if (bias != nullptr) {
            const float *from = bias + i * 8 % width * 2;
#pragma unroll
            for (int j = 0; j < 8; ++j) gate[j] += from[j], up[j] += from[8 + j];
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) gate[j] = gate[j] * logistic(gate[j]) * up[j];
        store_wide(out + i * 8, gate);
    }
}

// residual += bias, in every row.
extern "C" __global__ void __launch_bounds__(THREADS) add_bias(float *residual, const float *bias, long long count, int width) {
    grid_wait();
    grid_launch_dependents();
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count; i += (long long)gridDim.x * THREADS)
        residual[i] += bias[i % width];
}

// Random bf16 between -scale and scale, for models without files.
extern "C" __global__ void __launch_bounds__(THREADS) fill_uniform(bf16_bits *x, long long count, u64 seed, float scale) {
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count; i += (long long)gridDim.x * THREADS) {
        u64 z = seed + (u64)i * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        put(x + i, ((float)(u32)(z >> 40) * 1.1920928955078125e-7f - 1.0f) * scale);
    }
}
