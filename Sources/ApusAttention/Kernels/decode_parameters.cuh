// What all decode kernels share: the geometry, the parameters of a launch, pieces of work.
//
// The geometry (CacheGeometry): a query head of group g computes
//   score  = q_shared . shared[g] + q_key . key[g, or the one kept once]
//   output = softmax(scale score) [shared[g] | value[g]]
// MLA, GLA: shared = latent, key = the one RoPE key. GTA: shared | value = the tied state, key = the one RoPE key.
// MHA, GQA, MQA: value and own key.
//
// Layouts (elements):
//   query     [sequence][query token][query head][shared | key], the heads of one group adjacent
//   cache     a page: [group][token][shared | value | own key], then [token][once key]; read through the two tensor
//             maps (or, with GATHER, by row addresses)
//   output    [sequence][query token][query head][shared | value]; lse [sequence][query token][query head], natural log
//   partial   [slot][lane] a tile's rows [shared | value] in bf16, in the strips of merge.cuh, and their lse (base 2)
//             [slot][lane][tile row]; merged at the end of the same launch
// Query token t of a sequence of `length` tokens sees tokens before length - query_tokens + t + 1.
//
// Set at compile time: SHARED, VALUE, KEY (multiples of 16), KEY_ONCE, PAGE_SIZE, BLOCK_N (tokens of a KV block).
#pragma once

#include "merge.cuh"
#include "ptx.cuh"
#include "schedule.cuh"

#ifndef BLOCK_N
#define BLOCK_N 64
#endif

#define V_WIDTH (SHARED + VALUE)
#define ROW_WIDTH (V_WIDTH + (KEY_ONCE ? 0 : KEY))
#define Q_WIDTH (SHARED + KEY)
#define BOX (PAGE_SIZE < BLOCK_N ? PAGE_SIZE : BLOCK_N)  // tokens that one copy brings
#define BOXES (BLOCK_N / BOX)
#define MAX_WORKERS 132  // multiprocessors

static_assert(SHARED % 16 == 0 && VALUE % 16 == 0 && KEY % 16 == 0, "columns come in steps of 16");

struct Decode {
    const bf16_bits *query;
    const bf16_bits *cache;
    const int *page_table;  // [sequence][page_stride]
    const Piece *pieces;
    const SplitItem *splits;
    u32 *arrivals;  // [slot][lane], the launches that have announced it
    bf16_bits *output;
    float *lse;
    char *partial;
    float *partial_lse;
    long long page_elements;
    int page_stride;
    int query_tokens;
    int query_heads;
    int heads_per_group;
    int groups;
    int lanes;
    int row_tiles;
    float scale_log2;  // scale x log2(e)
};

__device__ __forceinline__ Piece load_piece(const Piece *pieces, int index) {
    const int4 *words = reinterpret_cast<const int4 *>(pieces + index);
    int4 a = words[0], b = words[1];
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

__device__ __forceinline__ Piece following(const Piece *pieces, const Piece &piece) {
    if (piece.next >= 0) return load_piece(pieces, piece.next);
    return {-1, 0, 0, 0, 0, -1, -1, 0};
}

__device__ __forceinline__ int lane_of_block(const Decode &p) {
    return block_index() % p.lanes;
}

// (group, row tile) of a lane.
__device__ __forceinline__ int2 lane_tile(const Decode &p, const Piece &piece, int lane) {
    int tile = piece.outer * p.lanes + lane;
    return {tile / p.row_tiles, tile % p.row_tiles};
}

struct Maps {
    const TensorMap *rows, *key, *query;
};
