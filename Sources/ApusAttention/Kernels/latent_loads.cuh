// What the latent decode kernels share: parameters, and the producer warpgroup that brings queries and KV blocks.
//
// Layouts (elements):
//   query     [sequence][query token][query head][D_C | D_R], the heads of one latent head adjacent
//   cache     a page: [latent head][token][D_C], then [token][D_R]; read through the two tensor maps (or, with
//             GATHER, by row addresses)
//   output    [sequence][query token][query head][D_C]; lse [sequence][query token][query head], natural log
//   partial   [slot][lane][tile row][D_C] float32, and its lse (base 2) [slot][lane][tile row];
//             merged at the end of the same launch
// Query token t of a sequence of `length` tokens sees tokens before length - query_tokens + t + 1.
//
// A KV block in shared memory is PANELS panels of 64 columns, BLOCK_N rows of 128 bytes each, the last for the
// RoPE key; the queries of 64 rows are C_PANELS such panels.
//
// Set at compile time: D_C (multiple of 64), D_R (multiple of 16, at most 64), PAGE_SIZE, BLOCK_N, STAGES,
// WARPGROUPS (consumers, 1 or 2), QUERY_TILES (64 is a multiple of the heads of a latent head or divides them, so
// that the copy engine can bring the queries).
#pragma once

#include "merge.cuh"
#include "ptx.cuh"
#include "schedule.cuh"

#ifndef BLOCK_N
#define BLOCK_N 64
#endif
#ifndef GATHER
#define GATHER (PAGE_SIZE % 8 != 0)
#endif
#ifndef QUERY_TILES
#define QUERY_TILES 1
#endif
#define C_PANELS (D_C / 64)
#define PANELS (C_PANELS + 1)
#define ROPE_STEPS (D_R / 16)
#define PANEL_BYTES (BLOCK_N * 128)
#define STAGE_BYTES (PANELS * PANEL_BYTES)
#define Q_BYTES (C_PANELS * 64 * 128)  // of 64 rows; the queries' RoPE part stays in registers
#define VALUE_PARTS (D_C > 256 ? 2 : 1)  // warpgroups that share out the columns of one row's output
#define ROW_GROUPS (WARPGROUPS / VALUE_PARTS)
#define CONSUMERS (WARPGROUPS * 128)
#define THREADS (CONSUMERS + 128)
#define TILE_ROWS (ROW_GROUPS * 64)
#define BOX (PAGE_SIZE < BLOCK_N ? PAGE_SIZE : BLOCK_N)
#define BOXES (BLOCK_N / BOX)
#define S_COUNT (BLOCK_N / 2)
#define O_WIDTH (D_C / VALUE_PARTS)
#define O_COUNT (O_WIDTH / 2)

static_assert(D_C % 64 == 0 && D_C <= 512 && D_R % 16 == 0 && D_R <= 64, "widths of these kernels");
static_assert(GATHER || (PAGE_SIZE % BOX == 0 && BLOCK_N % BOX == 0), "pages and blocks must nest");

struct LatentDecode {
    const bf16_bits *query;
    const bf16_bits *cache;
    const int *page_table;  // [sequence][page_stride]
    const Piece *pieces;
    const SplitItem *splits;
    u32 *arrivals;  // [split][lane], multiples of the split's slots between launches
    bf16_bits *output;
    float *lse;
    float *partial;
    float *partial_lse;
    long long page_elements;
    int page_stride;
    int query_tokens;
    int query_heads;
    int heads_per_latent;
    int latent_heads;
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

// (latent head, row tile) of a lane.
__device__ __forceinline__ int2 lane_tile(const LatentDecode &p, const Piece &piece, int lane) {
    int tile = piece.outer * p.lanes + lane;
    return {tile / p.row_tiles, tile % p.row_tiles};
}

struct Maps {
    const TensorMap *latent, *rope, *query;
};

// Addresses in shared memory.
struct Buffers {
    u32 query;   // ROW_GROUPS x Q_BYTES
    u32 stages;  // STAGES x STAGE_BYTES
    u32 full, empty;  // barriers of the stages
    u32 query_full, query_empty, merge_full;
};

#define BARRIERS (2 * STAGES + 3)

__device__ __forceinline__ Buffers prepare_buffers(void *memory, u64 *barriers, const Maps &maps) {
    Buffers b;
    b.query = shared_address(memory);
    b.stages = b.query + ROW_GROUPS * Q_BYTES;
    b.full = shared_address(barriers);
    b.empty = b.full + 8 * STAGES;
    b.query_full = b.empty + 8 * STAGES;
    b.query_empty = b.query_full + 8;
    b.merge_full = b.query_empty + 8;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(b.full + 8 * i, GATHER ? 128 : 1);
            barrier_init(b.empty + 8 * i, WARPGROUPS * 4);
        }
        barrier_init(b.query_full, QUERY_TILES ? 1 : GATHER ? 128 : 96);
        barrier_init(b.query_empty, ROW_GROUPS * 4);
        barrier_init(b.merge_full, 1);
        barrier_init_fence();
        if (QUERY_TILES) prefetch_map(maps.query);
        if (!GATHER) {
            prefetch_map(maps.latent);
            prefetch_map(maps.rope);
        }
    }
    __syncthreads();
    return b;
}

#if QUERY_TILES
// The 64 query rows of consumer `group`: (head, token of all sequences) of the first.
__device__ __forceinline__ int2 query_place(const LatentDecode &p, const Piece &piece, int2 tile, int group) {
    int row = tile.y * TILE_ROWS + group * 64;
    return {row % p.heads_per_latent, piece.sequence * p.query_tokens + row / p.heads_per_latent};
}

__device__ __forceinline__ void load_queries(
    const LatentDecode &p, const TensorMap *map, const Piece &piece, int2 tile, u32 target, u32 barrier
) {
    barrier_expect(barrier, ROW_GROUPS * Q_BYTES);
    for (int group = 0; group < ROW_GROUPS; ++group) {
        int2 place = query_place(p, piece, tile, group);
        copy_tile_5d(target + group * Q_BYTES, map, barrier, 0, place.x, place.y, tile.x, 0);
    }
}

// The next piece's queries into L2, RoPE part too, before they are wanted: device memory answers late when busy.
__device__ __forceinline__ void prefetch_queries(const LatentDecode &p, const TensorMap *map, const Piece &piece, int2 tile) {
    for (int group = 0; group < ROW_GROUPS; ++group) {
        int2 place = query_place(p, piece, tile, group);
        prefetch_tile_5d(map, 0, place.x, place.y, tile.x, 0);
        prefetch_tile_5d(map, 0, place.x, place.y, tile.x, C_PANELS);
    }
}
#else
__device__ __forceinline__ void load_queries(
    const LatentDecode &p, const Piece &piece, int2 tile, u32 target, int thread, int threads
) {
    const int chunks = D_C / 8;
    int rows = p.heads_per_latent * p.query_tokens;
    const bf16_bits *base = p.query + (long long)piece.sequence * p.query_tokens * p.query_heads * (D_C + D_R);
#pragma unroll 1
    for (int i = thread; i < TILE_ROWS * chunks; i += threads) {
        int local = i / chunks, chunk = i % chunks;
        int row = tile.y * TILE_ROWS + local;
        int token = row / p.heads_per_latent;
        int head = tile.x * p.heads_per_latent + row - token * p.heads_per_latent;
        bool valid = row < rows;
        const bf16_bits *source =
            valid ? base + ((long long)token * p.query_heads + head) * (D_C + D_R) + chunk * 8 : p.query;
        int in_group = local % 64;
        u32 address = target + (local / 64) * Q_BYTES + (chunk / 8) * (64 * 128) + in_group * 128
            + (((chunk % 8) ^ (in_group % 8)) << 4);
        copy_16(address, source, valid ? 16 : 0);
    }
}
#endif

#if GATHER
// Pages too small for the copy engine: 16-byte copies by all producer warps, BLOCK_N / 4 rows each. Each lane
// computes where one row lies, its page looked up a block ahead, and hands it to the lanes that copy the row.
#define WARP_ROWS (BLOCK_N / 4)
#define GATHER_LAG (STAGES - 2)
#define ROW_COPIES (D_C / 8)
#define ROW_LANES (ROW_COPIES <= 16 ? 16 : 32)  // lanes that copy one row
#define KEY_LANES (D_R / 8 <= 4 ? 4 : 8)
#define GATHER_UNROLL (WARPGROUPS == 1 ? WARP_ROWS : VALUE_PARTS == 1 ? 8 : 2)  // as registers allow

__device__ __forceinline__ int gather_page(const int *table, int length, int block, int warp, int lane) {
    int token = block * BLOCK_N + warp * WARP_ROWS + lane % WARP_ROWS;
    return token >= 0 && token < length ? table[token / PAGE_SIZE] : 0;
}

__device__ __forceinline__ void gather_block(
    const LatentDecode &p, int page, int length, int latent, int block, u32 stage, int warp, int lane
) {
    const int first = block * BLOCK_N + warp * WARP_ROWS;
    const int inside = length - first;  // rows of this warp that exist
    const int in_page = (first + lane % WARP_ROWS) % PAGE_SIZE;
    const bf16_bits *plane = p.cache + page * p.page_elements;
    const u64 row_source = (u64)(plane + (latent * PAGE_SIZE + in_page) * D_C);
    const u64 key_source = (u64)(plane + p.latent_heads * PAGE_SIZE * D_C + in_page * D_R);
    const u32 target = stage + warp * (WARP_ROWS * 128);
    {
        const int row_offset = lane / ROW_LANES;
#pragma unroll GATHER_UNROLL
        for (int base = 0; base < WARP_ROWS; base += 32 / ROW_LANES) {
            int row = base + row_offset;
            u64 source = __shfl_sync(0xffffffff, row_source, row);
#pragma unroll
            for (int chunk = lane % ROW_LANES; chunk < ROW_COPIES; chunk += ROW_LANES)
                copy_16(
                    target + chunk / 8 * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8 << 4),
                    (const void *)(source + chunk * 16), row < inside ? 16 : 0);
        }
    }
    const int chunk = lane % KEY_LANES;
#pragma unroll
    for (int base = 0; base < WARP_ROWS; base += 32 / KEY_LANES) {
        int row = base + lane / KEY_LANES;
        u64 source = __shfl_sync(0xffffffff, key_source, row) + chunk * 16;
        if (chunk < D_R / 8)
            copy_16(
                target + C_PANELS * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8 << 4), (const void *)source,
                row < inside ? 16 : 0);
    }
}
#endif

#if GATHER
// All producer warps: queries and blocks of the pieces from `index` on.
__device__ __forceinline__ void produce(
    const LatentDecode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    const int warp = thread / 32, lane = thread % 32;
u32 filled = 0, piece_count = 0;
while (index >= 0) {
    Piece piece = load_piece(p.pieces, index);
    if (piece.sequence < 0) break;
    int2 tile = lane_tile(p, piece, lane_index);
    const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
    int page = gather_page(table, piece.length, piece.last_block - 1, warp, lane);
    // But for the first piece, the queries' buffer is free later than the first blocks' buffers.
    int until_queries = piece_count == 0 ? 0 : min(2, piece.last_block - piece.first_block);
#pragma unroll 1
    for (int block = piece.last_block - 1; block >= piece.first_block - 1; --block, --until_queries) {
        if (until_queries == 0) {
            barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
#if QUERY_TILES
            if (thread == 0) load_queries(p, maps.query, piece, tile, b.query, b.query_full);
#else
            load_queries(p, piece, tile, b.query, thread, 128);
            copies_arrive(b.query_full);
#endif
            ++piece_count;
        }
        if (block < piece.first_block) break;
        u32 slot = filled % STAGES, parity = (filled / STAGES) & 1;
        int next_page = gather_page(table, piece.length, block - 1, warp, lane);
        barrier_wait(b.empty + 8 * slot, parity ^ 1);
        gather_block(p, page, piece.length, tile.x, block, b.stages + slot * STAGE_BYTES, warp, lane);
        copies_commit();
        // A block is handed over GATHER_LAG blocks later: that many are always on their way.
        if (piece.last_block - block > GATHER_LAG) {
            copies_wait<GATHER_LAG>();
            fence_async_proxy();
            barrier_arrive(b.full + 8 * ((filled - GATHER_LAG) % STAGES));
        }
        page = next_page;
        ++filled;
    }
    copies_wait<0>();
    fence_async_proxy();
    for (int i = min(GATHER_LAG, piece.last_block - piece.first_block); i > 0; --i)
        barrier_arrive(b.full + 8 * ((filled - i) % STAGES));
#if QUERY_TILES
    if (thread == 0 && piece.next >= 0) {
        Piece next = load_piece(p.pieces, piece.next);
        prefetch_queries(p, maps.query, next, lane_tile(p, next, lane_index));
    }
#endif
    index = piece.next;
}
}
#else
// One warp: the blocks of the pieces from `index` on.
__device__ __forceinline__ void produce_blocks(
    const LatentDecode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int lane
) {
    u32 filled = 0;
    while (index >= 0) {
        Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        int2 tile = lane_tile(p, piece, lane_index);
        const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
        int token = (piece.last_block - 1) * BLOCK_N + lane * BOX;
        int page = lane < BOXES && token >= 0 && token < piece.length ? table[token / PAGE_SIZE] : -1;
#pragma unroll 1
        for (int block = piece.last_block - 1; block >= piece.first_block; --block) {
            int below = token - BLOCK_N;
            int next_page = lane < BOXES && block > piece.first_block ? table[below / PAGE_SIZE] : -1;
            u32 slot = filled % STAGES, parity = (filled / STAGES) & 1;
            barrier_wait(b.empty + 8 * slot, parity ^ 1);
            u32 boxes = __popc(__ballot_sync(0xffffffff, page >= 0));
            if (lane == 0) barrier_expect(b.full + 8 * slot, boxes * (PANELS * BOX * 128));
            __syncwarp();
            if (page >= 0) {
                u32 target = b.stages + slot * STAGE_BYTES;
                if (BOXES == 1) {
                    copy_tile_5d(target, maps.latent, b.full + 8 * slot, 0, token % PAGE_SIZE, 0, tile.x, page);
                } else {
                    // A box of fewer rows than the block cannot hold several panels.
                    for (int panel = 0; panel < C_PANELS; ++panel)
                        copy_tile_5d(
                            target + panel * PANEL_BYTES + lane * (BOX * 128), maps.latent, b.full + 8 * slot, 0,
                            token % PAGE_SIZE, panel, tile.x, page);
                }
                copy_tile_3d(
                    target + C_PANELS * PANEL_BYTES + lane * (BOX * 128), maps.rope, b.full + 8 * slot, 0,
                    token % PAGE_SIZE, page);
            }
            token = below;
            page = next_page;
            ++filled;
        }
#if QUERY_TILES
        if (lane == 0 && piece.next >= 0) {
            Piece next = load_piece(p.pieces, piece.next);
            prefetch_queries(p, maps.query, next, lane_tile(p, next, lane_index));
        }
#endif
        index = piece.next;
    }
}

// One thread, or three warps where the copy engine cannot bring the queries.
__device__ __forceinline__ void produce_queries(
    const LatentDecode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    u32 piece_count = 0;
    while (index >= 0) {
        Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
#if QUERY_TILES
        load_queries(p, maps.query, piece, lane_tile(p, piece, lane_index), b.query, b.query_full);
#else
        load_queries(p, piece, lane_tile(p, piece, lane_index), b.query, thread - 32, 96);
        copies_arrive(b.query_full);
#endif
        ++piece_count;
        index = piece.next;
    }
}

__device__ __forceinline__ void produce(
    const LatentDecode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    if (thread < 32) produce_blocks(p, maps, b, index, lane_index, thread);
    else if (!QUERY_TILES || thread == 32) produce_queries(p, maps, b, index, lane_index, thread);
}
#endif

