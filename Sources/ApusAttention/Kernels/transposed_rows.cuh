// Weights and results of the kernels whose products are transposed: scores are [token][row of the tile], outputs
// [column][row]; warpgroups take blocks by turns, each with outputs of its own.
#pragma once

#include "partials.cuh"

#define TOKEN_WARPS (BLOCK_N / 16)  // warps of a warpgroup that hold scores
#define LIMIT 32.0f
#define NO_REFERENCE -3e38f  // below every score
#define GIVEN_BYTES (64 * ROWS * 4)  // a panel of a warpgroup's outputs

// What is known of a tile's rows.
struct Rows {
    int visible[ROWS];                   // tokens that each sees
    float reference[WARPGROUPS][ROWS];   // what each warpgroup's weights are relative to, in powers of two
    float largest[WARPGROUPS][4][ROWS];  // of a block's scores, or the sums of weights, by warps
    float factor[WARPGROUPS][ROWS];      // from each warpgroup's outputs to the piece's
};

__device__ __forceinline__ void start_rows(const Decode &p, const Piece &piece, int2 tile, Rows &rows, int thread) {
    if (thread < ROWS) {
        const int token = (tile.y * ROWS + thread) / p.heads_per_group;
        rows.visible[thread] = min(piece.length - p.query_tokens + 1 + token, piece.length);
    }
    for (int i = thread; i < WARPGROUPS * ROWS; i += CONSUMERS) rows.reference[i / ROWS][i % ROWS] = NO_REFERENCE;
}

// The reference of a warpgroup becomes the largest score seen so far, `s` of this block among them.
__device__ __forceinline__ void raise_references(
    Rows &rows, const float (&s)[S_COUNT], float (&o)[V_PANELS][S_COUNT], float (&sums)[ROWS / 4], int warpgroup, int warp,
    int lane
) {
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        float x = fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + i % 2 + 2]);
        for (int distance = 4; distance < 32; distance *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, distance));
        if (lane < 4) rows.largest[warpgroup][warp][i / 2 * 8 + lane * 2 + i % 2] = x;
    }
    named_sync(2 + warpgroup, 128);
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        const int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
        const float(&largest)[4][ROWS] = rows.largest[warpgroup];
        const float old = rows.reference[warpgroup][row];
        const float raised = fmaxf(
            old, fmaxf(fmaxf(largest[0][row], largest[1][row]), fmaxf(largest[2][row], largest[3][row])));
        const float factor = exp2_approximate(old - raised);
        sums[i] *= factor;
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel) {
            o[panel][i / 2 * 4 + i % 2] *= factor;
            o[panel][i / 2 * 4 + i % 2 + 2] *= factor;
        }
    }
    named_sync(2 + warpgroup, 128);
    const int row = warp * 32 + lane;
    if (row < ROWS) {
        const float(&largest)[4][ROWS] = rows.largest[warpgroup];
        rows.reference[warpgroup][row] = fmaxf(
            rows.reference[warpgroup][row],
            fmaxf(fmaxf(largest[0][row], largest[1][row]), fmaxf(largest[2][row], largest[3][row])));
    }
    named_sync(2 + warpgroup, 128);
}

// Weights of a block's scores, into the tile at `target` of which a row of 128 bytes holds columns from `first` x 8 on.
// Returns whether all weights of all warps are in range; `sums` grows by this thread's weights only then.
__device__ __forceinline__ bool block_weights(
    const Rows &rows, const float (&s)[S_COUNT], float (&sums)[ROWS / 4], float2 scales, u32 target, int first,
    int warpgroup, int warp, int lane
) {
    float largest = -infinity(), added[ROWS / 4];
    const int token = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < ROWS / 16; ++i) {
        u32 words[4];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const float2 reference = *reinterpret_cast<const float2 *>(&rows.reference[warpgroup][(2 * i + k) * 8 + lane % 4 * 2]);
            const float *x = &s[4 * (2 * i + k)];
            const float a = x[0] - reference.x, b = x[1] - reference.y, c = x[2] - reference.x, d = x[3] - reference.y;
            largest = fmaxf(largest, fmaxf(fmaxf(a, b), fmaxf(c, d)));
            const float e = exp2_approximate(a), f = exp2_approximate(b), g = exp2_approximate(c), h = exp2_approximate(d);
            added[4 * i + 2 * k] = sums[4 * i + 2 * k] + (e + g);
            added[4 * i + 2 * k + 1] = sums[4 * i + 2 * k + 1] + (f + h);
            words[2 * k] = pack_bf16(e * scales.x, f * scales.x);
            words[2 * k + 1] = pack_bf16(g * scales.y, h * scales.y);
        }
        if (TOKEN_WARPS == 4 || warp < TOKEN_WARPS) store_matrices(
            target + token * 128 + ((first + 2 * i + lane / 16 ^ token % 8) << 4), words[0], words[1], words[2], words[3]);
    }
    fence_async_proxy();
    if (named_sync_any(2 + warpgroup, 128, largest > LIMIT)) return false;
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) sums[i] = added[i];
    return true;
}

// A panel of a thread's outputs to shared memory; and added to from there.
__device__ __forceinline__ void give(const float (&o)[S_COUNT], u32 place) {
#pragma unroll
    for (int i = 0; i < S_COUNT; i += 4) store_shared_4_floats(place + i * 512, {o[i], o[i + 1], o[i + 2], o[i + 3]});
}

__device__ __forceinline__ void take(float (&o)[S_COUNT], u32 place) {
#pragma unroll
    for (int i = 0; i < S_COUNT; i += 4) {
        const float4 x = load_shared_4_floats(place + i * 512);
        o[i] += x.x;
        o[i + 1] += x.y;
        o[i + 2] += x.z;
        o[i + 3] += x.w;
    }
}

// Of the warpgroups' outputs, relative to the same reference, each gets the sums of every WARPGROUPS-th panel. `buffer` is
// shared memory that no product reads any longer; half of it is written while the other half is read.
__device__ __forceinline__ void exchange(float (&o)[V_PANELS][S_COUNT], u32 buffer, int warpgroup, int thread) {
#pragma unroll
    for (int panel = 0; panel < V_PANELS; ++panel) {
        const u32 half = buffer + panel % 2 * ((WARPGROUPS - 1) * GIVEN_BYTES) + thread * 16;
        const int before = (warpgroup + WARPGROUPS - panel % WARPGROUPS) % WARPGROUPS;  // warpgroups from the one that gets it
        if (before > 0) give(o[panel], half + (before - 1) * GIVEN_BYTES);
        named_sync(1, CONSUMERS);
        if (before > 0) continue;
#pragma unroll
        for (int i = 0; i < WARPGROUPS - 1; ++i) take(o[panel], half + i * GIVEN_BYTES);
    }
}

#ifndef ADJACENT
#define ADJACENT 1  // a thread's two columns of a panel are neighbours; 0: eight apart, as products leave them
#endif

// Two neighbouring columns of a row from those that this lane and another hold.
__device__ __forceinline__ u32 column_pair(float low, float high, int lane) {
    if (ADJACENT) return pack_bf16(low, high);
    const bool odd = lane / 4 & 1;
    const float got = __shfl_xor_sync(0xffffffff, odd ? low : high, 4);
    return odd ? pack_bf16(got, high) : pack_bf16(low, got);
}

// A warpgroup's panels of the outputs, to the output or, for a cut sequence, among the partial results.
__device__ __forceinline__ void write_panels(
    const Decode &p, const Piece &piece, int2 tile, int lane_index, const float (&o)[V_PANELS][S_COUNT], int warpgroup,
    int warp, int lane
) {
    const int rows = p.heads_per_group * p.query_tokens - tile.y * ROWS;
    const int column = warp * 16 + (ADJACENT ? lane / 4 * 2 : lane / 8 * 2 + lane / 4 % 2 * 8);
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        const int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
        if (ADJACENT && row >= rows) continue;
        // 64 columns further.
        const int step = piece.slot >= 0 ? 2 * STRIP_BYTES : 128;
        char *place = piece.slot >= 0
            ? partial_strips(p, piece.slot, lane_index) + strip_place<V_WIDTH>(row, column)
            : reinterpret_cast<char *>(p.output + output_row(p, piece, tile, row) * V_WIDTH + column);
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel) {
            if (panel % WARPGROUPS != warpgroup || RAGGED && column + panel * 64 >= V_WIDTH) continue;
            const u32 pair = column_pair(o[panel][i / 2 * 4 + i % 2], o[panel][i / 2 * 4 + i % 2 + 2], lane);
            if (row < rows) *reinterpret_cast<u32 *>(place + panel * step) = pair;
        }
    }
}

// Sums and references of the warpgroups to the factors of their outputs and the log-sum-exp of each row.
__device__ __forceinline__ void finish_rows(
    const Decode &p, const Piece &piece, int2 tile, int lane_index, Rows &rows, int row
) {
    float reference = NO_REFERENCE, sum = 0.0f, factors[WARPGROUPS];
#pragma unroll
    for (int i = 0; i < WARPGROUPS; ++i) reference = fmaxf(reference, rows.reference[i][row]);
#pragma unroll
    for (int i = 0; i < WARPGROUPS; ++i) {
        const float(&x)[4][ROWS] = rows.largest[i];
        factors[i] = exp2_approximate(rows.reference[i][row] - reference);
        sum += ((x[0][row] + x[1][row]) + (x[2][row] + x[3][row])) * factors[i];
    }
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
    for (int i = 0; i < WARPGROUPS; ++i) rows.factor[i][row] = factors[i] * inverse;
    if (row >= p.heads_per_group * p.query_tokens - tile.y * ROWS) return;
    const float lse = sum > 0.0f ? reference + log2_approximate(sum) : -infinity();
    if (piece.slot >= 0) partial_lses(p, piece.slot, lane_index)[row] = lse;
    else p.lse[output_row(p, piece, tile, row)] = lse * 0.69314718055994531f;
}

