// Decode attention over an FP8 cache of any CacheGeometry that keeps a key once. Layouts: decode_parameters.cuh,
// fp8_loads.cuh.
//
// Schedule: one producer warp brings blocks of 64 tokens through STAGES buffers. Two or three warpgroups take them by
// turns, each with outputs of its own, so that conversion and softmax of one run under the products of the others. All is
// transposed (fp8_products.cuh): the cache is operand A from registers, queries and weights are operand B. Only weights
// pass through shared memory, between the warps of a warpgroup. At a piece's end the results become one.
//
// A row's maximum would have to be sought over all warps. Instead weights are relative to a reference that stays until a
// score exceeds it by 2^LIMIT; bf16 and float32 have room for such weights. The barrier after the weights says whether
// any did, and then the reference is raised and the block's weights are computed again.
//
// Floor: KV bytes over bandwidth, or 2 x rows x tokens x (Q_WIDTH + V_WIDTH) operations over rate.
#include "fp8_products.cuh"

#include "transposed_rows.cuh"

#define PRODUCER_REGISTERS 24
#define CONSUMER_REGISTERS (WARPGROUPS == 3 ? 160 : 240)
static_assert(QUERY_BYTES + WARPGROUPS * WEIGHTS_BYTES >= 2 * (WARPGROUPS - 1) * GIVEN_BYTES, "the exchange of results");

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_fp8(
    const __grid_constant__ TensorMap rows_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ Decode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[BARRIERS];
    __shared__ Partials partials;
    __shared__ Rows rows;
    __shared__ Piece current;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const Maps maps = {&rows_map, &key_map, &query_map};
    const Buffers b = prepare_buffers(memory, barriers, maps);
    grid_launch_dependents();
    grid_wait();

    if (warpgroup == WARPGROUPS) {
        registers_shrink<PRODUCER_REGISTERS>();
        if (warp == 0) produce_blocks(p, maps, b, blockIdx.x / p.lanes, lane_of_block(p), lane);
        return;
    }
    registers_grow<CONSUMER_REGISTERS>();
    float o[V_PANELS][S_COUNT];
    float s[S_COUNT];
    float sums[ROWS / 4];
    u32 first_number = 0;
    int cut = 0;
    Piece piece = load_piece(p.pieces, blockIdx.x / p.lanes);
    while (piece.sequence >= 0) {
        named_sync(1, CONSUMERS);  // nobody reads any longer what the piece before has left
        load_queries(p, piece, lane_tile(p, piece, lane_of_block(p)), b.query, threadIdx.x);
        start_rows(p, piece, lane_tile(p, piece, lane_of_block(p)), rows, threadIdx.x);
        if (threadIdx.x == 0) current = piece;
        fetch_split(p, piece, partials, cut);
        fence_async_proxy();
        named_sync(1, CONSUMERS);
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel)
#pragma unroll
            for (int i = 0; i < S_COUNT; ++i) o[panel][i] = 0.0f;
#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i) sums[i] = 0.0f;

        u32 number = first_number + warpgroup;
        first_number += piece.last_block - piece.first_block;
        const int all_see = piece.length - p.query_tokens + 1, length = piece.length, first_block = piece.first_block;
        u32 tile = 0;  // of the two tiles of weights
#pragma unroll 1
        for (int block = piece.last_block - 1 - warpgroup; block >= first_block;
             block -= WARPGROUPS, number += WARPGROUPS, tile ^= 1) {
            const u32 slot = number % STAGES, stage = b.stages + slot * STAGE_BYTES;
            // Copies land in any order: the block before in this buffer, another warpgroup's, may still be on its way, and
            // must not be taken for this one.
            if (STAGES % WARPGROUPS != 0 && number >= STAGES)
                barrier_wait(b.empty + 8 * slot, (number / STAGES & 1) ^ 1);
            barrier_wait(b.full + 8 * slot, (number / STAGES) & 1);
            const int token = block * BLOCK_N + warp * 16 + lane / 4;
            const u32 place = b.scales + slot * SCALE_BYTES + (warp * 16 + lane / 4) * 4;
            float2 scales = {load_shared_float(place), load_shared_float(place + 32)};
            if (token >= length) scales.x = 1.0f;  // there it may be anything
            if (token + 8 >= length) scales.y = 1.0f;
            block_scores(s, b.query, stage, scales, warp, lane);
            const float factor[2] = {scales.x * p.scale_log2, scales.y * p.scale_log2};
#pragma unroll
            for (int i = 0; i < S_COUNT; ++i) s[i] *= factor[i / 2 % 2];
            if ((block + 1) * BLOCK_N > all_see) {
#pragma unroll
                for (int i = 0; i < S_COUNT; ++i)
                    if (token + i / 2 % 2 * 8 >= rows.visible[i / 4 * 8 + lane % 4 * 2 + i % 2]) s[i] = -infinity();
            }
            const u32 target = b.weights + warpgroup * WEIGHTS_BYTES;
            while (!block_weights(
                rows, s, sums, scales, target + (ROWS == 64 ? tile * WEIGHTS_PITCH : 0), ROWS == 64 ? 0 : tile * 4,
                warpgroup, warp, lane))
                raise_references(rows, s, o, sums, warpgroup, warp, lane);
            block_values(o, target + tile * WEIGHTS_PITCH, stage, warp, lane);
            if (lane == 0) barrier_arrive(b.empty + 8 * slot);
        }

#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i) {
            float sum = sums[i];
            for (int distance = 4; distance < 32; distance *= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
            if (lane < 4) rows.largest[warpgroup][warp][i / 2 * 8 + lane * 2 + i % 2] = sum;
        }
        named_sync(1, CONSUMERS);
        piece = current;
        const int2 place = lane_tile(p, piece, lane_of_block(p));
        if (threadIdx.x < ROWS) finish_rows(p, piece, place, lane_of_block(p), rows, threadIdx.x);
        named_sync(1, CONSUMERS);
#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i) {
            const float factor = rows.factor[warpgroup][i / 2 * 8 + lane % 4 * 2 + i % 2];
#pragma unroll
            for (int panel = 0; panel < V_PANELS; ++panel) {
                o[panel][i / 2 * 4 + i % 2] *= factor;
                o[panel][i / 2 * 4 + i % 2 + 2] *= factor;
            }
        }
        exchange(o, b.query, warpgroup, thread);
        write_panels(p, piece, place, lane_of_block(p), o, warpgroup, warp, lane);
        if (piece.slot >= 0) announce_partial(p, piece, lane_of_block(p), partials, cut++);
        piece = following(p.pieces, piece);
    }
    merge_partials(p, b.merge_full, memory, lane_of_block(p), partials, cut);
}
