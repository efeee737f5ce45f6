// The producer warpgroup of the decode kernels that multiply with bf16 blocks: it brings queries and KV blocks. Geometry
// and layouts: decode_parameters.cuh.
//
// A KV block in shared memory is PANELS panels of 64 columns, BLOCK_N rows of 128 bytes each: the rows, then the key
// kept once. It comes and goes in PARTS parts (halves of a wide row; the key kept once belongs to the first). The
// queries of 64 rows are Q_PANELS such panels; their last columns stay in registers where these suffice.
//
// Set at compile time: SHARED, VALUE, KEY (multiples of 16), KEY_ONCE, PAGE_SIZE, BLOCK_N, STAGES, WARPGROUPS
// (consumers, 1 or 2), QUERY_TILES (64 is a multiple of the heads of a group or divides them, so that the copy engine can
// bring the queries), FP8 (an FP8 cache: fp8_blocks.cuh, with RAW_STAGES and SIDE_STAGES; two consumers share one tile).
#pragma once

#include "decode_parameters.cuh"

#ifndef GATHER
#define GATHER (PAGE_SIZE % 8 != 0)
#endif
#ifndef FP8
#define FP8 0
#define RAW_STAGES 0
#define SIDE_STAGES 0
#endif
#ifndef QUERY_TILES
#define QUERY_TILES 1
#endif
#ifndef FEW_ROWS
#define FEW_ROWS 0  // 1: decode_few.cu, whose tile of ROWS rows has all columns of its queries in shared memory
#endif

#define ROW_PANELS ((ROW_WIDTH + 63) / 64)
#define V_PANELS ((V_WIDTH + 63) / 64)
#define PANELS (ROW_PANELS + (KEY_ONCE && !FP8))  // the key of an FP8 cache is read where it arrives
#define PANEL_BYTES (BLOCK_N * 128)
#define STAGE_BYTES (PANELS * PANEL_BYTES)
#if FEW_ROWS
#define Q_PANELS ((Q_WIDTH + 63) / 64)
#define Q_ROWS ROWS  // of a tile of queries
#define VALUE_PARTS 1
#define ROW_GROUPS 1
#define TILE_ROWS ROWS
#else
#define Q_PANELS ((FP8 && Q_WIDTH % 64 == 0 ? Q_WIDTH : Q_WIDTH - 1) / 64)
#define Q_ROWS 64
#define VALUE_PARTS (V_WIDTH > 256 ? 2 : 1)  // warpgroups that share out the columns of one row's output
#define ROW_GROUPS (WARPGROUPS / (FP8 ? 2 : VALUE_PARTS))
#define TILE_ROWS (ROW_GROUPS * 64)
#define TAIL_STEPS ((Q_WIDTH - Q_PANELS * 64) / 16)
#define TAIL_COUNT (TAIL_STEPS > 0 ? 4 * TAIL_STEPS : 1)
#define S_COUNT (BLOCK_N / 2)
#define O_WIDTH (V_WIDTH / VALUE_PARTS)
#define O_COUNT (O_WIDTH / 2)
#endif
#define Q_PITCH (Q_ROWS * 128)
#define Q_BYTES (Q_PANELS * Q_PITCH)
#define PARTS VALUE_PARTS
#define PART_PANELS (ROW_PANELS / PARTS)
#define CONSUMERS (WARPGROUPS * 128)
#define THREADS (CONSUMERS + 128)
#define RAGGED (ROW_WIDTH % 64 != 0)          // the last panel of a row is not full
#define WHOLE_BOX (BOXES == 1 && !RAGGED)     // one copy brings all panels of a part's rows
// Narrow outputs leave room for two blocks on a multiprocessor, whose products and softmax overlap.
#define RESIDENT (V_WIDTH <= 128 && WARPGROUPS == 1 ? 2 : 1)

static_assert(V_WIDTH <= 512 && (!KEY_ONCE || KEY <= 64), "widths of these kernels");
static_assert(GATHER || (PAGE_SIZE % BOX == 0 && BLOCK_N % BOX == 0), "pages and blocks must nest");

// Addresses in shared memory.
struct Buffers {
    u32 query;   // ROW_GROUPS x Q_BYTES
    u32 stages;  // STAGES x STAGE_BYTES
    u32 full, empty;  // barriers of the stages' parts
    u32 query_full, query_empty, merge_full;
    u32 raw, raw_full, keys, scales, side_full, side_empty;  // of an FP8 cache
};

#define RAW_BYTES (BLOCK_N * V_WIDTH)
#define SIDE_KEY (BLOCK_N * 128)   // the key kept once of a block,
#define SIDE_SCALES (BLOCK_N * 4)  // and its scales
#define BARRIERS (2 * STAGES * PARTS + 3 + RAW_STAGES + 2 * SIDE_STAGES)
#define PRODUCER_REGISTERS (FP8 ? 56 : GATHER && PARTS == 1 ? 56 : 40)
// What the producers leave of a block's registers, in the steps that a warpgroup can ask for.
#define BLOCK_REGISTERS (RESIDENT == 2 ? 2 * 128 : 3 * 168)  // what a block is launched with, in warpgroups' registers
#define CONSUMER_REGISTERS ((BLOCK_REGISTERS - PRODUCER_REGISTERS) / WARPGROUPS / 8 * 8)
// Threads that bring queries where the copy engine cannot.
#define QUERY_THREADS (GATHER || FP8 ? 128 : 96)

__device__ __forceinline__ u32 block_rows(const Buffers &b, u32 number) {
    return b.stages + number % STAGES * STAGE_BYTES;
}

__device__ __forceinline__ Buffers prepare_buffers(void *memory, u64 *barriers, const Maps &maps) {
    Buffers b;
    b.query = shared_address(memory);
    b.stages = b.query + ROW_GROUPS * Q_BYTES;
    b.full = shared_address(barriers);
    b.empty = b.full + 8 * STAGES * PARTS;
    b.query_full = b.empty + 8 * STAGES * PARTS;
    b.query_empty = b.query_full + 8;
    b.merge_full = b.query_empty + 8;
    b.raw = b.stages + STAGES * STAGE_BYTES;
    b.keys = b.raw + RAW_STAGES * RAW_BYTES;
    b.scales = b.keys + SIDE_STAGES * SIDE_KEY;
    b.raw_full = b.merge_full + 8;
    b.side_full = b.raw_full + 8 * RAW_STAGES;
    b.side_empty = b.side_full + 8 * SIDE_STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES * PARTS; ++i) {
            barrier_init(b.full + 8 * i, GATHER || FP8 ? 128 : 1);
            barrier_init(b.empty + 8 * i, ROW_GROUPS * 4);
        }
        for (int i = 0; i < RAW_STAGES; ++i) barrier_init(b.raw_full + 8 * i, 1);
        for (int i = 0; i < SIDE_STAGES; ++i) {
            barrier_init(b.side_full + 8 * i, 1);
            barrier_init(b.side_empty + 8 * i, 4);
        }
        barrier_init(b.query_full, QUERY_TILES ? 1 : QUERY_THREADS);
        barrier_init(b.query_empty, WARPGROUPS * 4);
        barrier_init(b.merge_full, 1);
        barrier_init_fence();
        if (QUERY_TILES) prefetch_map(maps.query);
        if (!GATHER) {
            prefetch_map(maps.rows);
            if (KEY_ONCE) prefetch_map(maps.key);
        }
    }
    __syncthreads();
    return b;
}

#if QUERY_TILES
// The 64 query rows of consumer `group`: (head, token of all sequences) of the first.
__device__ __forceinline__ int2 query_place(const Decode &p, const Piece &piece, int2 tile, int group) {
    int row = tile.y * TILE_ROWS + group * 64;
    return {row % p.heads_per_group, piece.sequence * p.query_tokens + row / p.heads_per_group};
}

__device__ __forceinline__ void load_queries(
    const Decode &p, const TensorMap *map, const Piece &piece, int2 tile, u32 target, u32 barrier
) {
    barrier_expect(barrier, ROW_GROUPS * Q_BYTES);
    for (int group = 0; group < ROW_GROUPS; ++group) {
        int2 place = query_place(p, piece, tile, group);
        if (Q_PANELS > 0) copy_tile_5d(target + group * Q_BYTES, map, barrier, 0, place.x, place.y, tile.x, 0);
    }
}

// The next piece's queries into L2, last columns too, before they are wanted: device memory answers late when busy.
__device__ __forceinline__ void prefetch_queries(const Decode &p, const TensorMap *map, const Piece &piece, int2 tile) {
    for (int group = 0; group < ROW_GROUPS; ++group) {
        int2 place = query_place(p, piece, tile, group);
        if (Q_PANELS > 0) prefetch_tile_5d(map, 0, place.x, place.y, tile.x, 0);
        if (Q_PANELS > 0 && TAIL_STEPS == 4) prefetch_tile_5d(map, 0, place.x, place.y, tile.x, Q_PANELS);
    }
}
#else
__device__ __forceinline__ void load_queries(
    const Decode &p, const Piece &piece, int2 tile, u32 target, int thread, int threads
) {
    const int chunks = Q_PANELS > 0 ? Q_PANELS * 8 : 1;
    int rows = p.heads_per_group * p.query_tokens;
    const bf16_bits *base = p.query + (long long)piece.sequence * p.query_tokens * p.query_heads * Q_WIDTH;
#pragma unroll 1
    for (int i = thread; i < TILE_ROWS * Q_PANELS * 8; i += threads) {
        int local = i / chunks, chunk = i % chunks;
        int row = tile.y * TILE_ROWS + local;
        int token = row / p.heads_per_group;
        int head = tile.x * p.heads_per_group + row - token * p.heads_per_group;
        bool valid = row < rows && (!FEW_ROWS || chunk * 8 < Q_WIDTH);
        const bf16_bits *source =
            valid ? base + ((long long)token * p.query_heads + head) * Q_WIDTH + chunk * 8 : p.query;
        int in_group = local % 64;
        u32 address = target + (local / 64) * Q_BYTES + (chunk / 8) * Q_PITCH + in_group * 128
            + (((chunk % 8) ^ (in_group % 8)) << 4);
        copy_16(address, source, valid ? 16 : 0);
    }
}
#endif

#if GATHER
// Pages too small for the copy engine: 16-byte copies by all producer warps, BLOCK_N / 4 rows each. Each lane
// computes where one row lies, its page looked up two blocks ahead, and hands it to the lanes that copy the row.
#define WARP_ROWS (BLOCK_N / 4)
#define GATHER_LAG (FEW_ROWS ? 2 : STAGES - 2)
#define ROW_COPIES (ROW_WIDTH / 8 / PARTS)
#define ROW_LANES (ROW_COPIES <= 8 ? 8 : ROW_COPIES <= 16 || PARTS == 2 ? 16 : 32)  // lanes that copy one part of a row
#define KEY_LANES (KEY / 8 <= 4 ? 4 : 8)
#define GATHER_UNROLL (VALUE_PARTS == 2 ? 1 : RESIDENT == 2 ? 4 : WARPGROUPS == 2 ? 8 : WARP_ROWS)  // as registers allow
#define TABLE_AHEAD 16  // blocks whose part of the page table is in L2 before it is read: device memory answers late

__device__ __forceinline__ int gather_page(const int *table, int length, int block, int warp, int lane) {
    int token = block * BLOCK_N + warp * WARP_ROWS + lane % WARP_ROWS;
    return token >= 0 && token < length ? table[token / PAGE_SIZE] : 0;
}

__device__ __forceinline__ void prefetch_pages(const int *table, const Piece &piece, int block, int warp) {
    if (block >= piece.first_block) prefetch_line(table + (block * BLOCK_N + warp * WARP_ROWS) / PAGE_SIZE);
}

__device__ __forceinline__ void gather_part(
    const Decode &p, int page, int length, int group, int block, int part, u32 stage, int warp, int lane
) {
    if (WARPGROUPS == 2) keep_in_place(lane);  // or the address of every copy is kept over all blocks, and spills
    const int first = block * BLOCK_N + warp * WARP_ROWS;
    const int inside = length - first;  // rows of this warp that exist
    const int in_page = (first + lane % WARP_ROWS) % PAGE_SIZE;
    const bf16_bits *plane = p.cache + page * p.page_elements;
    const u64 row_source = (u64)(plane + (group * PAGE_SIZE + in_page) * ROW_WIDTH + part * (ROW_COPIES * 8));
#if KEY_ONCE
    const u64 key_source = (u64)(plane + p.groups * PAGE_SIZE * ROW_WIDTH + in_page * KEY);
#endif
    const u32 target = stage + warp * (WARP_ROWS * 128);
    const u64 policy = KEY_ONCE && p.lanes > 1 ? READ_AGAIN : READ_ONCE;  // other lanes read the key kept once, too
    {
        const int row_offset = lane / ROW_LANES;
#pragma unroll GATHER_UNROLL
        for (int base = 0; base < WARP_ROWS; base += 32 / ROW_LANES) {
            int row = base + row_offset;
            u64 source = __shfl_sync(0xffffffff, row_source, row);
#pragma unroll
            for (int chunk = lane % ROW_LANES; chunk < ROW_COPIES; chunk += ROW_LANES)
                stream_16(
                    target + part * (PART_PANELS * PANEL_BYTES) + chunk / 8 * PANEL_BYTES + row * 128
                        + ((chunk ^ row) % 8 << 4),
                    (const void *)(source + chunk * 16), row < inside ? 16 : 0, policy);
        }
    }
#if KEY_ONCE
    if (part > 0) return;
    const int chunk = lane % KEY_LANES;
#pragma unroll
    for (int base = 0; base < WARP_ROWS; base += 32 / KEY_LANES) {
        int row = base + lane / KEY_LANES;
        u64 source = __shfl_sync(0xffffffff, key_source, row) + chunk * 16;
        if (chunk < KEY / 8)
            stream_16(
                target + ROW_PANELS * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8 << 4), (const void *)source,
                row < inside ? 16 : 0, policy);
    }
#endif
}
#endif

#if GATHER
// All producer warps: queries and blocks of the pieces from `index` on. A block is handed to the consumers GATHER_LAG
// blocks later, so that many are always on their way. Where there are only two buffers the last copy itself hands it
// over, and the consumers fence.
__device__ __forceinline__ void produce(
    const Decode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    const int warp = thread / 32, lane = thread % 32;
    u32 filled = 0, piece_count = 0;
    while (index >= 0) {
        Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        int2 tile = lane_tile(p, piece, lane_index);
        const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
        if (lane < TABLE_AHEAD) prefetch_pages(table, piece, piece.last_block - 1 - lane, warp);
        int page = gather_page(table, piece.length, piece.last_block - 1, warp, lane);
        int next_page = gather_page(table, piece.length, piece.last_block - 2, warp, lane);
        // But for the first piece, the queries' buffer is free later than the first blocks' buffers.
        int until_queries = piece_count == 0 ? 0 : min(2, piece.last_block - piece.first_block);
#pragma unroll 1
        for (int block = piece.last_block - 1; block >= piece.first_block - 1; --block, --until_queries) {
            if (until_queries == 0) {
#if QUERY_TILES
                // The other warps would wait for a buffer that may have come and gone twice where pieces are empty.
                if (thread == 0) {
                    barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
                    load_queries(p, maps.query, piece, tile, b.query, b.query_full);
                }
                __syncwarp();
#else
                barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
                load_queries(p, piece, tile, b.query, thread, QUERY_THREADS);
                copies_arrive(b.query_full);
#endif
                ++piece_count;
            }
            if (block < piece.first_block) break;
            const u32 slot = filled % STAGES, parity = (filled / STAGES) & 1, stage = b.stages + slot * STAGE_BYTES;
            const int after_next = gather_page(table, piece.length, block - 2, warp, lane);
            if (lane == 0) prefetch_pages(table, piece, block - TABLE_AHEAD, warp);
#pragma unroll 1
            for (int part = 0; part < PARTS; ++part) {
                barrier_wait(b.empty + 8 * (slot * PARTS + part), parity ^ 1);
                gather_part(p, page, piece.length, tile.x, block, part, stage, warp, lane);
                if (GATHER_LAG == 0) copies_arrive(b.full + 8 * (slot * PARTS + part));
            }
            if (GATHER_LAG > 0) {
                copies_commit();
                if (piece.last_block - block > GATHER_LAG) {
                    copies_wait<GATHER_LAG>();
                    fence_async_proxy();
                    barrier_arrive(b.full + 8 * ((filled - GATHER_LAG) % STAGES));
                }
            }
            page = next_page;
            next_page = after_next;
            ++filled;
        }
        if (GATHER_LAG > 0) {
            copies_wait<0>();
            fence_async_proxy();
            for (int i = min(GATHER_LAG, piece.last_block - piece.first_block); i > 0; --i)
                barrier_arrive(b.full + 8 * ((filled - i) % STAGES));
        }
#if QUERY_TILES
        if (thread == 0 && piece.next >= 0) {
            Piece next = load_piece(p.pieces, piece.next);
            prefetch_queries(p, maps.query, next, lane_tile(p, next, lane_index));
        }
#endif
        index = piece.next;
    }
    copies_commit();
    copies_wait<0>();
}
#else
#if FP8
#include "fp8_blocks.cuh"
#else
// One warp: the blocks of the pieces from `index` on.
__device__ __forceinline__ void produce_blocks(
    const Decode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int lane
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
            u32 boxes = __popc(__ballot_sync(0xffffffff, page >= 0));
            for (int turn = 0; turn < PARTS; ++turn) {
                // The second block of a pair is given back in the other order (decode_wide.cu).
                const int part = PARTS == 2 && BOXES == 1 ? turn ^ (piece.last_block - 1 - block) % 2 : turn;
                const bool with_key = KEY_ONCE && part == 0;
                const u32 full = b.full + 8 * (slot * PARTS + part), target = b.stages + slot * STAGE_BYTES;
                barrier_wait(b.empty + 8 * (slot * PARTS + part), parity ^ 1);
                if (lane == 0) barrier_expect(full, boxes * ((PART_PANELS + with_key) * BOX * 128));
                __syncwarp();
                if (page < 0) continue;
                const int first = part * PART_PANELS;
                if (WHOLE_BOX) {
                    stream_tile_5d(target + first * PANEL_BYTES, maps.rows, full, 0, token % PAGE_SIZE, first, tile.x, page);
                } else {
                    // A box of fewer rows than the block cannot hold several panels, nor columns that are not there.
                    for (int panel = first; panel < first + PART_PANELS; ++panel)
                        stream_tile_5d(
                            target + panel * PANEL_BYTES + lane * (BOX * 128), maps.rows, full, RAGGED ? panel * 64 : 0,
                            token % PAGE_SIZE, RAGGED ? 0 : panel, tile.x, page);
                }
                if (with_key)
                    stream_tile_3d(
                        target + ROW_PANELS * PANEL_BYTES + lane * (BOX * 128), maps.key, full, 0, token % PAGE_SIZE, page);
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

// One thread, or QUERY_THREADS where the copy engine cannot bring the queries.
__device__ __forceinline__ void produce_queries(
    const Decode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    u32 piece_count = 0;
    while (index >= 0) {
        Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
#if QUERY_TILES
        load_queries(p, maps.query, piece, lane_tile(p, piece, lane_index), b.query, b.query_full);
#else
        load_queries(p, piece, lane_tile(p, piece, lane_index), b.query, thread - 32, QUERY_THREADS);
        copies_arrive(b.query_full);
#endif
        ++piece_count;
        index = piece.next;
    }
}

__device__ __forceinline__ void produce(
    const Decode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    if (thread < 32) produce_blocks(p, maps, b, index, lane_index, thread);
    else if (!QUERY_TILES || thread == 32) produce_queries(p, maps, b, index, lane_index, thread);
}
#endif
#endif

// What a decode kernel begins with. The producer warpgroup then does all its work here; returns whether it is this one.
// Registers move from it to the consumers, where there are two of these or two blocks on a multiprocessor.
__device__ __forceinline__ bool begin(const Decode &p, const Maps &maps, void *memory, u64 *barriers, Buffers &b) {
    b = prepare_buffers(memory, barriers, maps);
    grid_launch_dependents();
    grid_wait();
    if (threadIdx.x / 128 == WARPGROUPS) {
#if WARPGROUPS == 2 || RESIDENT == 2
        registers_shrink<PRODUCER_REGISTERS>();
#endif
        produce(p, maps, b, blockIdx.x / p.lanes, lane_of_block(p), threadIdx.x % 128);
        return true;
    }
#if WARPGROUPS == 2 || RESIDENT == 2
    registers_grow<CONSUMER_REGISTERS>();
#endif
    return false;
}
