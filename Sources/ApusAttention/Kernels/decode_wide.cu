// Decode attention over a paged cache whose output is 257 to 512 wide (MLA): as decode.cu, for outputs too wide for the
// registers of one warpgroup. Geometry and layouts: decode_loads.cuh.
//
// Schedule: a tile of 64 rows. Warpgroup 0 computes the scores and their softmax, and hands the weights (bf16) and the
// factors that the output must take through shared memory to warpgroup 1; each multiplies them with its half of the
// output's columns. P V of block i-1 is issued before Q K^T of block i, so that the buffer of i-1 is refilled while the
// scores and the softmax of block i run: a block is large (72 KiB for MLA's 512 + 64) and only two fit.
//
// Floor: KV bytes over bandwidth, or 2 x rows x tokens x (Q_WIDTH + V_WIDTH) operations over rate.
#include "decode_rows.cuh"

static_assert(VALUE_PARTS == 2 && O_WIDTH % 64 == 0 && WARPGROUPS == 2 && BLOCK_N == 64, "settings of this kernel");

#define WEIGHTS_READY 2
#define WEIGHTS_FREE 3

// What warpgroup 0 hands over: the weights of a block, and per row the factor of the output so far or, after the
// last block, 1 / sum.
struct Handover {
    u32 weights;  // 64 rows of 64 bf16, swizzled
    float *factors;
};

__device__ __forceinline__ void write_weights(const Handover &h, const u32 (&weights)[S_COUNT / 2], int warp, int lane) {
    const int row = warp * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < S_COUNT / 2; ++i)
        store_shared_4(h.weights + (row + i % 2 * 8) * 128 + ((i / 2 ^ row % 8) << 4) + lane % 4 * 4, weights[i]);
}

__device__ __forceinline__ void write_factors(const Handover &h, float2 factors, int warp, int lane) {
    if (lane % 4 == 0) {
        h.factors[warp * 16 + lane / 4] = factors.x;
        h.factors[warp * 16 + lane / 4 + 8] = factors.y;
    }
}

__device__ __forceinline__ float2 read_factors(const Handover &h, int warp, int lane) {
    return {h.factors[warp * 16 + lane / 4], h.factors[warp * 16 + lane / 4 + 8]};
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_wide(
    const __grid_constant__ TensorMap rows_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ Decode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[BARRIERS];
    __shared__ Partials partials;
    __shared__ float factors[64];
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int lane_index = blockIdx.x % p.lanes, index = blockIdx.x / p.lanes;
    const Maps maps = {&rows_map, &key_map, &query_map};
    const Buffers b = prepare_buffers(memory, barriers, maps);
    const Handover handover = {b.stages + STAGES * STAGE_BYTES, factors};
    grid_launch_dependents();
    grid_wait();

    if (warpgroup == WARPGROUPS) {
        registers_shrink<40>();
        produce(p, maps, b, index, lane_index, thread);
        return;
    }
    registers_grow<232>();
    u32 taken = 0;
    int cut = 0;
    float o[O_COUNT];
    Piece piece = load_piece(p.pieces, index);
    if (warpgroup == 0) {
        u32 piece_count = 0;
        float s[S_COUNT];
        u32 weights[S_COUNT / 2];
        u32 tail[4 * TAIL_STEPS];
        if (piece.sequence >= 0) load_tail_queries(p, piece, lane_tile(p, piece, lane_index), 0, warp, lane, tail);
        while (piece.sequence >= 0) {
            const int2 tile = lane_tile(p, piece, lane_index);
            RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
            fetch_split(p, piece, partials, cut);
            barrier_wait(b.query_full, piece_count & 1);
            if (!QUERY_TILES) fence_async_proxy();
            ++piece_count;
            const int2 sees = visible_tokens(p, piece, tile, 0, warp, lane);
            const int all_see = piece.length - p.query_tokens + 1;
            Piece next_piece = piece;
            if (piece.last_block > piece.first_block) {
                int block = piece.last_block - 1;
                u32 stage = b.stages + (taken % STAGES) * STAGE_BYTES;
                wait_block(b, taken);
                const int valid = piece.length - block * BLOCK_N;
                if (valid < BLOCK_N) clear_tail(stage, valid, threadIdx.x);
                mma_fence();
                scores(s, b.query, tail, stage);
                mma_commit();
                mma_wait<0>();
                mma_settle(s);
                int accumulate = 0;
                while (true) {
                    if ((block + 1) * BLOCK_N > all_see)
                        mask_scores(s, {sees.x - block * BLOCK_N, sees.y - block * BLOCK_N}, lane);
                    const float2 factor = softmax_block(s, state, p.scale_log2);
                    pack_weights(weights, s);
                    named_sync(WEIGHTS_FREE, CONSUMERS);
                    write_weights(handover, weights, warp, lane);
                    write_factors(handover, factor, warp, lane);
                    fence_async_proxy();
                    named_arrive(WEIGHTS_READY, CONSUMERS);
                    if (accumulate) rescale(o, factor);
                    if (--block < piece.first_block) break;

                    const u32 next = taken + 1;
                    const u32 next_stage = b.stages + (next % STAGES) * STAGE_BYTES;
                    mma_fence();
                    values(o, weights, stage, accumulate);
                    mma_commit();
                    wait_block(b, next);
                    mma_fence();
                    scores(s, b.query, tail, next_stage);
                    mma_commit();
                    mma_wait<1>();
                    mma_settle(o);
                    if (lane == 0) barrier_arrive(b.empty + 8 * (taken % STAGES));
                    mma_wait<0>();
                    mma_settle(s);
                    accumulate = 1;
                    taken = next;
                    stage = next_stage;
                }
                if (lane == 0) barrier_arrive(b.query_empty);
                mma_fence();
                values(o, weights, stage, accumulate);
                mma_commit();
                next_piece = following(p.pieces, piece);
                mma_wait<0>();
                mma_settle(o);
                if (lane == 0) barrier_arrive(b.empty + 8 * (taken % STAGES));
                ++taken;
            } else {
                if (lane == 0) barrier_arrive(b.query_empty);
                next_piece = following(p.pieces, piece);
#pragma unroll
                for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
            }
            const float2 finished[2] = {finish_row(state, 0), finish_row(state, 1)};
            named_sync(WEIGHTS_FREE, CONSUMERS);
            write_factors(handover, {finished[0].x, finished[1].x}, warp, lane);
            __threadfence_block();
            named_arrive(WEIGHTS_READY, CONSUMERS);
            if (next_piece.sequence >= 0)
                load_tail_queries(p, next_piece, lane_tile(p, next_piece, lane_index), 0, warp, lane, tail);
            write_result(p, piece, tile, lane_index, o, finished, 0, 0, thread);
            if (piece.slot >= 0) announce_partial(p, piece, lane_index, partials, cut++);
            piece = next_piece;
        }
    } else {
        named_arrive(WEIGHTS_FREE, CONSUMERS);
        while (piece.sequence >= 0) {
            const int2 tile = lane_tile(p, piece, lane_index);
            const Piece next_piece = following(p.pieces, piece);
            if (piece.last_block == piece.first_block) {
#pragma unroll
                for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
            }
            int accumulate = 0;
            for (int block = piece.last_block - 1; block >= piece.first_block; --block) {
                const u32 stage = b.stages + (taken % STAGES) * STAGE_BYTES;
                wait_block(b, taken);
                const int valid = piece.length - block * BLOCK_N;
                if (valid < BLOCK_N) clear_tail(stage, valid, threadIdx.x);
                named_sync(WEIGHTS_READY, CONSUMERS);
                if (accumulate) rescale(o, read_factors(handover, warp, lane));
                mma_fence();
                values_shared(o, handover.weights, stage + O_WIDTH / 64 * PANEL_BYTES, accumulate);
                mma_commit();
                mma_wait<0>();
                mma_settle(o);
                if (lane == 0) barrier_arrive(b.empty + 8 * (taken % STAGES));
                named_arrive(WEIGHTS_FREE, CONSUMERS);
                accumulate = 1;
                ++taken;
            }
            named_sync(WEIGHTS_READY, CONSUMERS);
            const float2 inverse = read_factors(handover, warp, lane);
            __threadfence_block();
            named_arrive(WEIGHTS_FREE, CONSUMERS);
            const float2 finished[2] = {{inverse.x, 0.0f}, {inverse.y, 0.0f}};
            write_result(p, piece, tile, lane_index, o, finished, 0, O_WIDTH, thread);
            if (piece.slot >= 0) announce_partial(p, piece, lane_index, partials, cut++);
            piece = next_piece;
        }
    }
    merge_partials(p, b, memory, lane_index, partials, cut);
}
