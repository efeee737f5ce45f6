// The producers of decode_fp8_tall: rows of codes become the bf16 blocks that its consumers multiply with. Included by
// decode_loads.cuh. Pages: fp8_loads.cuh.
//
// The copy engine brings rows into one ring, keys and scales into another. The consumers apply the scales, to float32
// scores and weights, and give keys and scales back.
#pragma once

#include "fp8_codes.cuh"

#define CONVERTERS 128
#define ROW_CHUNKS (V_WIDTH / 16)
#define CONVERTER_ROWS (CONVERTERS / ROW_CHUNKS)  // rows that all converters turn at once

static_assert(KEY_ONCE && PAGE_SIZE % 8 == 0 && RAW_BYTES % 1024 == 0 && PARTS == 1, "FP8 caches of this kernel");
static_assert(CONVERTERS % ROW_CHUNKS == 0 && CONVERTER_ROWS % 8 == 0 && BLOCK_N == 64, "steps of the conversion");

// 16 codes to two pieces of 16 bytes.
__device__ __forceinline__ void convert_codes(uint4 x, u32 first, u32 second) {
    store_shared_16(
        first, {e4m3_pair(spread_bytes<0, 1>(x.x)), e4m3_pair(spread_bytes<2, 3>(x.x)),
                e4m3_pair(spread_bytes<0, 1>(x.y)), e4m3_pair(spread_bytes<2, 3>(x.y))});
    store_shared_16(
        second, {e4m3_pair(spread_bytes<0, 1>(x.z)), e4m3_pair(spread_bytes<2, 3>(x.z)),
                 e4m3_pair(spread_bytes<0, 1>(x.w)), e4m3_pair(spread_bytes<2, 3>(x.w))});
}

__device__ __forceinline__ u32 block_piece(u32 stage, int row, int chunk) {
    return stage + chunk / 8 * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8 << 4);
}

__device__ __forceinline__ void convert_block(u32 raw, u32 stage, int thread) {
    // Eight threads that read or write at once touch all banks: four neighbouring chunks of an even row and four of the
    // next row, which differ in their place modulo 128 bytes. Steps of 8 rows keep the swizzle.
    const int fours = ROW_CHUNKS / 4, pair = thread / 8, odd = thread / 4 % 2;
    const int row = pair / fours * 2 + odd, chunk = ((pair % fours) ^ (fours > 1 ? odd : 0)) * 4 + thread % 4;
    const u32 source = raw + row * V_WIDTH + chunk * 16;
    const u32 first = block_piece(stage, row, chunk * 2), second = block_piece(stage, row, chunk * 2 + 1);
    const int steps = BLOCK_N / CONVERTER_ROWS, batch = 4;
#pragma unroll
    for (int base = 0; base < steps; base += batch) {
        uint4 codes[batch];  // the products keep shared memory busy: its answers take long
#pragma unroll
        for (int i = 0; i < batch; ++i) codes[i] = load_shared_16(source + (base + i) * CONVERTER_ROWS * V_WIDTH);
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int rows = (base + i) * CONVERTER_ROWS * 128;
            convert_codes(codes[i], first + rows, second + rows);
        }
    }
}

// The page of this lane's box of a block, -1 if the lane has none.
__device__ __forceinline__ int raw_page(const int *table, const Piece &piece, int block, int lane) {
    int token = block * BLOCK_N + lane * BOX;
    return lane < BOXES && block >= piece.first_block && token < piece.length ? table[token / PAGE_SIZE] : -1;
}

// The blocks of a piece that one warp has yet to bring.
struct Coming {
    int block;
    u32 number;
    int page;  // of this lane's box
};

// One warp brings the next block, once its buffers are free.
__device__ __forceinline__ void load_raw(
    const Decode &p, const Maps &maps, const Buffers &b, const Piece &piece, const int *table, int group, Coming &coming,
    int lane
) {
    const u32 raw_slot = coming.number % RAW_STAGES, side = coming.number % SIDE_STAGES;
    const u32 raw = b.raw + raw_slot * RAW_BYTES, raw_full = b.raw_full + 8 * raw_slot;
    const u32 key = b.keys + side * SIDE_KEY, side_full = b.side_full + 8 * side;
    barrier_wait(b.side_empty + 8 * side, ((coming.number / SIDE_STAGES) & 1) ^ 1);
    const u32 boxes = __popc(__ballot_sync(0xffffffff, coming.page >= 0));
    if (lane == 0) {
        barrier_expect(raw_full, boxes * (BOX * V_WIDTH));
        barrier_expect(side_full, boxes * (BOX * (128 + 4)));
    }
    __syncwarp();
    if (coming.page >= 0) {
        const int in_page = (coming.block * BLOCK_N + lane * BOX) % PAGE_SIZE;
        stream_tile_5d(raw + lane * (BOX * V_WIDTH), maps.rows, raw_full, 0, in_page, 0, group, coming.page);
        stream_tile_3d(key + lane * (BOX * 128), maps.key, side_full, 0, in_page, coming.page);
        const char *scales = reinterpret_cast<const char *>(p.cache + coming.page * p.page_elements)
            + p.groups * PAGE_SIZE * V_WIDTH + PAGE_SIZE * KEY * 2 + (group * PAGE_SIZE + in_page) * 4;
        copy_bulk(b.scales + side * SIDE_SCALES + lane * (BOX * 4), scales, BOX * 4, side_full);
    }
    __syncwarp();
    --coming.block;
    ++coming.number;
    coming.page = raw_page(table, piece, coming.block, lane);
}

__device__ __forceinline__ void produce(
    const Decode &p, const Maps &maps, const Buffers &b, int index, int lane_index, int thread
) {
    const int warp = thread / 32, lane = thread % 32;
    u32 filled = 0, piece_count = 0;
    while (index >= 0) {
        const Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        const int2 tile = lane_tile(p, piece, lane_index);
        const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
        Coming coming = {piece.last_block - 1, filled, raw_page(table, piece, piece.last_block - 1, lane)};
        if (warp == 0) {
#pragma unroll 1
            while (coming.block >= piece.first_block && coming.number < filled + RAW_STAGES)
                load_raw(p, maps, b, piece, table, tile.x, coming, lane);
        }
        // But for the first piece, the queries' buffer is free later than the first blocks' buffers.
        int until_queries = piece_count == 0 ? 0 : min(STAGES - 1, piece.last_block - piece.first_block);
#pragma unroll 1
        for (int block = piece.last_block - 1; block >= piece.first_block - 1; --block, --until_queries) {
            if (until_queries == 0) {
#if QUERY_TILES
                if (thread == 32) {
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
            const u32 slot = filled % STAGES;
            barrier_wait(b.raw_full + 8 * (filled % RAW_STAGES), (filled / RAW_STAGES) & 1);
            barrier_wait(b.empty + 8 * slot, ((filled / STAGES) & 1) ^ 1);
            convert_block(b.raw + filled % RAW_STAGES * RAW_BYTES, block_rows(b, filled), thread);
            fence_async_proxy();
            barrier_arrive(b.full + 8 * slot);
            named_sync(6, CONVERTERS);  // all have read the codes
            if (warp == 0 && coming.block >= piece.first_block)
                load_raw(p, maps, b, piece, table, tile.x, coming, lane);
            ++filled;
        }
#if QUERY_TILES
        if (thread == 32 && piece.next >= 0) {
            const Piece next = load_piece(p.pieces, piece.next);
            prefetch_queries(p, maps.query, next, lane_tile(p, next, lane_index));
        }
        __syncwarp();
#endif
        index = piece.next;
    }
    copies_commit();
    copies_wait<0>();
}
