// The producers of an FP8 cache: rows that are read as value are kept in e4m3 with one scale per token and group, the
// key kept once in bf16. Included by decode_loads.cuh.
//
// A page: [group][token][shared | value] e4m3, then [token][once key] bf16, then [group][token] float32 scales.
// A scale is a power of two: e4m3 has the same relative precision at any scale, and the conversion is exact. The copy
// engine brings raw blocks into a ring of their own; the producer warps turn them into the bf16 blocks that the
// consumers know. An e4m3 is a bf16 with its exponent 120 too small, so the conversion is a few bit operations and one
// product with scale x 2^120.
#pragma once

#define RAW_ROWS (BLOCK_N * V_WIDTH)
#define RAW_KEY (BLOCK_N * 128)
#define RAW_BYTES (RAW_ROWS + RAW_KEY + 1024)
#define ROW_CHUNKS (V_WIDTH / 16)

static_assert(KEY_ONCE && PAGE_SIZE % 8 == 0 && RAW_ROWS % 1024 == 0 && V_WIDTH <= 256, "FP8 caches of these kernels");

__device__ __forceinline__ u32 e4m3_pair(u32 spread, u32 multiplier) {
    return multiply_bf16(((spread << 4) & 0x07f007f0) | ((spread << 8) & 0x80008000), multiplier);
}

__device__ __forceinline__ void convert_block(u32 raw, u32 stage, int thread) {
#pragma unroll 2
    for (int i = thread; i < BLOCK_N * ROW_CHUNKS; i += 128) {
        const int row = i / ROW_CHUNKS, chunk = i % ROW_CHUNKS * 2;
        const uint4 bytes = load_shared_16(raw + i * 16);
        const float scale = __uint_as_float(load_shared_4(raw + RAW_ROWS + RAW_KEY + row * 4)) * 0x1p120f;
        const u32 multiplier = pack_bf16(scale, scale);
        const u32 target = stage + chunk / 8 * PANEL_BYTES + row * 128;
        store_shared_16(
            target + ((chunk ^ row) % 8 << 4),
            {e4m3_pair(spread_low(bytes.x), multiplier), e4m3_pair(spread_high(bytes.x), multiplier),
             e4m3_pair(spread_low(bytes.y), multiplier), e4m3_pair(spread_high(bytes.y), multiplier)});
        store_shared_16(
            target + (((chunk + 1) ^ row) % 8 << 4),
            {e4m3_pair(spread_low(bytes.z), multiplier), e4m3_pair(spread_high(bytes.z), multiplier),
             e4m3_pair(spread_low(bytes.w), multiplier), e4m3_pair(spread_high(bytes.w), multiplier)});
    }
#pragma unroll 2
    for (int i = thread; i < RAW_KEY / 16; i += 128)
        store_shared_16(stage + ROW_PANELS * PANEL_BYTES + i * 16, load_shared_16(raw + RAW_ROWS + i * 16));
}

// The page of this lane's box of a block, -1 if the lane has none.
__device__ __forceinline__ int raw_page(const int *table, const Piece &piece, int block, int lane) {
    int token = block * BLOCK_N + lane * BOX;
    return lane < BOXES && block >= piece.first_block && token < piece.length ? table[token / PAGE_SIZE] : -1;
}

// One warp brings a raw block.
__device__ __forceinline__ void load_raw(
    const Decode &p, const Maps &maps, int page, int group, int block, u32 raw, u32 barrier, int lane
) {
    const u32 boxes = __popc(__ballot_sync(0xffffffff, page >= 0));
    if (lane == 0) barrier_expect(barrier, boxes * BOX * (V_WIDTH + 128 + 4));
    __syncwarp();
    if (page < 0) return;
    const int in_page = (block * BLOCK_N + lane * BOX) % PAGE_SIZE;
    copy_tile_5d(raw + lane * BOX * V_WIDTH, maps.rows, barrier, 0, in_page, 0, group, page);
    copy_tile_3d(raw + RAW_ROWS + lane * BOX * 128, maps.key, barrier, 0, in_page, page);
    const char *scales = reinterpret_cast<const char *>(p.cache + page * p.page_elements)
        + p.groups * PAGE_SIZE * V_WIDTH + PAGE_SIZE * KEY * 2 + (group * PAGE_SIZE + in_page) * 4;
    copy_bulk(raw + RAW_ROWS + RAW_KEY + lane * BOX * 4, scales, BOX * 4, barrier);
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
        if (warp == 0) {
#pragma unroll 1
            for (int i = 0; i < RAW_STAGES; ++i) {
                const int block = piece.last_block - 1 - i;
                if (block < piece.first_block) break;
                const u32 slot = (filled + i) % RAW_STAGES;
                load_raw(p, maps, raw_page(table, piece, block, lane), tile.x, block, b.raw + slot * RAW_BYTES, b.raw_full + 8 * slot, lane);
            }
        }
#if QUERY_TILES
        if (thread == 32) {
            barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
            load_queries(p, maps.query, piece, tile, b.query, b.query_full);
        }
        __syncwarp();
#else
        barrier_wait(b.query_empty, (piece_count & 1) ^ 1);
        load_queries(p, piece, tile, b.query, thread, 128);
        copies_arrive(b.query_full);
#endif
        ++piece_count;
#pragma unroll 1
        for (int block = piece.last_block - 1; block >= piece.first_block; --block) {
            const int next = block - RAW_STAGES;
            const int next_page = warp == 0 ? raw_page(table, piece, next, lane) : -1;
            const u32 raw_slot = filled % RAW_STAGES, slot = filled % STAGES;
            const u32 raw = b.raw + raw_slot * RAW_BYTES;
            barrier_wait(b.raw_full + 8 * raw_slot, (filled / RAW_STAGES) & 1);
            barrier_wait(b.empty + 8 * slot, ((filled / STAGES) & 1) ^ 1);
            convert_block(raw, b.stages + slot * STAGE_BYTES, thread);
            fence_async_proxy();
            barrier_arrive(b.full + 8 * slot);
            named_sync(4, 128);
            if (warp == 0 && next >= piece.first_block)
                load_raw(p, maps, next_page, tile.x, next, raw, b.raw_full + 8 * raw_slot, lane);
            ++filled;
        }
        index = piece.next;
    }
}
