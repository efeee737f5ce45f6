// The products of the FP8 decode kernel, transposed: scores are [token][row of the tile], outputs [column][row], so that
// the cache is operand A, which comes from registers: codes become bf16 on their way from shared memory, and no block
// of bf16 is ever written.
//
// Scales are applied to float32 scores and weights.
//
// Thread t of a warpgroup holds, of scores of tokens 16 (t / 32) + t % 32 / 4 and 8 further, rows 8 i + 2 (t % 4) and the
// next, at 4 i + 2 half. Of an output's panel of 64 columns it holds, in the same places, columns 16 (t / 32) +
// 2 (t % 32 / 4) and the next.
#pragma once

#include "fp8_codes.cuh"
#include "fp8_loads.cuh"

#define S_COUNT (ROWS / 2)
#define O_COUNT (V_PANELS * S_COUNT)

// Codes of 32 columns or tokens to operand A of two steps. Of the keys, words of two tokens eight apart.
__device__ __forceinline__ void convert_keys(u32 (&a)[8], const u32 (&codes)[4]) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        a[4 * step] = e4m3_pair(spread_bytes<0, 1>(codes[step]));
        a[4 * step + 1] = e4m3_pair(spread_bytes<0, 1>(codes[2 + step]));
        a[4 * step + 2] = e4m3_pair(spread_bytes<2, 3>(codes[step]));
        a[4 * step + 3] = e4m3_pair(spread_bytes<2, 3>(codes[2 + step]));
    }
}

// Each half of a word holds two columns of a token: columns are taken apart, tokens put together.
__device__ __forceinline__ void convert_values(u32 (&a)[8], const u32 (&codes)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = e4m3_pair(spread_bytes<0, 2>(codes[i]));
        a[2 * i + 1] = e4m3_pair(spread_bytes<1, 3>(codes[i]));
    }
}

// Products of KEY_DEPTH or VALUE_DEPTH conversions run while the next is made; registers allow no more.
#define KEY_DEPTH (WARPGROUPS == 3 ? 2 : 3)
#define VALUE_DEPTH (WARPGROUPS == 2 ? 4 : V_PANELS > 4 ? 2 : 3)

// The scores of a block over its scales: first the key kept once, whose part is divided by the tokens' scales, then the
// codes on top of it.
__device__ __forceinline__ void block_scores(
    float (&s)[S_COUNT], u32 query, u32 stage, float2 scales, int warp, int lane
) {
    keep_in_place(query);
    const u64 key = descriptor_rows(stage + V_PANELS * RAW_PANEL), key_query = descriptor_rows(query + SHARED_PANELS * QUERY_PANEL);
    mma_fence();
#pragma unroll
    for (int step = 0; step < KEY / 16; ++step) Mma<ROWS>::ss(s, key + step * 2, key_query + step * 2, step > 0);
    mma_commit();
    const u32 row = stage + (warp * 16 + lane / 4) * 64 + ((lane ^ lane / 8) % 4 << 4);
    uint4 low = load_shared_16(row), high = load_shared_16(row + 8 * 64);
    const float inverse[2] = {reciprocal_approximate(scales.x), reciprocal_approximate(scales.y)};
    u32 a[KEY_DEPTH][8];
#pragma unroll
    for (int i = 0; i < 2 * SHARED_PANELS; ++i) {
        if (i >= KEY_DEPTH) mma_wait<KEY_DEPTH - 1>();
        if (i % 2 == 0) convert_keys(a[i % KEY_DEPTH], {low.x, low.y, high.x, high.y});
        else convert_keys(a[i % KEY_DEPTH], {low.z, low.w, high.z, high.w});
        if (i % 2 == 1 && i + 1 < 2 * SHARED_PANELS) {
            low = load_shared_16(row + (i + 1) / 2 * RAW_PANEL);
            high = load_shared_16(row + (i + 1) / 2 * RAW_PANEL + 8 * 64);
        }
        if (i == 0) {
            mma_wait<0>();
            mma_settle(s);
#pragma unroll
            for (int k = 0; k < S_COUNT; ++k) s[k] *= inverse[k / 2 % 2];
        }
        const u64 b = descriptor_rows(query + i / 2 * QUERY_PANEL) + i % 2 * 4;
        mma_fence();
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const u32 *words = a[i % KEY_DEPTH] + 4 * step;
            Mma<ROWS>::rs(s, words[0], words[1], words[2], words[3], b + step * 2, 1);
        }
        mma_commit();
    }
    mma_wait<0>();
    mma_settle(s);
}

// O += V^T P^T for one block.
__device__ __forceinline__ void block_values(float (&o)[V_PANELS][S_COUNT], u32 weights, u32 stage, int warp, int lane) {
    const u64 b = descriptor_columns(weights, BLOCK_N * 128);
    const u32 row = stage + lane * 64 + ((warp ^ lane / 2) % 4 << 4);
    uint4 codes = load_matrices_transposed(row);
    u32 a[VALUE_DEPTH][8];
#pragma unroll
    for (int i = 0; i < 2 * V_PANELS; ++i) {
        if (i >= VALUE_DEPTH) mma_wait<VALUE_DEPTH - 1>();
        convert_values(a[i % VALUE_DEPTH], {codes.x, codes.y, codes.z, codes.w});
        if (i + 1 < 2 * V_PANELS) codes = load_matrices_transposed(row + (i + 1) / 2 * RAW_PANEL + (i + 1) % 2 * (32 * 64));
        mma_fence();
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const u32 *words = a[i % VALUE_DEPTH] + 4 * step;
            Mma<ROWS>::rs_columns(o[i / 2], words[0], words[1], words[2], words[3], b + (i % 2 * 2 + step) * 128, 1);
        }
        mma_commit();
    }
    mma_wait<0>();
#pragma unroll
    for (int panel = 0; panel < V_PANELS; ++panel) mma_settle(o[panel]);
}
