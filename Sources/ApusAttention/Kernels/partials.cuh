// Partial results of sequences that are cut: announced piece by piece, merged after the last one.
//
// Set before this is included: TILE_ROWS, CONSUMERS (threads), MERGE_BYTES (shared memory of the merge, all that a block
// has by then), MERGE_PARTS (in which the columns of a row are merged one after the other), RESIDENT.
#pragma once

#include "decode_parameters.cuh"

// Weights, then staged partial rows.
#define MERGE_WEIGHTS 2048
static_assert(
    MERGE_BYTES - MERGE_WEIGHTS >= 132 * RESIDENT * (V_WIDTH / MERGE_PARTS) * 4, "shared memory of the merge");

// Where a tile's row lies in the output, in rows.
__device__ __forceinline__ long long output_row(const Decode &p, const Piece &piece, int2 tile, int local) {
    int row = tile.y * TILE_ROWS + local;
    int token = row / p.heads_per_group;
    int head = tile.x * p.heads_per_group + row - token * p.heads_per_group;
    return ((long long)piece.sequence * p.query_tokens + token) * p.query_heads + head;
}

// The cut sequences of this block, at most two; in shared memory.
struct Partials {
    Piece pieces[2];
    SplitItem items[2];
    u32 arrivals[2];
};

// At a piece's start: its split is wanted at the end, when a read would be waited for.
__device__ __forceinline__ void fetch_split(const Decode &p, const Piece &piece, Partials &partials, int number) {
    if (piece.slot >= 0 && threadIdx.x == 0) {
        copy_16(shared_address(&partials.items[number]), p.splits + piece.split, 16);
        copies_commit();
    }
}

// After all consumers have written a partial result: whoever sees the count complete may read them.
__device__ __forceinline__ void announce_partial(
    const Decode &p, const Piece &piece, int lane_index, Partials &partials, int number
) {
    named_sync(1, CONSUMERS);
    if (threadIdx.x == 0) {
        partials.pieces[number] = piece;
        partials.arrivals[number] = add_release(p.arrivals + piece.split * p.lanes + lane_index);
    }
}

// Each contributor of a cut item merges its share of the rows. All blocks of the grid are resident (the grid is no
// larger than the device) and none waits before its own pieces are done.
__device__ __forceinline__ void merge_partials(
    const Decode &p, u32 barrier, unsigned char *memory, int lane_index, Partials &partials, int count
) {
    u32 phase = 0;
    for (int i = 0; i < count; ++i) {
        if (threadIdx.x == 0) {
            copies_wait<0>();
            const int slots = partials.items[i].slots;
            const u32 *arrivals = p.arrivals + partials.pieces[i].split * p.lanes + lane_index;
            const u32 goal = (partials.arrivals[i] / slots + 1) * slots;
            while ((int)(load_acquire(arrivals) - goal) < 0) {}
        }
        named_sync(1, CONSUMERS);
        const Piece piece = partials.pieces[i];
        const SplitItem item = partials.items[i];
        const int2 tile = lane_tile(p, piece, lane_index);
        const int valid = min(TILE_ROWS, p.heads_per_group * p.query_tokens - tile.y * TILE_ROWS);
        const int share = piece.slot - item.first_slot;
        const long long first = ((long long)item.first_slot * p.lanes + lane_index) * TILE_ROWS;
        MergeRows rows = {
            p.partial + first * V_WIDTH, p.partial_lse + first, (long long)p.lanes * TILE_ROWS, item.slots,
            valid * share / item.slots, valid * (share + 1) / item.slots};
        phase = merge_rows<V_WIDTH, MERGE_PARTS, CONSUMERS>(
            rows, reinterpret_cast<float *>(memory), reinterpret_cast<float *>(memory + MERGE_WEIGHTS), MERGE_BYTES - MERGE_WEIGHTS,
            barrier, phase, threadIdx.x, [&](int local) { return output_row(p, piece, tile, local); }, p.output, p.lse);
    }
}
