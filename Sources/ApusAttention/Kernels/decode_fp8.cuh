// The producers of an FP8 cache: rows that are read as value are kept in e4m3 with one scale per token and group, the
// key kept once in bf16. Included by decode_loads.cuh.
//
// A page: [group][token][shared | value] e4m3, then [token][once key] bf16, then [group][token] float32 scales, which
// are positive. The copy engine brings rows into one ring, keys and scales into another. The producer warps turn rows
// into the bf16 blocks that the consumers know, without the scales: an e4m3 is a bf16 whose exponent is 120 too small,
// so that every code is converted exactly by three bit operations and one product a pair. The consumers multiply scores
// and weights with the scales, and give keys and scales back.
#pragma once

#define RAW_BYTES (BLOCK_N * V_WIDTH)
#define SIDE_KEY (BLOCK_N * 128)
#define CONVERTERS 128
#define ROW_CHUNKS (V_WIDTH / 16)
#define CONVERTER_BATCH (WARPGROUPS == 2 || RESIDENT == 2 ? 4 : 8)  // pieces of 16 codes that a thread reads at once
#define CONVERTER_ROWS (CONVERTERS / ROW_CHUNKS)  // rows that all converters turn at once

static_assert(KEY_ONCE && PAGE_SIZE % 8 == 0 && RAW_BYTES % 1024 == 0 && V_WIDTH <= 256, "FP8 caches of these kernels");

// Two codes, each followed by its sign replicated, to two bf16.
__device__ __forceinline__ u32 e4m3_pair(u32 spread) {
    return multiply_bf16((spread << 4) & 0x87f087f0, 0x7b807b80);  // 2^120
}

// 16 codes to two pieces of 16 bytes.
__device__ __forceinline__ void convert_codes(uint4 bytes, u32 first, u32 second) {
    store_shared_16(
        first, {e4m3_pair(spread_low(bytes.x)), e4m3_pair(spread_high(bytes.x)), e4m3_pair(spread_low(bytes.y)),
                e4m3_pair(spread_high(bytes.y))});
    store_shared_16(
        second, {e4m3_pair(spread_low(bytes.z)), e4m3_pair(spread_high(bytes.z)), e4m3_pair(spread_low(bytes.w)),
                 e4m3_pair(spread_high(bytes.w))});
}

__device__ __forceinline__ u32 block_piece(u32 stage, int row, int chunk) {
    return stage + chunk / 8 * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8 << 4);
}

__device__ __forceinline__ void convert_block(u32 raw, u32 stage, int thread) {
#if CONVERTERS % ROW_CHUNKS == 0
    // Eight threads that read or write at once touch all banks: four neighbouring chunks of an even row and four of the
    // next row, which differ in their place modulo 128 bytes. Steps of 8 rows keep the swizzle.
    static_assert(CONVERTER_ROWS % 8 == 0, "steps of the conversion");
    const int fours = ROW_CHUNKS / 4, pair = thread / 8, odd = thread / 4 % 2;
    const int row = pair / fours * 2 + odd, chunk = ((pair % fours) ^ (fours > 1 ? odd : 0)) * 4 + thread % 4;
    const u32 source = raw + row * V_WIDTH + chunk * 16;
    const u32 first = block_piece(stage, row, chunk * 2), second = block_piece(stage, row, chunk * 2 + 1);
    const int steps = BLOCK_N / CONVERTER_ROWS, batch = steps < CONVERTER_BATCH ? steps : CONVERTER_BATCH;
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
#else
    const int tasks = BLOCK_N * ROW_CHUNKS;
    static_assert(tasks % (CONVERTERS * 3) == 0, "steps of the conversion");
#pragma unroll 1
    for (int base = thread; base < tasks; base += CONVERTERS * 3) {
        uint4 codes[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) codes[i] = load_shared_16(raw + (base + i * CONVERTERS) * 16);
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const int row = (base + i * CONVERTERS) / ROW_CHUNKS, chunk = (base + i * CONVERTERS) % ROW_CHUNKS * 2;
            convert_codes(codes[i], block_piece(stage, row, chunk), block_piece(stage, row, chunk + 1));
        }
    }
#endif
}

// The page of this lane's box of a block, -1 if the lane has none.
__device__ __forceinline__ int raw_page(const int *table, const Piece &piece, int block, int lane) {
    int token = block * BLOCK_N + lane * BOX;
    return lane < BOXES && block >= piece.first_block && token < piece.length ? table[token / PAGE_SIZE] : -1;
}

// One warp brings block `number`.
__device__ __forceinline__ void load_raw(
    const Decode &p, const Maps &maps, const Buffers &b, int page, int group, int block, u32 number, int lane
) {
    const u32 raw = b.raw + number % RAW_STAGES * RAW_BYTES, raw_full = b.raw_full + 8 * (number % RAW_STAGES);
    const u32 side = b.side + number % SIDE_STAGES * FP8_SIDE_BYTES, side_full = b.side_full + 8 * (number % SIDE_STAGES);
    barrier_wait(b.side_empty + 8 * (number % SIDE_STAGES), ((number / SIDE_STAGES) & 1) ^ 1);
    const u32 boxes = __popc(__ballot_sync(0xffffffff, page >= 0));
    if (lane == 0) {
        barrier_expect(raw_full, boxes * (BOX * V_WIDTH));
        barrier_expect(side_full, boxes * (BOX * (128 + 4)));
    }
    __syncwarp();
    if (page < 0) return;
    const int in_page = (block * BLOCK_N + lane * BOX) % PAGE_SIZE;
    copy_tile_5d(raw + lane * BOX * V_WIDTH, maps.rows, raw_full, 0, in_page, 0, group, page);
    copy_tile_3d(side + lane * BOX * 128, maps.key, side_full, 0, in_page, page);
    const char *scales = reinterpret_cast<const char *>(p.cache + page * p.page_elements)
        + p.groups * PAGE_SIZE * V_WIDTH + PAGE_SIZE * KEY * 2 + (group * PAGE_SIZE + in_page) * 4;
    copy_bulk(side + SIDE_KEY + lane * BOX * 4, scales, BOX * 4, side_full);
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
                load_raw(p, maps, b, raw_page(table, piece, block, lane), tile.x, block, filled + i, lane);
            }
        }
        // But for the first piece, the queries' buffer is free later than the first block's buffer.
        int until_queries = piece_count == 0 ? 0 : min(1, piece.last_block - piece.first_block);
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
            const int coming = block - RAW_STAGES;
            const int page = warp == 0 ? raw_page(table, piece, coming, lane) : -1;
            const u32 raw_slot = filled % RAW_STAGES, slot = filled % STAGES;
            barrier_wait(b.raw_full + 8 * raw_slot, (filled / RAW_STAGES) & 1);
            barrier_wait(b.empty + 8 * slot, ((filled / STAGES) & 1) ^ 1);
            convert_block(b.raw + raw_slot * RAW_BYTES, b.stages + slot * STAGE_BYTES, thread);
            fence_async_proxy();
            barrier_arrive(b.full + 8 * slot);
            named_sync(6, CONVERTERS);  // all have read the raw rows
            if (warp == 0 && coming >= piece.first_block)
                load_raw(p, maps, b, page, tile.x, coming, filled + RAW_STAGES, lane);
            ++filled;
        }
        index = piece.next;
    }
    copies_commit();
    copies_wait<0>();
}
