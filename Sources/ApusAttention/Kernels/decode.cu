// Decode attention over a paged cache of any CacheGeometry whose output is at most 256 wide.
// bf16, float32 accumulation. Geometry and layouts: decode_loads.cuh.
//
// Schedule: rows are query tokens x heads of one group, 64 to a consumer warpgroup. The producer brings blocks of
// BLOCK_N tokens through STAGES buffers; each block is read once, what is key and value at once too. Consumers issue
// P V of block i-1, then Q K^T of block i, so that the buffer of i-1 is free early; the softmax of one warpgroup runs
// under the products of the other, which take turns, or under those of the other block on the multiprocessor.
//
// Floor: KV bytes over bandwidth, or 2 x rows x tokens x (Q_WIDTH + V_WIDTH) operations over rate.
#include "decode_rows.cuh"

static_assert(VALUE_PARTS == 1 && !FP8 && STAGES >= 3, "settings of this kernel");

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) decode(
    const __grid_constant__ TensorMap rows_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ Decode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[BARRIERS];
    __shared__ Partials partials;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    Buffers b;
    if (begin(p, {&rows_map, &key_map, &query_map}, memory, barriers, b)) return;
#if WARPGROUPS == 2
    if (warpgroup == 1) named_arrive(2, CONSUMERS);  // the first turn is warpgroup 0's
#endif
    const u32 query = b.query + warpgroup * Q_BYTES;
    u32 taken = 0, piece_count = 0;
    float o[O_COUNT];
    float s[S_COUNT];
    u32 weights[S_COUNT / 2];
    u32 tail[TAIL_COUNT];
    Piece piece = load_piece(p.pieces, blockIdx.x / p.lanes);
    if (piece.sequence >= 0) load_tail_queries(p, piece, lane_tile(p, piece, lane_of_block(p)), warpgroup, warp, lane, tail);
    int cut = 0;
    while (piece.sequence >= 0) {
        const int2 tile = lane_tile(p, piece, lane_of_block(p));
        RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        Piece next_piece = piece;
        fetch_split(p, piece, partials, cut);
        barrier_wait(b.query_full, piece_count & 1);
        if (!QUERY_TILES) fence_async_proxy();
        ++piece_count;
        const int2 sees = visible_tokens(p, piece, tile, warpgroup, warp, lane);
        const int all_see = piece.length - p.query_tokens + 1;

        if (piece.last_block > piece.first_block) {
            int block = piece.last_block - 1;
            const int valid = piece.length - block * BLOCK_N;
            wait_block(b, taken);
            if (valid < BLOCK_N) clear_tail(b, taken, valid, threadIdx.x, CONSUMERS, 1);
            mma_fence();
            score_steps<0, Q_STEPS>(s, query, tail, block_rows(b, taken), 0);
            mma_commit();
            mma_wait<0>();
            mma_settle(s);
            int accumulate = 0;
            scores_to_weights(s, weights, state, p.scale_log2, block, all_see, sees, lane);
            for (--block; block >= piece.first_block; --block) {
                if (WARPGROUPS == 2) named_sync(2 + warpgroup, CONSUMERS);
                mma_fence();
                values(o, weights, block_rows(b, taken), accumulate);
                mma_commit();
                wait_block(b, taken + 1);
                mma_fence();
                score_steps<0, Q_STEPS>(s, query, tail, block_rows(b, taken + 1), 0);
                mma_commit();
                if (WARPGROUPS == 2) named_arrive(3 - warpgroup, CONSUMERS);
                mma_wait<1>();
                mma_settle(o);
                release_block(b, taken, lane);
                mma_wait<0>();
                mma_settle(s);
                ++taken;
                rescale(
                    o, scores_to_weights(s, weights, state, p.scale_log2, block, all_see, sees, lane));
                accumulate = 1;
            }
            if (lane == 0) barrier_arrive(b.query_empty);
            mma_fence();
            values(o, weights, block_rows(b, taken), accumulate);
            mma_commit();
            next_piece = following(p.pieces, piece);
            mma_wait<0>();
            mma_settle(o);
            release_block(b, taken, lane);
            ++taken;
        } else {
            __syncwarp();  // nothing else has kept the warp together since it waited for the queries
            if (lane == 0) barrier_arrive(b.query_empty);
            next_piece = following(p.pieces, piece);
#pragma unroll
            for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
        }
        if (next_piece.sequence >= 0)
            load_tail_queries(p, next_piece, lane_tile(p, next_piece, lane_of_block(p)), warpgroup, warp, lane, tail);
        const float2 finished[2] = {finish_row(state, 0), finish_row(state, 1)};
        write_result(p, piece, tile, lane_of_block(p), o, finished, warpgroup, 0, thread);
        if (piece.slot >= 0) announce_partial(p, piece, lane_of_block(p), partials, cut++);
        piece = next_piece;
    }
    merge_partials(p, b.merge_full, memory, lane_of_block(p), partials, cut);
}
