// What the consumers of the decode kernels share: the queries' last columns, the products, the ends.
#pragma once

#include "decode_loads.cuh"

#include "fragments.cuh"
#include "partials.cuh"
#include "softmax.cuh"

// The last columns of this thread's two query rows, as the operand A of TAIL_STEPS products.
__device__ __forceinline__ void load_tail_queries(
    const Decode &p, const Piece &piece, int2 tile, int group, int warp, int lane, u32 (&tail)[TAIL_COUNT]
) {
    int rows = p.heads_per_group * p.query_tokens;
    const bf16_bits *base =
        p.query + (long long)piece.sequence * p.query_tokens * p.query_heads * Q_WIDTH + Q_PANELS * 64 + (lane % 4) * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = tile.y * TILE_ROWS + group * 64 + warp * 16 + lane / 4 + half * 8;
        int token = row / p.heads_per_group;
        int head = tile.x * p.heads_per_group + row - token * p.heads_per_group;
        const bf16_bits *source = base + ((long long)token * p.query_heads + head) * Q_WIDTH;
#pragma unroll
        for (int i = 0; i < 2 * TAIL_STEPS; ++i)
            tail[4 * (i / 2) + 2 * (i % 2) + half] = row < rows ? *reinterpret_cast<const u32 *>(source + i * 8) : 0;
    }
}

// Where in a block the 16 key columns lie that meet the query columns from `column` on, in units of 16 bytes. (The key
// kept once of an FP8 cache lies elsewhere: its place is counted from its own panel.)
__device__ constexpr int key_place(int column) {
    int shared = column < SHARED;
    int in_row = shared ? column : V_WIDTH + column - SHARED;
    int once = KEY_ONCE && !shared;
    int panel = once ? (FP8 ? 0 : ROW_PANELS) : in_row / 64, in_panel = once ? column - SHARED : in_row % 64;
    return panel * (PANEL_BYTES / 16) + in_panel / 8;
}

// S (+)= Q K^T for one block, over the query columns [16 FIRST, 16 LAST). `query` and `keys` are descriptors.
template <int FIRST, int LAST>
__device__ __forceinline__ void score_products(
    float (&s)[S_COUNT], u64 query, const u32 (&tail)[TAIL_COUNT], u64 keys, int accumulate
) {
#pragma unroll
    for (int step = FIRST; step < LAST; ++step) {
        const int fresh = step == FIRST ? accumulate : 1, at = 4 * (step - Q_PANELS * 4);
        const u64 b = keys + key_place(step * 16);
        if (step < Q_PANELS * 4) Mma<BLOCK_N>::ss(s, query + step / 4 * (64 * 128 / 16) + step % 4 * 2, b, fresh);
        else Mma<BLOCK_N>::rs(s, tail[at], tail[at + 1], tail[at + 2], tail[at + 3], b, fresh);
    }
}

// The same, of addresses.
template <int FIRST, int LAST>
__device__ __forceinline__ void score_steps(
    float (&s)[S_COUNT], u32 query, const u32 (&tail)[TAIL_COUNT], u32 keys, int accumulate
) {
    keep_in_place(query);  // or the compiler keeps a descriptor for every step over all blocks, and spills
    score_products<FIRST, LAST>(s, descriptor_rows(query), tail, descriptor_rows(keys), accumulate);
}

#define Q_STEPS (Q_WIDTH / 16)

// O (+)= P V for one block; V is O_WIDTH columns from `stage` on.
__device__ __forceinline__ void values(float (&o)[O_COUNT], const u32 (&weights)[S_COUNT / 2], u32 stage, int accumulate) {
    u64 b = descriptor_columns(stage, PANEL_BYTES);
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
        Mma<O_WIDTH>::rs_columns(
            o, weights[4 * step], weights[4 * step + 1], weights[4 * step + 2], weights[4 * step + 3], b + step * 128,
            step > 0 ? 1 : accumulate);
}

// The same with the weights in shared memory, 64 rows of 64 columns.
__device__ __forceinline__ void values_shared(float (&o)[O_COUNT], u32 weights, u32 stage, int accumulate) {
    keep_in_place(weights);
    u64 a = descriptor_rows(weights), b = descriptor_columns(stage, PANEL_BYTES);
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
        Mma<O_WIDTH>::ss_columns(o, a + step * 2, b + step * 128, step > 0 ? 1 : accumulate);
}

#define NO_ROWS (1 << 31)

// Tokens that this thread's two rows see; NO_ROWS where none of its warp's rows exist.
__device__ __forceinline__ int2 visible_tokens(const Decode &p, const Piece &piece, int2 tile, int group, int warp, int lane) {
    int row = tile.y * TILE_ROWS + group * 64 + warp * 16 + lane / 4;
    if (row - lane / 4 >= p.heads_per_group * p.query_tokens) return {NO_ROWS, NO_ROWS};
    int before = piece.length - p.query_tokens + 1;
    return {
        min(before + row / p.heads_per_group, piece.length), min(before + (row + 8) / p.heads_per_group, piece.length)};
}

__device__ __forceinline__ void wait_block(const Buffers &b, u32 number, int part = 0) {
    barrier_wait(b.full + 8 * (number % STAGES * PARTS + part), (number / STAGES) & 1);
    if (GATHER && STAGES == 2) fence_async_proxy();
}

// Gives a block's part back, once a warpgroup's products have read it.
__device__ __forceinline__ void release_block(const Buffers &b, u32 number, int lane, int part = 0) {
    if (lane == 0) barrier_arrive(b.empty + 8 * (number % STAGES * PARTS + part));
}

// The rows of the last block behind the sequence's end may hold anything, NaN too: as values they must be 0. Clears
// COUNT panels from `panels` on.
template <int COUNT>
__device__ __forceinline__ void clear_rows(u32 panels, int valid, int thread, int threads) {
    int chunks = (BLOCK_N - valid) * 8;
#pragma unroll 1
    for (int i = thread; i < chunks * COUNT; i += threads)
        store_shared_zero_16(panels + (i / chunks) * PANEL_BYTES + valid * 128 + (i % chunks) * 16);
}

// The last block of a sequence, `valid` tokens of which exist, made safe to multiply with by `threads` threads.
__device__ __forceinline__ void clear_tail(const Buffers &b, u32 number, int valid, int thread, int threads, int barrier) {
    clear_rows<V_PANELS>(block_rows(b, number), valid, thread, threads);
    fence_async_proxy();
    named_sync(barrier, threads);
}

// Scores to packed weights; `block` is their place in the sequence. Returns the factors for what was accumulated. A warp
// without rows has nothing to do.
__device__ __forceinline__ float2 scores_to_weights(
    float (&s)[S_COUNT], u32 (&weights)[S_COUNT / 2], RowState &state, float scale, int block, int all_see, int2 sees,
    int lane
) {
    if (sees.x == NO_ROWS) {
#pragma unroll
        for (int i = 0; i < S_COUNT / 2; ++i) weights[i] = 0;
        return {1.0f, 1.0f};
    }
    if ((block + 1) * BLOCK_N > all_see) mask_scores(s, {sees.x - block * BLOCK_N, sees.y - block * BLOCK_N}, lane);
    return softmax_block<false>(s, weights, state, scale, [](int) { return float2{1.0f, 1.0f}; });
}

// This thread's part of a finished piece, the COUNT elements of `o` from FIRST on: columns [column, column + 2 COUNT) of
// its rows, to the output or, for a cut sequence, among the partial results. `finished` is what finish_row gave.
template <int FIRST = 0, int COUNT = O_COUNT>
__device__ __forceinline__ void write_result(
    const Decode &p, const Piece &piece, int2 tile, int lane_index, const float (&o)[O_COUNT],
    const float2 (&finished)[2], int group, int column, int thread
) {
    const int warp = thread / 32, lane = thread % 32;
    const int rows = p.heads_per_group * p.query_tokens;
    const bool writes_lse = column == 0 && lane % 4 == 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float inverse = finished[half].x;
        const int local = group * 64 + warp * 16 + lane / 4 + half * 8;
        const int row = tile.y * TILE_ROWS + local;
        const bool valid = row < rows;
        if (piece.slot >= 0) {
            if (!valid) continue;
            if (writes_lse) partial_lses(p, piece.slot, lane_index)[local] = finished[half].y;
            char *target = partial_strips(p, piece.slot, lane_index) + strip_place<V_WIDTH>(local, column + lane % 4 * 2);
#pragma unroll
            for (int i = 0; i < COUNT / 16; ++i) {
                const float *x = &o[FIRST + 16 * i + 2 * half];
                *reinterpret_cast<uint4 *>(target + i * STRIP_BYTES) = make_uint4(
                    pack_bf16(x[0] * inverse, x[1] * inverse), pack_bf16(x[4] * inverse, x[5] * inverse),
                    pack_bf16(x[8] * inverse, x[9] * inverse), pack_bf16(x[12] * inverse, x[13] * inverse));
            }
        } else {
            const long long index = output_row(p, piece, tile, local);
            if (valid && writes_lse) p.lse[index] = finished[half].y * 0.69314718055994531f;
            bf16_bits *target = p.output + index * V_WIDTH + column + (lane % 4) * 8;
#pragma unroll
            for (int i = 0; i < COUNT / 16; ++i) {
                const float *x = &o[FIRST + 16 * i + 2 * half];
                uint4 words = transpose_quad(
                    pack_bf16(x[0] * inverse, x[1] * inverse), pack_bf16(x[4] * inverse, x[5] * inverse),
                    pack_bf16(x[8] * inverse, x[9] * inverse), pack_bf16(x[12] * inverse, x[13] * inverse), lane);
                if (valid) *reinterpret_cast<uint4 *>(target + i * 32) = words;
            }
        }
    }
}
