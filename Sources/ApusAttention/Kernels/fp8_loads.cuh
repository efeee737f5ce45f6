// Queries and KV blocks of the FP8 decode kernel. Geometry and layouts: decode_parameters.cuh.
//
// A page of an FP8 cache: [group][token][shared | value] e4m3, then [token][once key] bf16, then [group][token] float32
// scales, which are positive.
//
// A KV block in shared memory: panels of 64 columns of codes, 64 rows of 64 bytes in the 64-byte swizzle; a panel of the
// key kept once, rows of 128 bytes in the 128-byte swizzle; elsewhere the scales. Queries are panels of ROWS rows of
// 128 bytes in the 128-byte swizzle: the shared columns, filled up with zeros, then the key.
//
// Set at compile time, besides what decode_parameters.cuh names: ROWS (16, 32 or 64: query tokens x heads of a tile),
// STAGES, WARPGROUPS (consumers, 2 or 3).
#pragma once

#include "decode_parameters.cuh"

#define TILE_ROWS ROWS
#define CONSUMERS (WARPGROUPS * 128)
#define THREADS (CONSUMERS + 128)
#define RESIDENT 1
#define V_PANELS ((V_WIDTH + 63) / 64)
#define SHARED_PANELS ((SHARED + 63) / 64)
#define RAGGED (V_WIDTH % 64 != 0)
#define WHOLE_BOX (BOXES == 1 && !RAGGED)  // one copy brings all panels
#define RAW_PANEL (BLOCK_N * 64)
#define STAGE_BYTES (V_PANELS * RAW_PANEL + BLOCK_N * 128)
#define SCALE_BYTES (BLOCK_N * 4)
#define QUERY_PANEL (ROWS * 128)
#define QUERY_BYTES ((SHARED_PANELS + 1) * QUERY_PANEL)
#define WEIGHTS_PITCH (ROWS == 64 ? BLOCK_N * 128 : 64)  // from one of a warpgroup's two tiles of weights to the other
#define WEIGHTS_BYTES (ROWS == 64 ? 2 * BLOCK_N * 128 : BLOCK_N * 128)  // of a warpgroup

static_assert(KEY_ONCE && KEY <= 64 && PAGE_SIZE % 8 == 0 && BLOCK_N == 64, "FP8 caches of these kernels");
static_assert(PAGE_SIZE % BOX == 0 && BLOCK_N % BOX == 0, "pages and blocks must nest");
static_assert(ROWS * V_WIDTH <= 64 * 256, "the outputs of a warpgroup");

// Addresses in shared memory.
struct Buffers {
    u32 query, weights, stages, scales;
    u32 full, empty, merge_full;  // barriers
};

#define BARRIERS (2 * STAGES + 1)

__device__ __forceinline__ Buffers prepare_buffers(void *memory, u64 *barriers, const Maps &maps) {
    Buffers b;
    b.query = shared_address(memory);
    b.weights = b.query + QUERY_BYTES;
    b.stages = b.weights + WARPGROUPS * WEIGHTS_BYTES;
    b.scales = b.stages + STAGES * STAGE_BYTES;
    b.full = shared_address(barriers);
    b.empty = b.full + 8 * STAGES;
    b.merge_full = b.empty + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(b.full + 8 * i, 1);
            barrier_init(b.empty + 8 * i, 4);
        }
        barrier_init(b.merge_full, 1);
        barrier_init_fence();
        prefetch_map(maps.rows);
        prefetch_map(maps.key);
    }
    __syncthreads();
    return b;
}

// One warp: the blocks of the pieces from `index` on.
__device__ __forceinline__ void produce_blocks(
    const Decode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int lane
) {
    u32 filled = 0;
    while (index >= 0) {
        const Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        const int group = lane_tile(p, piece, lane_index).x;
        const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
        int token = (piece.last_block - 1) * BLOCK_N + lane * BOX;
        int page = lane < BOXES && token >= 0 && token < piece.length ? table[token / PAGE_SIZE] : -1;
#pragma unroll 1
        for (int block = piece.last_block - 1; block >= piece.first_block; --block) {
            const int below = token - BLOCK_N;
            const int next_page = lane < BOXES && block > piece.first_block ? table[below / PAGE_SIZE] : -1;
            const u32 slot = filled % STAGES, full = b.full + 8 * slot, stage = b.stages + slot * STAGE_BYTES;
            const u32 boxes = __popc(__ballot_sync(0xffffffff, page >= 0));
            barrier_wait(b.empty + 8 * slot, ((filled / STAGES) & 1) ^ 1);
            if (lane == 0) barrier_expect(full, boxes * (BOX * (V_PANELS * 64 + 128 + 4)));
            __syncwarp();
            if (page >= 0) {
                const int in_page = token % PAGE_SIZE;
                const u32 rows = stage + lane * (BOX * 64);
#pragma unroll 1
                for (int panel = 0; panel < (WHOLE_BOX ? 1 : V_PANELS); ++panel)
                    stream_tile_5d(
                        rows + panel * RAW_PANEL, maps.rows, full, RAGGED ? panel * 64 : 0, in_page, RAGGED ? 0 : panel,
                        group, page);
                stream_tile_3d(stage + V_PANELS * RAW_PANEL + lane * (BOX * 128), maps.key, full, 0, in_page, page);
                const char *scales = reinterpret_cast<const char *>(p.cache + page * p.page_elements)
                    + p.groups * PAGE_SIZE * V_WIDTH + PAGE_SIZE * KEY * 2 + (group * PAGE_SIZE + in_page) * 4;
                copy_bulk(b.scales + slot * SCALE_BYTES + lane * (BOX * 4), scales, BOX * 4, full);
            }
            __syncwarp();
            token = below;
            page = next_page;
            ++filled;
        }
        index = piece.next;
    }
}

// The pairs of a panel's 64 columns are kept in the order in which the keys' operand takes them: thread c of four holds
// 16 neighbouring columns, four to a step of 16.
__device__ __forceinline__ u32 query_place(u32 panel, int row, int pair) {
    const int in_thread = pair % 8, place = in_thread / 2 * 8 + pair / 8 + in_thread % 2 * 4;
    return panel + row * 128 + ((place / 4 ^ row % 8) << 4) + place % 4 * 4;
}

// All consumers: a tile's queries.
__device__ __forceinline__ void load_queries(const Decode &p, const Piece &piece, int2 tile, u32 target, int thread) {
    const int rows = p.heads_per_group * p.query_tokens, chunks = (SHARED_PANELS + 1) * 8;
    const bf16_bits *base = p.query + (long long)piece.sequence * p.query_tokens * p.query_heads * Q_WIDTH;
    const int batch = 5;  // loads on their way
#pragma unroll 1
    for (int first = 0; first * CONSUMERS < ROWS * chunks; first += batch) {
        uint4 words[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int task = (first + i) * CONSUMERS + thread, local = task / chunks, column = task % chunks * 8;
            const int row = tile.y * ROWS + local, token = row / p.heads_per_group;
            const int head = tile.x * p.heads_per_group + row - token * p.heads_per_group;
            const int source = column < SHARED ? column : column - SHARED_PANELS * 64 + SHARED;
            const bool exists = local < ROWS && row < rows && source < Q_WIDTH && (column < SHARED || column >= SHARED_PANELS * 64);
            words[i] = exists ? *reinterpret_cast<const uint4 *>(base + ((long long)token * p.query_heads + head) * Q_WIDTH + source)
                              : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int task = (first + i) * CONSUMERS + thread, row = task / chunks, chunk = task % chunks;
            if (row >= ROWS) break;
            const u32 panel = target + chunk / 8 * QUERY_PANEL;
            if (chunk / 8 == SHARED_PANELS) {
                store_shared_16(panel + row * 128 + ((chunk ^ row) % 8 << 4), words[i]);
            } else {
                store_shared_4(query_place(panel, row, chunk % 8 * 4), words[i].x);
                store_shared_4(query_place(panel, row, chunk % 8 * 4 + 1), words[i].y);
                store_shared_4(query_place(panel, row, chunk % 8 * 4 + 2), words[i].z);
                store_shared_4(query_place(panel, row, chunk % 8 * 4 + 3), words[i].w);
            }
        }
    }
}
