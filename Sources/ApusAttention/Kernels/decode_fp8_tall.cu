// Decode attention over an FP8 cache whose output is 256 wide, for tiles of more than 32 rows: as decode_fp8.cu, for
// tiles whose products take longer than the conversion. Layouts: decode_parameters.cuh, fp8_loads.cuh.
//
// Schedule: a tile of 64 rows. The producers turn codes into bf16 blocks (fp8_blocks.cuh); two warpgroups take these by
// turns, each with weights and outputs of its own, so that the softmax of one runs under the products of the other. At a
// piece's end the two results become one, in halves of their columns.
//
// Floor: KV bytes over bandwidth, or 2 x rows x tokens x (Q_WIDTH + V_WIDTH) operations over rate.
#include "decode_rows.cuh"

// The block after the next must come while two are held.
static_assert(FP8 && PARTS == 1 && ROW_GROUPS == 1 && STAGES >= 3, "settings of this kernel");
#define EXCHANGE_BYTES (128 * O_COUNT / 2 * 4)
static_assert(O_COUNT % 32 == 0 && Q_BYTES >= EXCHANGE_BYTES, "the exchange of results");

// Scores times their tokens' scales.
__device__ __forceinline__ void apply_scales(float (&s)[S_COUNT], u32 scales, int lane) {
    scales += lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < S_COUNT / 4; ++i) {
        const float2 x = load_shared_2_floats(scales + i * 32);
        s[4 * i] *= x.x;
        s[4 * i + 1] *= x.y;
        s[4 * i + 2] *= x.x;
        s[4 * i + 3] *= x.y;
    }
}

__device__ __forceinline__ u32 key_block(const Buffers &b, u32 number) {
    return b.keys + number % SIDE_STAGES * SIDE_KEY;
}

__device__ __forceinline__ u32 scale_block(const Buffers &b, u32 number) {
    return b.scales + number % SIDE_STAGES * SIDE_SCALES;
}

// Issues the products of a block's rows.
__device__ __forceinline__ void issue_scores(
    float (&s)[S_COUNT], const Buffers &b, const u32 (&tail)[TAIL_COUNT], u32 number
) {
    mma_fence();
    score_steps<0, SHARED / 16>(s, b.query, tail, block_rows(b, number), 0);
    mma_commit();
}

// Waits for them; they take the tokens' scales before the part of the key kept once joins them, which has none.
__device__ __forceinline__ void finish_scores(
    float (&s)[S_COUNT], const Buffers &b, const u32 (&tail)[TAIL_COUNT], u32 number, int lane
) {
    mma_wait<0>();
    mma_settle(s);
    barrier_wait(b.side_full + 8 * (number % SIDE_STAGES), (number / SIDE_STAGES) & 1);
    apply_scales(s, scale_block(b, number), lane);
    mma_fence();
    score_steps<SHARED / 16, Q_STEPS>(s, b.query, tail, key_block(b, number), 1);
    mma_commit();
    mma_wait<0>();
    mma_settle(s);
}

// Scores to packed weights times scales. Gives key and scales back.
__device__ __forceinline__ float2 block_weights(
    float (&s)[S_COUNT], u32 (&weights)[S_COUNT / 2], RowState &state, const Buffers &b, u32 number, float scale,
    int block, int all_see, int2 sees, int lane
) {
    float2 factor = {1.0f, 1.0f};
    if (sees.x == NO_ROWS) {
#pragma unroll
        for (int i = 0; i < S_COUNT / 2; ++i) weights[i] = 0;
    } else {
        if ((block + 1) * BLOCK_N > all_see) mask_scores(s, {sees.x - block * BLOCK_N, sees.y - block * BLOCK_N}, lane);
        u32 scales = scale_block(b, number) + lane % 4 * 8;
        keep_in_place(scales);
        factor = softmax_block<true>(s, weights, state, scale, [&](int i) { return load_shared_2_floats(scales + i * 32); });
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(b.side_empty + 8 * (number % SIDE_STAGES));
    return factor;
}

// COUNT elements of a thread's results from FIRST on, to shared memory; and added to from there.
template <int FIRST, int COUNT>
__device__ __forceinline__ void give(const float (&o)[O_COUNT], u32 place) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4)
        store_shared_4_floats(place + i * 512, {o[FIRST + i], o[FIRST + i + 1], o[FIRST + i + 2], o[FIRST + i + 3]});
}

template <int FIRST, int COUNT>
__device__ __forceinline__ void take(float (&o)[O_COUNT], u32 place) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        const float4 x = load_shared_4_floats(place + i * 512);
        o[FIRST + i] += x.x;
        o[FIRST + i + 1] += x.y;
        o[FIRST + i + 2] += x.z;
        o[FIRST + i + 3] += x.w;
    }
}

// Of two warpgroups' results of the same rows, relative to the same reference, the first keeps the first half of the
// columns, its own and the other's together, the second the second half. `buffer` is shared memory that the products no
// longer read. In the second round each thread writes where it has just read.
__device__ __forceinline__ void exchange(float (&o)[O_COUNT], u32 buffer, int warpgroup, int thread) {
    const int half = O_COUNT / 2, count = half / 2;
    const u32 first = buffer + thread * 16, second = first + EXCHANGE_BYTES / 2;
    if (warpgroup == 0) give<half, count>(o, first);
    else give<0, count>(o, second);
    named_sync(1, CONSUMERS);
    if (warpgroup == 0) take<0, count>(o, second), give<half + count, count>(o, second);
    else take<half, count>(o, first), give<count, count>(o, first);
    named_sync(1, CONSUMERS);
    if (warpgroup == 0) take<count, count>(o, first);
    else take<half + count, count>(o, second);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_fp8_tall(
    const __grid_constant__ TensorMap rows_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ Decode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[BARRIERS];
    __shared__ Partials partials;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    Buffers b;
    if (begin(p, {&rows_map, &key_map, &query_map}, memory, barriers, b)) return;
    u32 first_number = 0, piece_count = 0;
    float o[O_COUNT];
    float s[S_COUNT];
    u32 weights[S_COUNT / 2];
    u32 tail[TAIL_COUNT];
    Piece piece = load_piece(p.pieces, blockIdx.x / p.lanes);
    if (piece.sequence >= 0) load_tail_queries(p, piece, lane_tile(p, piece, lane_of_block(p)), 0, warp, lane, tail);
    int cut = 0;
    while (piece.sequence >= 0) {
        const int2 tile = lane_tile(p, piece, lane_of_block(p));
        RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        fetch_split(p, piece, partials, cut);
        barrier_wait(b.query_full, piece_count & 1);
        if (!QUERY_TILES) fence_async_proxy();
        ++piece_count;
        const int2 sees = visible_tokens(p, piece, tile, 0, warp, lane);
        const int all_see = piece.length - p.query_tokens + 1;

        int block = piece.last_block - 1 - warpgroup;
        u32 taken = first_number + warpgroup;
        first_number += piece.last_block - piece.first_block;
#pragma unroll
        for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
        if (block >= piece.first_block) {
            const int valid = piece.length - block * BLOCK_N;
            wait_block(b, taken);
            if (valid < BLOCK_N) {
                barrier_wait(b.side_full + 8 * (taken % SIDE_STAGES), (taken / SIDE_STAGES) & 1);
                for (int i = valid + thread; i < BLOCK_N; i += 128) store_shared_4(scale_block(b, taken) + i * 4, 0x3f800000);
                clear_tail(b, taken, valid, thread, 128, 4);
            }
            issue_scores(s, b, tail, taken);
            finish_scores(s, b, tail, taken, lane);
            block_weights(s, weights, state, b, taken, p.scale_log2, block, all_see, sees, lane);
            for (block -= 2; block >= piece.first_block; block -= 2) {
                mma_fence();
                values(o, weights, block_rows(b, taken), 1);
                mma_commit();
                wait_block(b, taken + 2);
                issue_scores(s, b, tail, taken + 2);
                mma_wait<1>();
                mma_settle(o);
                release_block(b, taken, lane);
                taken += 2;
                finish_scores(s, b, tail, taken, lane);
                rescale(
                    o, block_weights(s, weights, state, b, taken, p.scale_log2, block, all_see, sees, lane));
            }
            mma_fence();
            values(o, weights, block_rows(b, taken), 1);
            mma_commit();
            mma_wait<0>();
            mma_settle(o);
            release_block(b, taken, lane);
        }
        const Piece next_piece = following(p.pieces, piece);

        named_sync(1, CONSUMERS);  // both are done with the queries
        float2(&ends)[2][64] = *reinterpret_cast<float2(*)[2][64]>(memory);  // reference and sum of each one's rows
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = state.sum[i] + __shfl_xor_sync(0xffffffff, state.sum[i], 1);
            sum += __shfl_xor_sync(0xffffffff, sum, 2);
            if (lane % 4 == 0) ends[warpgroup][warp * 16 + lane / 4 + i * 8] = make_float2(state.reference[i], sum);
        }
        named_sync(1, CONSUMERS);
        float factor[2];
        float2 finished[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float2 x = ends[0][warp * 16 + lane / 4 + i * 8], y = ends[1][warp * 16 + lane / 4 + i * 8];
            const float reference = fmaxf(x.x, y.x), subtract = reference == -infinity() ? 0.0f : reference;
            factor[i] = exp2_approximate(state.reference[i] - subtract);
            const float total = x.y * exp2_approximate(x.x - subtract) + y.y * exp2_approximate(y.x - subtract);
            finished[i] =
                total > 0.0f ? make_float2(1.0f / total, reference + log2_approximate(total)) : make_float2(0.0f, -infinity());
        }
        named_sync(1, CONSUMERS);
        rescale(o, {factor[0], factor[1]});
        exchange(o, b.query, warpgroup, thread);
        fence_async_proxy();
        __syncwarp();
        if (lane == 0) barrier_arrive(b.query_empty);
        if (next_piece.sequence >= 0)
            load_tail_queries(p, next_piece, lane_tile(p, next_piece, lane_of_block(p)), 0, warp, lane, tail);
        if (warpgroup == 0)
            write_result<0, O_COUNT / 2>(p, piece, tile, lane_of_block(p), o, finished, 0, 0, thread);
        else
            write_result<O_COUNT / 2, O_COUNT / 2>(p, piece, tile, lane_of_block(p), o, finished, 0, O_WIDTH / 2, thread);
        if (piece.slot >= 0) announce_partial(p, piece, lane_of_block(p), partials, cut++);
        piece = next_piece;
    }
    merge_partials(p, b.merge_full, memory, lane_of_block(p), partials, cut);
}
