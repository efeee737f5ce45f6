// Decode attention over a paged cache of latents for few rows (query tokens x heads of a tile) and pages that are gathered.
// Geometry and layouts: decode_loads.cuh.
//
// Schedule: the producer warps bring blocks of BLOCK_N tokens through STAGES buffers. Two warpgroups take them by turns,
// each with outputs of its own, which become one at a piece's end. All is transposed, as in decode_fp8.cu: scores are
// [token][row], outputs [column][row], the cache is operand A of both products, from shared memory. So 16 rows are 16
// columns of a product instead of a tile of 64 rows, and blocks are soon given back: in decode_wide.cu gathers wait for its
// two larger buffers. Of a product's 64 rows of scores those behind the block are not looked at.
//
// Blocks are handed over in their order, so that a warpgroup does not wait for a buffer that the other has yet to take.
//
// Floor: KV bytes over bandwidth.
#define FEW_ROWS 1
#define ADJACENT 0  // columns of a thread in outputs
#define S_COUNT (ROWS / 2)
#include "decode_loads.cuh"

#include "transposed_rows.cuh"

#define WEIGHTS_PITCH 64               // from one of a warpgroup's two tiles of weights to the other
#define WEIGHTS_BYTES (BLOCK_N * 128)  // of a warpgroup
static_assert(KEY_ONCE && SHARED == V_WIDTH && SHARED % 64 == 0, "geometries of this kernel: latents");
static_assert(GATHER && !QUERY_TILES && WARPGROUPS == 2 && (ROWS == 16 || ROWS == 32), "settings of this kernel");
static_assert(Q_BYTES + WARPGROUPS * WEIGHTS_BYTES >= 2 * GIVEN_BYTES, "the exchange of results");

// S = K Q^T of one block. Two chains of products, which do not wait for each other.
__device__ __forceinline__ void block_scores(float (&s)[S_COUNT], u32 query, u32 stage) {
    float other[S_COUNT];
    keep_in_place(query);
    const u64 a = descriptor_rows(stage), b = descriptor_rows(query);
    mma_fence();
#pragma unroll
    for (int step = 0; step < (SHARED + KEY) / 16; ++step) {
        const int panel = step / 4, in_panel = step % 4 * 2;
        const u64 keys = a + panel * (PANEL_BYTES / 16) + in_panel, queries = b + panel * (Q_PITCH / 16) + in_panel;
        if (step % 2 == 0) Mma<ROWS>::ss(s, keys, queries, step > 0);
        else Mma<ROWS>::ss(other, keys, queries, step > 1);
    }
    mma_commit();
    mma_wait<0>();
    mma_settle(s);
    mma_settle(other);
#pragma unroll
    for (int i = 0; i < S_COUNT; ++i) s[i] += other[i];
}

// O += V^T P^T of one block.
__device__ __forceinline__ void block_values(float (&o)[V_PANELS][S_COUNT], u32 weights, u32 stage) {
    keep_in_place(weights);
    const u64 a = descriptor_columns(stage, PANEL_BYTES), b = descriptor_columns(weights, WEIGHTS_BYTES);
    mma_fence();
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel)
            Mma<ROWS>::ss_transposed(o[panel], a + panel * (PANEL_BYTES / 16) + step * 128, b + step * 128, 1);
    mma_commit();
    mma_wait<0>();
#pragma unroll
    for (int panel = 0; panel < V_PANELS; ++panel) mma_settle(o[panel]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_few(
    const __grid_constant__ TensorMap rows_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ Decode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[BARRIERS];
    __shared__ Partials partials;
    __shared__ Rows rows;
    __shared__ Piece current;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    Buffers b;
    if (begin(p, {&rows_map, &key_map, &query_map}, memory, barriers, b)) return;
    const u32 all_weights = b.stages + STAGES * STAGE_BYTES;
    float o[V_PANELS][S_COUNT];
    float s[S_COUNT];
    float sums[ROWS / 4];
    u32 first_number = 0, piece_count = 0;
    int cut = 0;
    Piece piece = load_piece(p.pieces, blockIdx.x / p.lanes);
    while (piece.sequence >= 0) {
        named_sync(1, CONSUMERS);  // nobody reads any longer what the piece before has left
        start_rows(p, piece, lane_tile(p, piece, lane_of_block(p)), rows, threadIdx.x);
        if (threadIdx.x == 0) current = piece;
        fetch_split(p, piece, partials, cut);
        barrier_wait(b.query_full, piece_count & 1);
        fence_async_proxy();
        ++piece_count;
        named_sync(1, CONSUMERS);
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel)
#pragma unroll
            for (int i = 0; i < S_COUNT; ++i) o[panel][i] = 0.0f;
#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i) sums[i] = 0.0f;

        u32 number = first_number + warpgroup;
        first_number += piece.last_block - piece.first_block;
        const int all_see = piece.length - p.query_tokens + 1, first_block = piece.first_block;
        u32 tile = 0;  // of the two tiles of weights
#pragma unroll 1
        for (int block = piece.last_block - 1 - warpgroup; block >= first_block;
             block -= WARPGROUPS, number += WARPGROUPS, tile ^= 1) {
            const u32 slot = number % STAGES, stage = b.stages + slot * STAGE_BYTES;
            barrier_wait(b.full + 8 * slot, (number / STAGES) & 1);
            block_scores(s, b.query, stage);
#pragma unroll
            for (int i = 0; i < S_COUNT; ++i) s[i] *= p.scale_log2;
            const int token = block * BLOCK_N + warp * 16 + lane / 4;
            if (warp >= TOKEN_WARPS) {
#pragma unroll
                for (int i = 0; i < S_COUNT; ++i) s[i] = -infinity();
            } else if ((block + 1) * BLOCK_N > all_see) {
#pragma unroll
                for (int i = 0; i < S_COUNT; ++i)
                    if (token + i / 2 % 2 * 8 >= rows.visible[i / 4 * 8 + lane % 4 * 2 + i % 2]) s[i] = -infinity();
            }
            const u32 target = all_weights + warpgroup * WEIGHTS_BYTES;
            while (!block_weights(rows, s, sums, {1.0f, 1.0f}, target, tile * 4, warpgroup, warp, lane))
                raise_references(rows, s, o, sums, warpgroup, warp, lane);
            block_values(o, target + tile * WEIGHTS_PITCH, stage);
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
        fence_async_proxy();
        __syncwarp();
        if (lane == 0) barrier_arrive(b.query_empty);
        write_panels(p, piece, place, lane_of_block(p), o, warpgroup, warp, lane);
        if (piece.slot >= 0) announce_partial(p, piece, lane_of_block(p), partials, cut++);
        piece = following(p.pieces, piece);
    }
    merge_partials(p, b.merge_full, memory, lane_of_block(p), partials, cut);
}
