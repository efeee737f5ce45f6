// Decode attention over a paged latent cache (MLA, GLA): S = q_c c^T + q_R k_R^T, O = softmax(scale S) c.
//
// One latent c of width D_C per token and latent head is key and value at once; one RoPE key of width D_R per
// token serves all latent heads. All bf16, float32 accumulation.
//
// Layouts (elements):
//   query     [sequence][query token][query head][D_C | D_R], the heads of one latent head adjacent
//   cache     a page: [latent head][token][D_C], then [token][D_R]; read through the two tensor maps (or, with
//             GATHER, by row addresses)
//   output    [sequence][query token][query head][D_C]; lse [sequence][query token][query head], natural log
//   partial   [slot][lane][tile row][D_C] float32, and its lse (base 2) [slot][lane][tile row];
//             merged at the end of the same launch
// Query token t of a sequence of `length` tokens sees tokens before length - query_tokens + t + 1.
//
// Schedule: rows are query tokens x heads of one latent head, 64 to a consumer warpgroup. A producer warp
// brings blocks of BLOCK_N tokens through STAGES shared-memory buffers; each block is read from device memory
// once and is K and V of both products. Consumers issue Q K^T of block i, then P V of block i-1, and take the
// softmax of block i while P V runs. The other producer warps bring the next piece's queries.
//
// Floor: KV bytes over bandwidth or 2 x rows x tokens x (2 D_C + D_R) operations over rate (gpu-latent-decode.md).
//
// Set at compile time: D_C (multiple of 64, at most 256), D_R (multiple of 16, at most 64), PAGE_SIZE, BLOCK_N,
// STAGES, WARPGROUPS (consumers, 1 or 2), QUERY_TILES (64 is a multiple of the heads of a latent head or divides
// them, so that the copy engine can bring the queries).
#include "merge.cuh"
#include "ptx.cuh"
#include "schedule.cuh"

#ifndef BLOCK_N
#define BLOCK_N 64
#endif
#ifndef GATHER
#define GATHER (PAGE_SIZE % 8 != 0)
#endif
#ifndef QUERY_TILES
#define QUERY_TILES 1
#endif
// 1: P V of a block is issued before Q K^T of the next, and its buffer is free early; the other warpgroup's
// products cover the softmax. 0: Q K^T first, and P V covers the softmax.
#ifndef VALUES_FIRST
#define VALUES_FIRST 1
#endif
// 1: the warpgroups take turns in issuing their products.
#ifndef TURNS
#define TURNS (WARPGROUPS == 2)
#endif

#define C_PANELS (D_C / 64)
#define PANELS (C_PANELS + 1)
#define ROPE_STEPS (D_R / 16)
#define PANEL_BYTES (BLOCK_N * 128)
#define STAGE_BYTES (PANELS * PANEL_BYTES)
#define Q_BYTES (C_PANELS * 64 * 128)  // the queries' RoPE part stays in registers
#define CONSUMERS (WARPGROUPS * 128)
#define THREADS (CONSUMERS + 128)
#define TILE_ROWS (WARPGROUPS * 64)
#define BOX (PAGE_SIZE < BLOCK_N ? PAGE_SIZE : BLOCK_N)
#define BOXES (BLOCK_N / BOX)
#define S_COUNT (BLOCK_N / 2)
#define O_COUNT (D_C / 2)

// Rescaling waits until a row's maximum has grown by this many powers of two.
#define RESCALE_THRESHOLD 8.0f

static_assert(D_C % 64 == 0 && D_C <= 256 && D_R % 16 == 0 && D_R <= 64, "widths of this kernel");
// After the last piece all of shared memory serves the merge: weights, then staged partial rows.
#define MERGE_WEIGHTS 2048
#define MERGE_BYTES (WARPGROUPS * Q_BYTES + STAGES * STAGE_BYTES - MERGE_WEIGHTS)
static_assert(STAGES >= 3 && MERGE_BYTES >= 132 * D_C * 4, "shared memory of the pipeline and of the merge");
static_assert(GATHER || (PAGE_SIZE % BOX == 0 && BLOCK_N % BOX == 0), "pages and blocks must nest");

struct LatentDecode {
    const bf16_bits *query;
    const bf16_bits *cache;
    const int *page_table;  // [sequence][page_stride]
    const Piece *pieces;
    const SplitItem *splits;
    u32 *arrivals;  // [split][lane], multiples of the split's slots between launches
    bf16_bits *output;
    float *lse;
    float *partial;
    float *partial_lse;
    long long page_elements;
    int page_stride;
    int query_tokens;
    int query_heads;
    int heads_per_latent;
    int latent_heads;
    int lanes;
    int row_tiles;
    float scale_log2;  // scale x log2(e)
};

__device__ __forceinline__ Piece load_piece(const Piece *pieces, int index) {
    const int4 *words = reinterpret_cast<const int4 *>(pieces + index);
    int4 a = words[0], b = words[1];
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

__device__ __forceinline__ Piece following(const Piece *pieces, const Piece &piece) {
    if (piece.next >= 0) return load_piece(pieces, piece.next);
    return {-1, 0, 0, 0, 0, -1, -1, 0};
}

// (latent head, row tile) of a lane.
__device__ __forceinline__ int2 lane_tile(const LatentDecode &p, const Piece &piece, int lane) {
    int tile = piece.outer * p.lanes + lane;
    return {tile / p.row_tiles, tile % p.row_tiles};
}

#if QUERY_TILES
// The 64 query rows of consumer `group`: (head, token of all sequences) of the first.
__device__ __forceinline__ int2 query_place(const LatentDecode &p, const Piece &piece, int2 tile, int group) {
    int row = tile.y * TILE_ROWS + group * 64;
    return {row % p.heads_per_latent, piece.sequence * p.query_tokens + row / p.heads_per_latent};
}

__device__ __forceinline__ void load_queries(
    const LatentDecode &p, const TensorMap *map, const Piece &piece, int2 tile, u32 target, u32 barrier
) {
    barrier_expect(barrier, WARPGROUPS * Q_BYTES);
    for (int group = 0; group < WARPGROUPS; ++group) {
        int2 place = query_place(p, piece, tile, group);
        copy_tile_5d(target + group * Q_BYTES, map, barrier, 0, place.x, place.y, tile.x, 0);
    }
}

// The next piece's queries into L2, RoPE part too, before they are wanted: device memory answers late when busy.
__device__ __forceinline__ void prefetch_queries(const LatentDecode &p, const TensorMap *map, const Piece &piece, int2 tile) {
    for (int group = 0; group < WARPGROUPS; ++group) {
        int2 place = query_place(p, piece, tile, group);
        prefetch_tile_5d(map, 0, place.x, place.y, tile.x, 0);
        prefetch_tile_5d(map, 0, place.x, place.y, tile.x, C_PANELS);
    }
}
#else
__device__ __forceinline__ void load_queries(
    const LatentDecode &p, const Piece &piece, int2 tile, u32 target, int thread, int threads
) {
    const int chunks = D_C / 8;
    int rows = p.heads_per_latent * p.query_tokens;
    const bf16_bits *base = p.query + (long long)piece.sequence * p.query_tokens * p.query_heads * (D_C + D_R);
#pragma unroll 1
    for (int i = thread; i < TILE_ROWS * chunks; i += threads) {
        int local = i / chunks, chunk = i % chunks;
        int row = tile.y * TILE_ROWS + local;
        int token = row / p.heads_per_latent;
        int head = tile.x * p.heads_per_latent + row - token * p.heads_per_latent;
        bool valid = row < rows;
        const bf16_bits *source =
            valid ? base + ((long long)token * p.query_heads + head) * (D_C + D_R) + chunk * 8 : p.query;
        int in_group = local % 64;
        u32 address = target + (local / 64) * Q_BYTES + (chunk / 8) * (64 * 128) + in_group * 128
            + (((chunk % 8) ^ (in_group % 8)) << 4);
        copy_16(address, source, valid ? 16 : 0);
    }
}
#endif

#if GATHER
// Pages too small for the copy engine: 16-byte copies by all producer warps, BLOCK_N / 4 rows each. Each lane
// computes where one row lies, its page looked up a block ahead, and hands it to the lanes that copy the row.
#define WARP_ROWS (BLOCK_N / 4)
#define GATHER_LAG (STAGES - 2)
#define ROW_COPIES (D_C / 8)
#define ROW_LANES (ROW_COPIES <= 16 ? 16 : 32)  // lanes that copy one row
#define KEY_LANES (D_R / 8 <= 4 ? 4 : 8)

__device__ __forceinline__ int gather_page(const int *table, int length, int block, int warp, int lane) {
    int token = block * BLOCK_N + warp * WARP_ROWS + lane % WARP_ROWS;
    return token >= 0 && token < length ? table[token / PAGE_SIZE] : 0;
}

__device__ __forceinline__ void gather_block(
    const LatentDecode &p, int page, int length, int latent, int block, u32 stage, int warp, int lane
) {
    const int first = block * BLOCK_N + warp * WARP_ROWS;
    const int inside = length - first;  // rows of this warp that exist
    const int in_page = (first + lane % WARP_ROWS) % PAGE_SIZE;
    const bf16_bits *plane = p.cache + page * p.page_elements;
    const u64 row_source = (u64)(plane + (latent * PAGE_SIZE + in_page) * D_C);
    const u64 key_source = (u64)(plane + p.latent_heads * PAGE_SIZE * D_C + in_page * D_R);
    const u32 target = stage + warp * (WARP_ROWS * 128);
    {
        const int chunk = lane % ROW_LANES, row_offset = lane / ROW_LANES;
        const u32 column = target + chunk / 8 * PANEL_BYTES;
#pragma unroll WARPGROUPS == 1 ? WARP_ROWS : 8
        for (int base = 0; base < WARP_ROWS; base += 32 / ROW_LANES) {
            int row = base + row_offset;
            u64 source = __shfl_sync(0xffffffff, row_source, row) + chunk * 16;
            if (chunk < ROW_COPIES)
                copy_16(column + row * 128 + ((chunk ^ row) % 8 << 4), (const void *)source, row < inside ? 16 : 0);
        }
    }
    const int chunk = lane % KEY_LANES;
#pragma unroll
    for (int base = 0; base < WARP_ROWS; base += 32 / KEY_LANES) {
        int row = base + lane / KEY_LANES;
        u64 source = __shfl_sync(0xffffffff, key_source, row) + chunk * 16;
        if (chunk < D_R / 8)
            copy_16(
                target + C_PANELS * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8 << 4), (const void *)source,
                row < inside ? 16 : 0);
    }
}
#endif

// The RoPE part of this thread's two query rows, as the operand A of ROPE_STEPS products.
__device__ __forceinline__ void load_rope_queries(
    const LatentDecode &p, const Piece &piece, int2 tile, int group, int warp, int lane, u32 (&rope)[4 * ROPE_STEPS]
) {
    int rows = p.heads_per_latent * p.query_tokens;
    const bf16_bits *base =
        p.query + (long long)piece.sequence * p.query_tokens * p.query_heads * (D_C + D_R) + D_C + (lane % 4) * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = tile.y * TILE_ROWS + group * 64 + warp * 16 + lane / 4 + half * 8;
        int token = row / p.heads_per_latent;
        int head = tile.x * p.heads_per_latent + row - token * p.heads_per_latent;
        const bf16_bits *source = base + ((long long)token * p.query_heads + head) * (D_C + D_R);
#pragma unroll
        for (int i = 0; i < 2 * ROPE_STEPS; ++i)
            rope[4 * (i / 2) + 2 * (i % 2) + half] = row < rows ? *reinterpret_cast<const u32 *>(source + i * 8) : 0;
    }
}

// S = Q K^T for one block.
__device__ __forceinline__ void scores(float (&s)[S_COUNT], u32 query, const u32 (&rope)[4 * ROPE_STEPS], u32 stage) {
    u64 a = descriptor_rows(query), b = descriptor_rows(stage);
#pragma unroll
    for (int panel = 0; panel < C_PANELS; ++panel) {
#pragma unroll
        for (int step = 0; step < 4; ++step)
            Mma<BLOCK_N>::ss(
                s, a + panel * (64 * 128 / 16) + step * 2, b + panel * (PANEL_BYTES / 16) + step * 2, panel + step > 0);
    }
#pragma unroll
    for (int step = 0; step < ROPE_STEPS; ++step)
        Mma<BLOCK_N>::rs(
            s, rope[4 * step], rope[4 * step + 1], rope[4 * step + 2], rope[4 * step + 3],
            b + C_PANELS * (PANEL_BYTES / 16) + step * 2, 1);
}

// O (+)= P V for one block; V is the latent part of the block.
__device__ __forceinline__ void values(float (&o)[O_COUNT], const u32 (&weights)[S_COUNT / 2], u32 stage, int accumulate) {
    u64 b = descriptor_columns(stage, PANEL_BYTES);
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
        Mma<D_C>::rs_columns(
            o, weights[4 * step], weights[4 * step + 1], weights[4 * step + 2], weights[4 * step + 3], b + step * 128,
            step > 0 ? 1 : accumulate);
}

struct RowState {
    float reference[2];  // what the weights are relative to, in powers of two
    float sum[2];        // this thread's share of the row's weights
};

// Scores to unnormalised weights, in place. Returns the factors that what was accumulated so far must take.
__device__ __forceinline__ float2 softmax_block(float (&s)[S_COUNT], RowState &state, float scale) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float largest = s[2 * half];
#pragma unroll
        for (int i = 0; i < S_COUNT / 4; ++i) largest = fmaxf(largest, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2)) * scale;
        float old = state.reference[half];
        bool grown = largest > old + RESCALE_THRESHOLD;
        float reference = grown ? largest : old;
        factor[half] = grown ? exp2_approximate(old - reference) : 1.0f;
        state.reference[half] = reference;
        float subtract = reference == -infinity() ? 0.0f : reference;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < S_COUNT / 4; ++i) {
            float x = exp2_approximate(fmaf(s[4 * i + 2 * half], scale, -subtract));
            float y = exp2_approximate(fmaf(s[4 * i + 2 * half + 1], scale, -subtract));
            s[4 * i + 2 * half] = x;
            s[4 * i + 2 * half + 1] = y;
            sum += x + y;
        }
        state.sum[half] = state.sum[half] * factor[half] + sum;
    }
    return {factor[0], factor[1]};
}

__device__ __forceinline__ void pack_weights(u32 (&weights)[S_COUNT / 2], const float (&s)[S_COUNT]) {
#pragma unroll
    for (int i = 0; i < S_COUNT / 2; ++i) weights[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

__device__ __forceinline__ void rescale(float (&o)[O_COUNT], float2 factor) {
    if (__any_sync(0xffffffff, factor.x != 1.0f || factor.y != 1.0f)) {
#pragma unroll
        for (int i = 0; i < O_COUNT / 4; ++i) {
            o[4 * i] *= factor.x;
            o[4 * i + 1] *= factor.x;
            o[4 * i + 2] *= factor.y;
            o[4 * i + 3] *= factor.y;
        }
    }
}

// Tokens from `visible` on (relative to the block) take no part.
__device__ __forceinline__ void mask_scores(float (&s)[S_COUNT], int2 visible, int lane) {
#pragma unroll
    for (int i = 0; i < S_COUNT / 4; ++i) {
        int column = i * 8 + (lane % 4) * 2;
        if (column >= visible.x) s[4 * i] = -infinity();
        if (column + 1 >= visible.x) s[4 * i + 1] = -infinity();
        if (column >= visible.y) s[4 * i + 2] = -infinity();
        if (column + 1 >= visible.y) s[4 * i + 3] = -infinity();
    }
}

// The rows of the last block behind the sequence's end may hold anything, NaN too: as values they must be 0.
__device__ __forceinline__ void clear_tail(u32 stage, int valid, int thread) {
    int chunks = (BLOCK_N - valid) * 8;
#pragma unroll 1
    for (int i = thread; i < chunks * C_PANELS; i += CONSUMERS)
        store_shared_zero_16(stage + (i / chunks) * PANEL_BYTES + valid * 128 + (i % chunks) * 16);
    fence_async_proxy();
    named_sync(1, CONSUMERS);
}

// Four lanes hold 2 columns each of 4 x 8 columns; afterwards lane c of the four holds the 8 columns of the c-th.
__device__ __forceinline__ uint4 transpose_quad(u32 a, u32 b, u32 c, u32 d, int lane) {
    bool odd = lane & 1, high = lane & 2;
    u32 x = __shfl_xor_sync(0xffffffff, odd ? a : b, 1);
    u32 y = __shfl_xor_sync(0xffffffff, odd ? c : d, 1);
    u32 p0 = odd ? x : a, p1 = odd ? b : x, p2 = odd ? y : c, p3 = odd ? d : y;
    u32 u = __shfl_xor_sync(0xffffffff, high ? p0 : p2, 2);
    u32 v = __shfl_xor_sync(0xffffffff, high ? p1 : p3, 2);
    return high ? make_uint4(u, v, p2, p3) : make_uint4(p0, p1, u, v);
}

__device__ __forceinline__ void write_result(
    const LatentDecode &p, const Piece &piece, int2 tile, int lane_index, float (&o)[O_COUNT], RowState &state, int group,
    int thread
) {
    int warp = thread / 32, lane = thread % 32;
    int rows = p.heads_per_latent * p.query_tokens;
    float inverse[2];
    bf16_bits *target[2];
    bool valid[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = state.sum[half];
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        inverse[half] = sum > 0.0f ? 1.0f / sum : 0.0f;
        float lse = sum > 0.0f ? state.reference[half] + log2_approximate(sum) : -infinity();
        int local = group * 64 + warp * 16 + lane / 4 + half * 8;
        int row = tile.y * TILE_ROWS + local;
        valid[half] = row < rows;
        if (piece.slot < 0) {
            int token = row / p.heads_per_latent;
            int head = tile.x * p.heads_per_latent + row - token * p.heads_per_latent;
            long long index = ((long long)piece.sequence * p.query_tokens + token) * p.query_heads + head;
            target[half] = p.output + index * D_C;
            if (valid[half] && lane % 4 == 0) p.lse[index] = lse * 0.69314718055994531f;
        } else if (valid[half]) {
            long long index = ((long long)piece.slot * p.lanes + lane_index) * TILE_ROWS + local;
            if (lane % 4 == 0) p.partial_lse[index] = lse;
            float *row_target = p.partial + index * D_C + (lane % 4) * 2;
#pragma unroll
            for (int i = 0; i < O_COUNT / 4; ++i)
                *reinterpret_cast<float2 *>(row_target + i * 8) =
                    make_float2(o[4 * i + 2 * half] * inverse[half], o[4 * i + 2 * half + 1] * inverse[half]);
        }
    }
    if (piece.slot >= 0) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float factor = inverse[half];
#pragma unroll
        for (int i = 0; i < O_COUNT / 16; ++i) {
            float *x = &o[16 * i + 2 * half];
            uint4 words = transpose_quad(
                pack_bf16(x[0] * factor, x[1] * factor), pack_bf16(x[4] * factor, x[5] * factor),
                pack_bf16(x[8] * factor, x[9] * factor), pack_bf16(x[12] * factor, x[13] * factor), lane);
            if (valid[half]) *reinterpret_cast<uint4 *>(target[half] + i * 32 + (lane % 4) * 8) = words;
        }
    }
}

__device__ __forceinline__ void wait_block(u32 full, u32 number) {
    barrier_wait(full + 8 * (number % STAGES), (number / STAGES) & 1);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) latent_decode(
    const __grid_constant__ TensorMap latent_map, const __grid_constant__ TensorMap rope_map,
    const __grid_constant__ TensorMap query_map, const __grid_constant__ LatentDecode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[2 * STAGES + 3];
    __shared__ Piece partial_pieces[2];
    __shared__ SplitItem partial_items[2];
    __shared__ u32 partial_arrivals[2];
    const u32 query = shared_address(memory);
    const u32 stages = query + WARPGROUPS * Q_BYTES;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const u32 query_full = empty + 8 * STAGES, query_empty = query_full + 8, merge_full = query_empty + 8;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int lane_index = blockIdx.x % p.lanes;
    int index = blockIdx.x / p.lanes;

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, GATHER ? 128 : 1);
            barrier_init(empty + 8 * i, WARPGROUPS * 4);
        }
        barrier_init(query_full, QUERY_TILES ? 1 : GATHER ? 128 : 96);
        barrier_init(query_empty, WARPGROUPS * 4);
        barrier_init(merge_full, 1);
        barrier_init_fence();
#if QUERY_TILES
        prefetch_map(&query_map);
#endif
#if !GATHER
        prefetch_map(&latent_map);
        prefetch_map(&rope_map);
#endif
    }
    __syncthreads();
    grid_launch_dependents();
    grid_wait();

    if (warpgroup == WARPGROUPS) {
#if WARPGROUPS == 2
        registers_shrink<GATHER ? 56 : 40>();
#endif
#if GATHER
        u32 filled = 0, piece_count = 0;
        while (index >= 0) {
            Piece piece = load_piece(p.pieces, index);
            if (piece.sequence < 0) break;
            int2 tile = lane_tile(p, piece, lane_index);
            const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
            int page = gather_page(table, piece.length, piece.last_block - 1, warp, lane);
            // But for the first piece, the queries' buffer is free later than the first blocks' buffers.
            int until_queries = piece_count == 0 ? 0 : min(2, piece.last_block - piece.first_block);
#pragma unroll 1
            for (int block = piece.last_block - 1; block >= piece.first_block - 1; --block, --until_queries) {
                if (until_queries == 0) {
                    barrier_wait(query_empty, (piece_count & 1) ^ 1);
#if QUERY_TILES
                    if (thread == 0) load_queries(p, &query_map, piece, tile, query, query_full);
#else
                    load_queries(p, piece, tile, query, thread, 128);
                    copies_arrive(query_full);
#endif
                    ++piece_count;
                }
                if (block < piece.first_block) break;
                u32 slot = filled % STAGES, parity = (filled / STAGES) & 1;
                int next_page = gather_page(table, piece.length, block - 1, warp, lane);
                barrier_wait(empty + 8 * slot, parity ^ 1);
                gather_block(p, page, piece.length, tile.x, block, stages + slot * STAGE_BYTES, warp, lane);
                copies_commit();
                // A block is handed over GATHER_LAG blocks later: that many are always on their way.
                if (piece.last_block - block > GATHER_LAG) {
                    copies_wait<GATHER_LAG>();
                    fence_async_proxy();
                    barrier_arrive(full + 8 * ((filled - GATHER_LAG) % STAGES));
                }
                page = next_page;
                ++filled;
            }
            copies_wait<0>();
            fence_async_proxy();
            for (int i = min(GATHER_LAG, piece.last_block - piece.first_block); i > 0; --i)
                barrier_arrive(full + 8 * ((filled - i) % STAGES));
#if QUERY_TILES
            if (thread == 0 && piece.next >= 0) {
                Piece next = load_piece(p.pieces, piece.next);
                prefetch_queries(p, &query_map, next, lane_tile(p, next, lane_index));
            }
#endif
            index = piece.next;
        }
#else
        if (warp == 0) {
            u32 filled = 0;
            while (index >= 0) {
                Piece piece = load_piece(p.pieces, index);
                if (piece.sequence < 0) break;
                int2 tile = lane_tile(p, piece, lane_index);
                const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
                int token = (piece.last_block - 1) * BLOCK_N + lane * BOX;
                int page = lane < BOXES && token >= 0 && token < piece.length ? table[token / PAGE_SIZE] : -1;
#pragma unroll 1
                for (int block = piece.last_block - 1; block >= piece.first_block; --block) {
                    int below = token - BLOCK_N;
                    int next_page = lane < BOXES && block > piece.first_block ? table[below / PAGE_SIZE] : -1;
                    u32 slot = filled % STAGES, parity = (filled / STAGES) & 1;
                    barrier_wait(empty + 8 * slot, parity ^ 1);
                    u32 boxes = __popc(__ballot_sync(0xffffffff, page >= 0));
                    if (lane == 0) barrier_expect(full + 8 * slot, boxes * (PANELS * BOX * 128));
                    __syncwarp();
                    if (page >= 0) {
                        u32 target = stages + slot * STAGE_BYTES;
                        if (BOXES == 1) {
                            copy_tile_5d(target, &latent_map, full + 8 * slot, 0, token % PAGE_SIZE, 0, tile.x, page);
                        } else {
                            // A box of fewer rows than the block cannot hold several panels.
                            for (int panel = 0; panel < C_PANELS; ++panel)
                                copy_tile_5d(
                                    target + panel * PANEL_BYTES + lane * (BOX * 128), &latent_map, full + 8 * slot, 0,
                                    token % PAGE_SIZE, panel, tile.x, page);
                        }
                        copy_tile_3d(
                            target + C_PANELS * PANEL_BYTES + lane * (BOX * 128), &rope_map, full + 8 * slot, 0,
                            token % PAGE_SIZE, page);
                    }
                    token = below;
                    page = next_page;
                    ++filled;
                }
#if QUERY_TILES
                if (lane == 0 && piece.next >= 0) {
                    Piece next = load_piece(p.pieces, piece.next);
                    prefetch_queries(p, &query_map, next, lane_tile(p, next, lane_index));
                }
#endif
                index = piece.next;
            }
        } else if (!QUERY_TILES || (warp == 1 && lane == 0)) {
            u32 piece_count = 0;
            while (index >= 0) {
                Piece piece = load_piece(p.pieces, index);
                if (piece.sequence < 0) break;
                barrier_wait(query_empty, (piece_count & 1) ^ 1);
#if QUERY_TILES
                load_queries(p, &query_map, piece, lane_tile(p, piece, lane_index), query, query_full);
#else
                load_queries(p, piece, lane_tile(p, piece, lane_index), query, thread - 32, 96);
                copies_arrive(query_full);
#endif
                ++piece_count;
                index = piece.next;
            }
        }
#endif
        return;
    }

#if WARPGROUPS == 2
    registers_grow<GATHER ? 224 : 232>();
#endif
    const u32 my_query = query + warpgroup * Q_BYTES;
    u32 taken = 0, piece_count = 0;
    float o[O_COUNT];
    float s[S_COUNT];
    u32 weights[S_COUNT / 2];
    u32 rope[4 * ROPE_STEPS];
#if TURNS
    if (warpgroup == 1) named_arrive(2, CONSUMERS);
#endif
    Piece piece = load_piece(p.pieces, index);
    if (piece.sequence >= 0) load_rope_queries(p, piece, lane_tile(p, piece, lane_index), warpgroup, warp, lane, rope);
    int partials = 0;
    while (piece.sequence >= 0) {
        int2 tile = lane_tile(p, piece, lane_index);
        RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        Piece next_piece = piece;
        if (piece.slot >= 0 && threadIdx.x == 0)  // wanted at the end, when a read would be waited for
            copy_16(shared_address(&partial_items[partials]), p.splits + piece.split, 16);
        barrier_wait(query_full, piece_count & 1);
        if (!QUERY_TILES) fence_async_proxy();
        ++piece_count;

        int row = tile.y * TILE_ROWS + warpgroup * 64 + warp * 16 + lane / 4;
        // Tokens that this thread's two rows see.
        int2 sees = {
            piece.length - p.query_tokens + row / p.heads_per_latent + 1,
            piece.length - p.query_tokens + (row + 8) / p.heads_per_latent + 1};
        sees = {min(sees.x, piece.length), min(sees.y, piece.length)};
        const int all_see = piece.length - p.query_tokens + 1;

        if (piece.last_block > piece.first_block) {
            int block = piece.last_block - 1;
            u32 stage = stages + (taken % STAGES) * STAGE_BYTES;
            wait_block(full, taken);
            int valid = piece.length - block * BLOCK_N;
            if (valid < BLOCK_N) clear_tail(stage, valid, threadIdx.x);
            mma_fence();
            scores(s, my_query, rope, stage);
            mma_commit();
            mma_wait<0>();
            mma_settle(s);
            if ((block + 1) * BLOCK_N > all_see)
                mask_scores(s, {sees.x - block * BLOCK_N, sees.y - block * BLOCK_N}, lane);
            softmax_block(s, state, p.scale_log2);
            pack_weights(weights, s);
            int accumulate = 0;
            for (--block; block >= piece.first_block; --block) {
                u32 next = taken + 1;
                u32 next_stage = stages + (next % STAGES) * STAGE_BYTES;
#if VALUES_FIRST
#if TURNS
                named_sync(2 + warpgroup, CONSUMERS);
#endif
                mma_fence();
                values(o, weights, stage, accumulate);
                mma_commit();
                wait_block(full, next);
                mma_fence();
                scores(s, my_query, rope, next_stage);
                mma_commit();
#if TURNS
                named_arrive(3 - warpgroup, CONSUMERS);
#endif
                mma_wait<1>();
                mma_settle(o);
                if (lane == 0) barrier_arrive(empty + 8 * (taken % STAGES));
                mma_wait<0>();
                mma_settle(s);
#else
                wait_block(full, next);
#if TURNS
                named_sync(2 + warpgroup, CONSUMERS);
#endif
                mma_fence();
                scores(s, my_query, rope, next_stage);
                mma_commit();
                values(o, weights, stage, accumulate);
                mma_commit();
#if TURNS
                named_arrive(3 - warpgroup, CONSUMERS);
#endif
                mma_wait<1>();
                mma_settle(s);
#endif
                if ((block + 1) * BLOCK_N > all_see)
                    mask_scores(s, {sees.x - block * BLOCK_N, sees.y - block * BLOCK_N}, lane);
                float2 factor = softmax_block(s, state, p.scale_log2);
#if !VALUES_FIRST
                mma_wait<0>();
                mma_settle(o);
                if (lane == 0) barrier_arrive(empty + 8 * (taken % STAGES));
#endif
                rescale(o, factor);
                pack_weights(weights, s);
                accumulate = 1;
                taken = next;
                stage = next_stage;
            }
            if (lane == 0) barrier_arrive(query_empty);
            mma_fence();
            values(o, weights, stage, accumulate);
            mma_commit();
            next_piece = following(p.pieces, piece);
            mma_wait<0>();
            mma_settle(o);
            if (lane == 0) barrier_arrive(empty + 8 * (taken % STAGES));
            ++taken;
        } else {
            if (lane == 0) barrier_arrive(query_empty);
            next_piece = following(p.pieces, piece);
#pragma unroll
            for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
        }
        if (next_piece.sequence >= 0)
            load_rope_queries(p, next_piece, lane_tile(p, next_piece, lane_index), warpgroup, warp, lane, rope);
        write_result(p, piece, tile, lane_index, o, state, warpgroup, thread);
        if (piece.slot >= 0) {
            // All of this block's rows are in; the block that sees the count complete may read them.
            named_sync(1, CONSUMERS);
            if (threadIdx.x == 0) {
                partial_pieces[partials] = piece;
                partial_arrivals[partials] = add_release(p.arrivals + piece.split * p.lanes + lane_index);
            }
            ++partials;
        }
        piece = next_piece;
    }

    // Each contributor of a cut item merges its share of the rows. All blocks of the grid are resident (the grid
    // is no larger than the device) and none waits before its own pieces are done.
    u32 merged = 0;
    for (int i = 0; i < partials; ++i) {
        if (threadIdx.x == 0) {
            copies_wait<0>();
            const int slots = partial_items[i].slots;
            const u32 *arrivals = p.arrivals + partial_pieces[i].split * p.lanes + lane_index;
            u32 goal = (partial_arrivals[i] / slots + 1) * slots;
            while ((int)(load_acquire(arrivals) - goal) < 0) {}
        }
        named_sync(1, CONSUMERS);
        Piece mine = partial_pieces[i];
        SplitItem item = partial_items[i];
        int2 tile = lane_tile(p, mine, lane_index);
        int valid = min(TILE_ROWS, p.heads_per_latent * p.query_tokens - tile.y * TILE_ROWS);
        int share = mine.slot - item.first_slot;
        MergeRows rows = {
            p.partial + ((long long)item.first_slot * p.lanes + lane_index) * TILE_ROWS * D_C,
            p.partial_lse + ((long long)item.first_slot * p.lanes + lane_index) * TILE_ROWS,
            (long long)p.lanes * TILE_ROWS, item.slots, valid * share / item.slots, valid * (share + 1) / item.slots};
        merged = merge_rows<D_C, CONSUMERS>(
            rows, reinterpret_cast<float *>(memory), reinterpret_cast<float *>(memory + MERGE_WEIGHTS), MERGE_BYTES, merge_full, merged, threadIdx.x,
            [&](int local) {
                int row = tile.y * TILE_ROWS + local;
                int token = row / p.heads_per_latent;
                int head = tile.x * p.heads_per_latent + row - token * p.heads_per_latent;
                return ((long long)mine.sequence * p.query_tokens + token) * p.query_heads + head;
            },
            p.output, p.lse);
    }
}
