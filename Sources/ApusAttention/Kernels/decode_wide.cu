// Decode attention over a paged cache whose output is 257 to 512 wide (MLA): as decode.cu, for outputs too wide for the
// registers of one warpgroup. Geometry and layouts: decode_loads.cuh.
//
// Schedule: a tile of 64 rows, KV blocks in pairs. Warpgroup 0 computes the scores of the first block of a pair,
// warpgroup 1 those of the second; each multiplies the weights of both with its half of the output's columns, those of
// its own block from registers and the other's through shared memory. So the softmax of one runs under the products of
// the other. A pair's two blocks fill shared memory (72 KiB each for MLA's 512 + 64); they come and go in halves of their
// columns, each half given back by the warpgroup whose output columns it serves.
//
// What weights are relative to is handed around: from warpgroup 0 with its weights, raised by warpgroup 1 where its
// block asks for it, and back.
//
// Floor: KV bytes over bandwidth, or 2 x rows x tokens x (Q_WIDTH + V_WIDTH) operations over rate.
#include "decode_rows.cuh"

static_assert(PARTS == 2 && O_WIDTH % 64 == 0 && WARPGROUPS == 2 && BLOCK_N == 64 && STAGES == 2, "settings of this kernel");
static_assert(KEY_ONCE && !FP8 && SHARED == V_WIDTH, "geometries of this kernel: latents");

#define FIRST_READY 2   // weights of a pair's first block
#define SECOND_READY 3  // weights of its second
#define SCORES_READY 6  // scores of its first, but for the last products
#define NO_REFERENCE -3e38f  // below every score
#define LAST_STEPS 8  // products of warpgroup 0's scores that may still be on their way when warpgroup 1 begins
// Where a block comes in several copies memory is what is waited for: then warpgroup 1 multiplies the first block's
// weights, and gives its half of it back, before it waits for the second block.
#define LATE_SCORES (GATHER || BOXES > 1)
#define HALF_STEPS (O_WIDTH / 16)

// What a warpgroup hands to the other with the weights of its block.
struct Handover {
    u32 weights;       // 64 rows of 64 bf16, swizzled
    float *reference;  // per row: what the weights are relative to
};

__device__ __forceinline__ void write_rows(float *rows, const float (&values)[2], int warp, int lane) {
    if (lane % 4 == 0) {
        rows[warp * 16 + lane / 4] = values[0];
        rows[warp * 16 + lane / 4 + 8] = values[1];
    }
}

__device__ __forceinline__ void hand_over(
    const Handover &h, const u32 (&weights)[S_COUNT / 2], const RowState &state, int warp, int lane
) {
    // Of 16 rows and 16 columns at once a lane gives the place of a row of 8 columns.
    int row = h.weights + (warp * 16 + lane % 16) * 128;
    keep_in_place(row);
#pragma unroll
    for (int i = 0; i < S_COUNT / 2; i += 4)
        store_matrices(
            row + ((i / 2 + lane / 16 ^ lane % 8) << 4), weights[i], weights[i + 1], weights[i + 2], weights[i + 3]);
    write_rows(h.reference, state.reference, warp, lane);
    fence_async_proxy();
}

// Takes over the other's reference; returns the factors for what this warpgroup has accumulated.
__device__ __forceinline__ float2 take_over(const Handover &h, RowState &state, int warp, int lane) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float reference = h.reference[warp * 16 + lane / 4 + half * 8];
        factor[half] = reference == state.reference[half] ? 1.0f : exp2_approximate(state.reference[half] - reference);
        state.reference[half] = reference;
        state.sum[half] *= factor[half];
    }
    return {factor[0], factor[1]};
}

// The scores of a warpgroup's block. Of its columns that half comes first which has been given back first: warpgroup 1's own
// of a pair's second block. Warpgroup 1 begins when warpgroup 0 is nearly done (`announce`), so that the softmax of one runs
// under the scores of the other.
template <int WARPGROUP>
__device__ __forceinline__ void block_scores(
    float (&s)[S_COUNT], const Buffers &b, const u32 (&tail)[TAIL_COUNT], u32 number, bool announce
) {
    u32 address = b.query;
    keep_in_place(address);  // or the compiler keeps a descriptor for every step over all blocks, and spills
    const u64 query = descriptor_rows(address), keys = descriptor_rows(block_rows(b, number));
    if (WARPGROUP == 0 || LATE_SCORES) {
        const int last = SHARED / 16 - (LATE_SCORES ? 0 : LAST_STEPS);
        wait_block(b, number, 0);
        mma_fence();
        score_products<0, HALF_STEPS>(s, query, tail, keys, 0);
        score_products<SHARED / 16, Q_STEPS>(s, query, tail, keys, 1);
        wait_block(b, number, 1);
        mma_fence();
        score_products<HALF_STEPS, last>(s, query, tail, keys, 1);
        mma_commit();
        if (!LATE_SCORES) {
            score_products<last, SHARED / 16>(s, query, tail, keys, 1);
            mma_commit();
            mma_wait<1>();
            if (announce) named_arrive(SCORES_READY, CONSUMERS);
        }
    } else {
        named_sync(SCORES_READY, CONSUMERS);
        wait_block(b, number, 1);
        mma_fence();
        score_products<HALF_STEPS, SHARED / 16>(s, query, tail, keys, 0);
        wait_block(b, number, 0);
        mma_fence();
        score_products<0, HALF_STEPS>(s, query, tail, keys, 1);
        score_products<SHARED / 16, Q_STEPS>(s, query, tail, keys, 1);
        mma_commit();
    }
    mma_wait<0>();
    mma_settle(s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_wide(
    const __grid_constant__ TensorMap rows_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ Decode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[BARRIERS];
    __shared__ Partials partials;
    __shared__ Piece current[2];  // a copy for each warpgroup: the main loop leaves no registers for it
    __shared__ float references[2][64];
    __shared__ float sums[2][2][64];  // of this piece and the one before it
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    Buffers b;
    if (begin(p, {&rows_map, &key_map, &query_map}, memory, barriers, b)) return;
    const u32 handed = b.stages + STAGES * STAGE_BYTES;
    const Handover mine = {handed + warpgroup * 8192, references[warpgroup]};
    const Handover other = {handed + (1 - warpgroup) * 8192, references[1 - warpgroup]};
    const u32 half = warpgroup * (PART_PANELS * PANEL_BYTES);  // where this warpgroup's columns lie in a block
    u32 taken = 0, counts = 0;  // cut pieces + 4 x pieces: registers are short
    float o[O_COUNT];
    float s[S_COUNT];
    u32 weights[S_COUNT / 2];
    u32 tail[TAIL_COUNT];
    Piece piece = load_piece(p.pieces, blockIdx.x / p.lanes);
    if (piece.sequence >= 0) load_tail_queries(p, piece, lane_tile(p, piece, lane_of_block(p)), 0, warp, lane, tail);
    while (piece.sequence >= 0) {
        const int2 tile = lane_tile(p, piece, lane_of_block(p));
        RowState state = {{NO_REFERENCE, NO_REFERENCE}, {0.0f, 0.0f}};
        if (thread == 0) current[warpgroup] = piece;
        fetch_split(p, piece, partials, counts % 4);
        barrier_wait(b.query_full, counts / 4 & 1);
        if (!QUERY_TILES) fence_async_proxy();
        const int2 sees = visible_tokens(p, piece, tile, 0, warp, lane);
        const int all_see = piece.length - p.query_tokens + 1;
        int accumulate = 0;
        for (int first = piece.last_block - 1; first >= piece.first_block; first -= 2) {
            const bool paired = first > piece.first_block;
            const int block = first - warpgroup;  // the one whose scores this warpgroup computes
            const u32 first_half = block_rows(b, taken) + half;
            const u32 second_half = block_rows(b, taken + 1) + half;
            const int valid = piece.length - first * BLOCK_N;
            if (warpgroup == 0) {
                block_scores<0>(s, b, tail, taken, paired);
                const float2 factor = scores_to_weights(
                    s, weights, state, p.scale_log2, block, all_see, sees, lane);
                hand_over(mine, weights, state, warp, lane);
                named_arrive(FIRST_READY, CONSUMERS);
                if (valid < BLOCK_N) {
                    clear_rows<PART_PANELS>(first_half, valid, thread, 128);
                    fence_async_proxy();
                    named_sync(4, 128);
                }
                if (accumulate) rescale(o, factor);
                mma_fence();
                values(o, weights, first_half, accumulate);
                mma_commit();
                mma_wait<0>();
                mma_settle(o);
                release_block(b, taken, lane, 0);
                if (paired) {
                    named_sync(SECOND_READY, CONSUMERS);
                    rescale(o, take_over(other, state, warp, lane));
                    wait_block(b, taken + 1, 0);
                    mma_fence();
                    values_shared(o, other.weights, second_half, 1);
                    mma_commit();
                    mma_wait<0>();
                    mma_settle(o);
                    release_block(b, taken + 1, lane, 0);
                }
            } else {
                if (paired && !LATE_SCORES) block_scores<1>(s, b, tail, taken + 1, false);
                named_sync(FIRST_READY, CONSUMERS);
                const float2 factor = take_over(other, state, warp, lane);
                if (accumulate) rescale(o, factor);
                wait_block(b, taken, 1);
                if (valid < BLOCK_N) {
                    clear_rows<PART_PANELS>(first_half, valid, thread, 128);
                    fence_async_proxy();
                    named_sync(5, 128);
                }
                mma_fence();
                values_shared(o, other.weights, first_half, accumulate);
                mma_commit();
                if (paired) {
                    if (LATE_SCORES) {
                        mma_wait<0>();
                        mma_settle(o);
                        release_block(b, taken, lane, 1);
                        block_scores<1>(s, b, tail, taken + 1, false);
                    }
                    const float2 own = scores_to_weights(
                        s, weights, state, p.scale_log2, block, all_see, sees, lane);
                    hand_over(mine, weights, state, warp, lane);
                    named_arrive(SECOND_READY, CONSUMERS);
                    // Mostly nothing is rescaled: then these products follow the others without a wait.
                    if (LATE_SCORES) {
                        rescale(o, own);
                    } else if (__any_sync(0xffffffff, own.x != 1.0f || own.y != 1.0f)) {
                        mma_wait<0>();
                        mma_settle(o);
                        rescale(o, own);
                    }
                    mma_fence();
                    values(o, weights, second_half, 1);
                    mma_commit();
                    if (!LATE_SCORES) {
                        mma_wait<1>();
                        release_block(b, taken, lane, 1);
                    }
                    mma_wait<0>();
                    mma_settle(o);
                    release_block(b, taken + 1, lane, 1);
                } else {
                    mma_wait<0>();
                    mma_settle(o);
                    release_block(b, taken, lane, 1);
                }
            }
            accumulate = 1;
            taken += paired ? 2 : 1;
        }
        __syncwarp();  // in an empty piece nothing else has kept the warp together since it waited for the queries
        if (lane == 0) barrier_arrive(b.query_empty);
        named_sync(4 + warpgroup, 128);
        piece = current[warpgroup];
        const Piece next_piece = following(p.pieces, piece);
        if (piece.last_block == piece.first_block) {
#pragma unroll
            for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
        }
        if (next_piece.sequence >= 0)
            load_tail_queries(p, next_piece, lane_tile(p, next_piece, lane_of_block(p)), 0, warp, lane, tail);
        // Each warpgroup knows the sum of its own blocks' weights. Afterwards all of the piece is done by both.
        float sum[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            sum[i] = state.sum[i] + __shfl_xor_sync(0xffffffff, state.sum[i], 1);
            sum[i] += __shfl_xor_sync(0xffffffff, sum[i], 2);
        }
        float (&all)[2][64] = sums[counts / 4 % 2];
        write_rows(all[warpgroup], sum, warp, lane);
        named_sync(1, CONSUMERS);
        float2 finished[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float total = all[0][warp * 16 + lane / 4 + i * 8] + all[1][warp * 16 + lane / 4 + i * 8];
            finished[i] = total > 0.0f ? make_float2(1.0f / total, state.reference[i] + log2_approximate(total))
                                       : make_float2(0.0f, -infinity());
        }
        write_result(p, piece, lane_tile(p, piece, lane_of_block(p)), lane_of_block(p), o, finished, 0, warpgroup * O_WIDTH, thread);
        if (piece.slot >= 0) announce_partial(p, piece, lane_of_block(p), partials, counts++ % 4);
        counts += 4;
        piece = next_piece;
    }
    merge_partials(p, b.merge_full, memory, lane_of_block(p), partials, counts % 4);
}
