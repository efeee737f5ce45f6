// What a decoder's step does beside products and attention: rows into the residual stream, the choice of tokens and their
// log-probabilities, SwiGLU of gate and up that lie by turns; of a model that is cut over ranks, the choice among them.
//
// Floor: a launch's latency; for many rows, what is read and written once over the bandwidth.
#include "residual_rows.cuh"

#define THREADS RESIDUAL_THREADS
#define N RESIDUAL_N
#define NO_TOKEN 0x7fffffff

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

// The best of a row's candidates, the first of equal ones, in all lanes of a warp.
__device__ __forceinline__ void best_of_row(
    const float *best, const int *best_index, int parts, int lane, float &value, int &index
) {
    value = -infinity();
    index = NO_TOKEN;
    for (int i = lane; i < parts; i += 32) {
        const float other = best[i];
        const int other_index = best_index[i];
        if (other > value || (other == value && other_index < index)) value = other, index = other_index;
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        const float other = __shfl_xor_sync(FULL_WARP, value, bit);
        const int other_index = __shfl_xor_sync(FULL_WARP, index, bit);
        if (other > value || (other == value && other_index < index)) value = other, index = other_index;
    }
}

// A row's token, at position lengths[row], which becomes one more; rows of length 0 do not exist.
__device__ __forceinline__ void take_token(int index, int row, int *tokens, int *lengths, int *history, int history_stride) {
    const int length = lengths[row];
    if (length == 0) return;
    if (index == NO_TOKEN) index = -1;
    tokens[row] = index;
    if (length < history_stride) history[(long long)row * history_stride + length] = index;
    lengths[row] = length + 1;
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
    float value;
    int index;
    best_of_row(best + (long long)row * parts, best_index + (long long)row * parts, parts, lane, value, index);
    if (lane == 0) take_token(index, row, tokens, lengths, history, history_stride);
}

// ---- Of a model that is cut over ranks ----

// What one rank's part of the vocabulary gives a row.
struct RankChoice {
    float value;
    int token;
};

// The best of this rank's tokens, of which `first` is the first, a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS) choose_of_rank(
    const float *best, const int *best_index, int parts, RankChoice *choices, int first, int rows
) {
    grid_wait();
    grid_launch_dependents();
    const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float value;
    int index;
    best_of_row(best + (long long)row * parts, best_index + (long long)row * parts, parts, lane, value, index);
    if (lane == 0) choices[row] = RankChoice{value, index == NO_TOKEN ? NO_TOKEN : first + index};
}

// As choose_tokens, of what the ranks chose, [rank][row], a thread a row.
extern "C" __global__ void __launch_bounds__(THREADS) choose_of_ranks(
    const RankChoice *choices, int ranks, int *tokens, int *lengths, int *history, int history_stride, int rows
) {
    grid_wait();
    grid_launch_dependents();
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= rows) return;
    float value = -infinity();
    int token = NO_TOKEN;
    for (int rank = 0; rank < ranks; ++rank) {
        const RankChoice other = choices[(long long)rank * rows + row];
        if (other.value > value || (other.value == value && other.token < token)) value = other.value, token = other.token;
    }
    take_token(token, row, tokens, lengths, history, history_stride);
}

// The ranks' parts of logits, [rank][row][own tokens] with `stride` elements of each rank, side by side: [row][token]. Of
// rank r those are the tokens from vocabulary r / ranks on.
extern "C" __global__ void __launch_bounds__(THREADS) join_logits(
    const float *parts, float *logits, long long stride, int ranks, int rows, int vocabulary
) {
    grid_wait();
    grid_launch_dependents();
    const int rank = blockIdx.z, row = blockIdx.y;
    const int first = (int)((long long)rank * vocabulary / ranks);
    const int count = (int)((rank + 1LL) * vocabulary / ranks) - first;
    const float *source = parts + rank * stride + (long long)row * count;
    float *target = logits + (long long)row * vocabulary + first;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) target[i] = source[i];
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
