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

#include "partials.cuh"

#define LIMIT 32.0f
#define NO_REFERENCE -3e38f  // below every score
#define PRODUCER_REGISTERS 24
#define CONSUMER_REGISTERS (WARPGROUPS == 3 ? 160 : 240)
#define GIVEN_BYTES (64 * ROWS * 4)  // a panel of a warpgroup's outputs
static_assert(QUERY_BYTES + WARPGROUPS * WEIGHTS_BYTES >= 2 * (WARPGROUPS - 1) * GIVEN_BYTES, "the exchange of results");

// What is known of a tile's rows.
struct Rows {
    int visible[ROWS];                   // tokens that each sees
    float reference[WARPGROUPS][ROWS];   // what each warpgroup's weights are relative to, in powers of two
    float largest[WARPGROUPS][4][ROWS];  // of a block's scores, or the sums of weights, by warps
    float factor[WARPGROUPS][ROWS];      // from each warpgroup's outputs to the piece's
};

__device__ __forceinline__ void start_rows(const Decode &p, const Piece &piece, int2 tile, Rows &rows, int thread) {
    if (thread < ROWS) {
        const int token = (tile.y * ROWS + thread) / p.heads_per_group;
        rows.visible[thread] = min(piece.length - p.query_tokens + 1 + token, piece.length);
    }
    for (int i = thread; i < WARPGROUPS * ROWS; i += CONSUMERS) rows.reference[i / ROWS][i % ROWS] = NO_REFERENCE;
}

// The reference of a warpgroup becomes the largest score seen so far, `s` of this block among them.
__device__ __forceinline__ void raise_references(
    Rows &rows, const float (&s)[S_COUNT], float (&o)[V_PANELS][S_COUNT], float (&sums)[ROWS / 4], int warpgroup, int warp,
    int lane
) {
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        float x = fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + i % 2 + 2]);
        for (int distance = 4; distance < 32; distance *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, distance));
        if (lane < 4) rows.largest[warpgroup][warp][i / 2 * 8 + lane * 2 + i % 2] = x;
    }
    named_sync(2 + warpgroup, 128);
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        const int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
        const float(&largest)[4][ROWS] = rows.largest[warpgroup];
        const float old = rows.reference[warpgroup][row];
        const float raised = fmaxf(
            old, fmaxf(fmaxf(largest[0][row], largest[1][row]), fmaxf(largest[2][row], largest[3][row])));
        const float factor = exp2_approximate(old - raised);
        sums[i] *= factor;
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel) {
            o[panel][i / 2 * 4 + i % 2] *= factor;
            o[panel][i / 2 * 4 + i % 2 + 2] *= factor;
        }
    }
    named_sync(2 + warpgroup, 128);
    const int row = warp * 32 + lane;
    if (row < ROWS) {
        const float(&largest)[4][ROWS] = rows.largest[warpgroup];
        rows.reference[warpgroup][row] = fmaxf(
            rows.reference[warpgroup][row],
            fmaxf(fmaxf(largest[0][row], largest[1][row]), fmaxf(largest[2][row], largest[3][row])));
    }
    named_sync(2 + warpgroup, 128);
}

// Weights of a block's scores, into the tile at `target` of which a row of 128 bytes holds columns from `first` x 8 on.
// Returns whether all weights of all warps are in range; `sums` grows by this thread's weights only then.
__device__ __forceinline__ bool block_weights(
    const Rows &rows, const float (&s)[S_COUNT], float (&sums)[ROWS / 4], float2 scales, u32 target, int first,
    int warpgroup, int warp, int lane
) {
    float largest = -infinity(), added[ROWS / 4];
    const int token = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < ROWS / 16; ++i) {
        u32 words[4];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const float2 reference = *reinterpret_cast<const float2 *>(&rows.reference[warpgroup][(2 * i + k) * 8 + lane % 4 * 2]);
            const float *x = &s[4 * (2 * i + k)];
            const float a = x[0] - reference.x, b = x[1] - reference.y, c = x[2] - reference.x, d = x[3] - reference.y;
            largest = fmaxf(largest, fmaxf(fmaxf(a, b), fmaxf(c, d)));
            const float e = exp2_approximate(a), f = exp2_approximate(b), g = exp2_approximate(c), h = exp2_approximate(d);
            added[4 * i + 2 * k] = sums[4 * i + 2 * k] + (e + g);
            added[4 * i + 2 * k + 1] = sums[4 * i + 2 * k + 1] + (f + h);
            words[2 * k] = pack_bf16(e * scales.x, f * scales.x);
            words[2 * k + 1] = pack_bf16(g * scales.y, h * scales.y);
        }
        store_matrices(
            target + token * 128 + ((first + 2 * i + lane / 16 ^ token % 8) << 4), words[0], words[1], words[2], words[3]);
    }
    fence_async_proxy();
    if (named_sync_any(2 + warpgroup, 128, largest > LIMIT)) return false;
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) sums[i] = added[i];
    return true;
}

// A panel of a thread's outputs to shared memory; and added to from there.
__device__ __forceinline__ void give(const float (&o)[S_COUNT], u32 place) {
#pragma unroll
    for (int i = 0; i < S_COUNT; i += 4) store_shared_4_floats(place + i * 512, {o[i], o[i + 1], o[i + 2], o[i + 3]});
}

__device__ __forceinline__ void take(float (&o)[S_COUNT], u32 place) {
#pragma unroll
    for (int i = 0; i < S_COUNT; i += 4) {
        const float4 x = load_shared_4_floats(place + i * 512);
        o[i] += x.x;
        o[i + 1] += x.y;
        o[i + 2] += x.z;
        o[i + 3] += x.w;
    }
}

// Of the warpgroups' outputs, relative to the same reference, each gets the sums of every WARPGROUPS-th panel. `buffer` is
// shared memory that no product reads any longer; half of it is written while the other half is read.
__device__ __forceinline__ void exchange(float (&o)[V_PANELS][S_COUNT], u32 buffer, int warpgroup, int thread) {
#pragma unroll
    for (int panel = 0; panel < V_PANELS; ++panel) {
        const u32 half = buffer + panel % 2 * ((WARPGROUPS - 1) * GIVEN_BYTES) + thread * 16;
        const int before = (warpgroup + WARPGROUPS - panel % WARPGROUPS) % WARPGROUPS;  // warpgroups from the one that gets it
        if (before > 0) give(o[panel], half + (before - 1) * GIVEN_BYTES);
        named_sync(1, CONSUMERS);
        if (before > 0) continue;
#pragma unroll
        for (int i = 0; i < WARPGROUPS - 1; ++i) take(o[panel], half + i * GIVEN_BYTES);
    }
}

// A warpgroup's panels of the outputs, to the output or, for a cut sequence, among the partial results.
__device__ __forceinline__ void write_panels(
    const Decode &p, const Piece &piece, int2 tile, int lane_index, const float (&o)[V_PANELS][S_COUNT], int warpgroup,
    int warp, int lane
) {
    const int rows = p.heads_per_group * p.query_tokens - tile.y * ROWS;
    const int column = warp * 16 + lane / 4 * 2;
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        const int row = i / 2 * 8 + lane % 4 * 2 + i % 2;
        if (row >= rows) continue;
        // 64 columns further.
        const int step = piece.slot >= 0 ? 2 * STRIP_BYTES : 128;
        char *place = piece.slot >= 0
            ? partial_strips(p, piece.slot, lane_index) + strip_place<V_WIDTH>(row, column)
            : reinterpret_cast<char *>(p.output + output_row(p, piece, tile, row) * V_WIDTH + column);
#pragma unroll
        for (int panel = 0; panel < V_PANELS; ++panel) {
            if (panel % WARPGROUPS != warpgroup || RAGGED && column + panel * 64 >= V_WIDTH) continue;
            *reinterpret_cast<u32 *>(place + panel * step) =
                pack_bf16(o[panel][i / 2 * 4 + i % 2], o[panel][i / 2 * 4 + i % 2 + 2]);
        }
    }
}

// Sums and references of the warpgroups to the factors of their outputs and the log-sum-exp of each row.
__device__ __forceinline__ void finish_rows(
    const Decode &p, const Piece &piece, int2 tile, int lane_index, Rows &rows, int row
) {
    float reference = NO_REFERENCE, sum = 0.0f, factors[WARPGROUPS];
#pragma unroll
    for (int i = 0; i < WARPGROUPS; ++i) reference = fmaxf(reference, rows.reference[i][row]);
#pragma unroll
    for (int i = 0; i < WARPGROUPS; ++i) {
        const float(&x)[4][ROWS] = rows.largest[i];
        factors[i] = exp2_approximate(rows.reference[i][row] - reference);
        sum += ((x[0][row] + x[1][row]) + (x[2][row] + x[3][row])) * factors[i];
    }
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
    for (int i = 0; i < WARPGROUPS; ++i) rows.factor[i][row] = factors[i] * inverse;
    if (row >= p.heads_per_group * p.query_tokens - tile.y * ROWS) return;
    const float lse = sum > 0.0f ? reference + log2_approximate(sum) : -infinity();
    if (piece.slot >= 0) partial_lses(p, piece.slot, lane_index)[row] = lse;
    else p.lse[output_row(p, piece, tile, row)] = lse * 0.69314718055994531f;
}

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
