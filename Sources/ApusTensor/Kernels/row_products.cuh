// What products of few rows share: operands, what becomes of the products, the factors of a norm, the choice of tokens.
//
// Set at compile time: NORM, PARTS (of a row's sum of squares), EPILOGUE, and where they are not 0 FORMAT (of the weight, as
// quantised_weights.cuh numbers them) and EXPERTS: rows belong to chunks, each of which meets the weight of an expert.
#pragma once

#ifndef FORMAT
#define FORMAT 0
#endif
#ifndef EXPERTS
#define EXPERTS 0
#endif

#include "quantised_weights.cuh"

#define STORE 0
#define ADD 1
#define SWIGLU 2
#define CHOOSE 3

struct RowProduct {
    const bf16_bits *x;            // [rows][WIDTH]
    const bf16_bits *weight;       // [outputs][WIDTH], or as quantised_weights.cuh has it
    const float *bias;             // [outputs], or none
    const float *squares;          // NORM: [rows][PARTS], which add up to the sum of squares
    bf16_bits *out;                // [rows][outputs], with STORE `stride` from row to row, SWIGLU: [rows][outputs / 2]
    float *sums;                   // ADD: the residual stream [rows][outputs]. CHOOSE: the products, or none
    const float *next_weight;      // ADD: [outputs]
    float *next_squares;           // ADD: [rows][parts]
    const float *temperatures;     // CHOOSE: [rows]
    const u64 *seeds;              // CHOOSE: [rows]
    const int *positions;          // CHOOSE: [rows]
    float *best;                   // CHOOSE: [rows][gridDim.x]
    int *best_index;               // CHOOSE: likewise
    const int4 *chunks;            // EXPERTS: expert, first row and rows of the blocks of one blockIdx.y; no rows: none
    const int *tokens;             // EXPERTS: which row of x a row is, or none: the row itself
    long long expert_bytes;        // EXPERTS: from the weight of an expert to the next one's
    int rows, outputs;
    float epsilon;
    int stride;
    int first_token;               // CHOOSE: the token of output 0, for the noise
    int unused;
};

// The rows of a block, from number `first` of the results on, and its weight.
struct BlockRows {
    int first, end;
    const unsigned char *weight;

    __device__ __forceinline__ BlockRows(const RowProduct &p, int height)
        : first(blockIdx.y * height), end(p.rows), weight(reinterpret_cast<const unsigned char *>(p.weight)) {
        if (EXPERTS) {
            const int4 chunk = p.chunks[blockIdx.y];
            first = chunk.y, end = chunk.y + chunk.z, weight += chunk.x * p.expert_bytes;
        }
    }

    // The row of x of a row, of the last one beyond it.
    __device__ __forceinline__ long long source(const RowProduct &p, int row) const {
        const int inside = min(row, end - 1);
        return EXPERTS && p.tokens != nullptr ? p.tokens[inside] : inside;
    }
};

// 1 / sqrt(mean square + epsilon) of a block's HEIGHT rows of `width` elements, to shared memory, by WORKERS threads from number
// `thread` on: 8 of them to a row, many loads at once.
template <int HEIGHT, int WORKERS>
__device__ __forceinline__ void row_factors(const RowProduct &p, const BlockRows &rows, int width, float *factors, int thread) {
    constexpr int AT_ONCE = WORKERS / 8, PASSES = (HEIGHT + AT_ONCE - 1) / AT_ONCE, LOADS = (PARTS + 7) / 8;
    constexpr int BATCH = LOADS < 32 / PASSES ? LOADS : PASSES < 32 ? 32 / PASSES : 1;
    float totals[PASSES] = {};
#pragma unroll 1
    for (int from = 0; from < LOADS; from += BATCH) {
        float parts[PASSES][BATCH];
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int row = pass * AT_ONCE + thread / 8;
            const float *source = p.squares + rows.source(p, rows.first + row) * PARTS;
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const int part = (from + i) * 8 + thread % 8;
                parts[pass][i] = row < HEIGHT && part < PARTS ? source[part] : 0.0f;
            }
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
#pragma unroll
            for (int i = 0; i < BATCH; ++i) totals[pass] += parts[pass][i];
    }
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
        const int row = pass * AT_ONCE + thread / 8;
        float total = totals[pass];
#pragma unroll
        for (int bit = 1; bit < 8; bit *= 2) total += __shfl_xor_sync(FULL_WARP, total, bit);
        if (thread % 8 == 0 && row < HEIGHT) factors[row] = 1.0f / sqrtf(total / (float)width + p.epsilon);
    }
}

// Noise with which the largest of logits / temperature + noise is a sample: the same for a seed, a position and a token.
//
// -log of an exponential variable, -log(1 - u). Of u the small end makes the largest noise, and a float has bits there to
// tell 2^-33 from 0: noise reaches 23, is finite, and few draws are alike.
__device__ __forceinline__ float gumbel(u64 seed, int position, int token) {
    u64 z = seed + position * 0x9e3779b97f4a7c15ull + token * 0xd1b54a32d192ed03ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return -logf(-log1pf(-((float)(u32)(z >> 32) + 0.5f) * 2.3283064365386963e-10f));
}

// No candidate: of a row whose products are all NaN.
#define NONE 0x7fffffff

// The larger of two candidates; of equal ones that of the lower index.
__device__ __forceinline__ void keep_better(float &best, int &index, float other, int other_index) {
    if (other > best || (other == best && other_index < index)) best = other, index = other_index;
}
