// Partial results of sequences that are cut: announced piece by piece, merged after the last one.
//
// Set before this is included: TILE_ROWS, CONSUMERS (threads), RESIDENT.
#pragma once

#include "decode_parameters.cuh"

#define STRIPS (TILE_ROWS / 4 * STRIPS_ACROSS(V_WIDTH))  // of a tile
// Shared memory that the merge takes, all of which the block is done with by then: as many slots as workers with a strip
// each, or fewer slots with a share that is rounded up.
#define MERGE_STRIPS (2 * STRIPS > MAX_WORKERS * RESIDENT ? 2 * STRIPS : MAX_WORKERS * RESIDENT)
#define MERGE_BYTES (MERGE_STRIPS * (STRIP_BYTES + 16) + TILE_ROWS * 8)

// Where a tile's row lies in the output, in rows.
__device__ __forceinline__ long long output_row(const Decode &p, const Piece &piece, int2 tile, int local) {
    int row = tile.y * TILE_ROWS + local;
    int token = row / p.heads_per_group;
    int head = tile.x * p.heads_per_group + row - token * p.heads_per_group;
    return ((long long)piece.sequence * p.query_tokens + token) * p.query_heads + head;
}

// A partial result, and its log-sum-exps.
__device__ __forceinline__ char *partial_strips(const Decode &p, int slot, int lane_index) {
    return p.partial + ((long long)slot * p.lanes + lane_index) * (STRIPS * STRIP_BYTES);
}

__device__ __forceinline__ float *partial_lses(const Decode &p, int slot, int lane_index) {
    return p.partial_lse + ((long long)slot * p.lanes + lane_index) * TILE_ROWS;
}

// The cut sequences of this block, at most two; in shared memory.
struct Partials {
    Piece pieces[2];
    SplitItem items[2];
    u32 goals[2];
};

// At a piece's start: its split is wanted at the end, when a read would be waited for.
__device__ __forceinline__ void fetch_split(const Decode &p, const Piece &piece, Partials &partials, int number) {
    if (piece.slot >= 0 && threadIdx.x == 0) {
        copy_16(shared_address(&partials.items[number]), p.splits + piece.split, 16);
        copies_commit();
    }
}

// After all consumers have written a partial result. Every slot is announced once a launch, so that all counts are equal
// between launches.
__device__ __forceinline__ void announce_partial(
    const Decode &p, const Piece &piece, int lane_index, Partials &partials, int number
) {
    named_sync(1, CONSUMERS);
    if (threadIdx.x == 0) {
        partials.pieces[number] = piece;
        partials.goals[number] = add_release(p.arrivals + piece.slot * p.lanes + lane_index) + 1;
    }
}

// Each contributor of a cut item merges its share of the strips. All blocks of the grid are resident (the grid is no
// larger than the device) and none waits before its own pieces are done.
__device__ __forceinline__ void merge_partials(
    const Decode &p, u32 barrier, unsigned char *memory, int lane_index, Partials &partials, int count
) {
    u32 phase = 0;
    for (int i = 0; i < count; ++i) {
        if (threadIdx.x == 0) copies_wait<0>();
        named_sync(1, CONSUMERS);
        const Piece piece = partials.pieces[i];
        const SplitItem item = partials.items[i];
        const int2 tile = lane_tile(p, piece, lane_index);
        const int rows = min(TILE_ROWS, p.heads_per_group * p.query_tokens - tile.y * TILE_ROWS);
        const int strips = (rows + 3) / 4 * STRIPS_ACROSS(V_WIDTH), share = piece.slot - item.first_slot;
        const MergeStrips merge = {
            partial_strips(p, item.first_slot, lane_index), partial_lses(p, item.first_slot, lane_index),
            p.arrivals + item.first_slot * p.lanes + lane_index, partials.goals[i], p.lanes * STRIPS, p.lanes * TILE_ROWS,
            p.lanes, item.slots, strips * share / item.slots, strips * (share + 1) / item.slots, rows};
        if (merge.first == merge.last) continue;
        merge_strips<V_WIDTH, CONSUMERS>(
            merge, memory, barrier, phase++ & 1, threadIdx.x, [&](int local) { return output_row(p, piece, tile, local); },
            p.output, p.lse);
    }
}
