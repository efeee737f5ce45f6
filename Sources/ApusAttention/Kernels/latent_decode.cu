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
//   partial   [slot][lane][tile row][D_C] float32, and its lse (base 2) [slot][lane][tile row]
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
// STAGES, WARPGROUPS (consumers, 1 or 2).
#include "ptx.cuh"
#include "schedule.cuh"

#ifndef BLOCK_N
#define BLOCK_N 64
#endif
#ifndef GATHER
#define GATHER (PAGE_SIZE % 8 != 0)
#endif
// 1: P V of a block is issued before Q K^T of the next, and its buffer is free early; the other warpgroup's
// products cover the softmax. 0: Q K^T first, and P V covers the softmax.
#ifndef VALUES_FIRST
#define VALUES_FIRST (WARPGROUPS == 2)
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
static_assert(GATHER || (PAGE_SIZE % BOX == 0 && BLOCK_N % BOX == 0), "pages and blocks must nest");

struct LatentDecode {
    const bf16_bits *query;
    const bf16_bits *cache;
    const int *page_table;  // [sequence][page_stride]
    const Piece *pieces;
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

// (latent head, row tile) of a lane.
__device__ __forceinline__ int2 lane_tile(const LatentDecode &p, const Piece &piece, int lane) {
    int tile = piece.outer * p.lanes + lane;
    return {tile / p.row_tiles, tile % p.row_tiles};
}

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

#if GATHER
// Pages too small for the copy engine: 16-byte copies by all producer warps. Each lane looks up one row's page
// and hands the address to the lanes that copy the row.
__device__ __forceinline__ void gather_block(
    const LatentDecode &p, const int *table, int length, int latent, int block, u32 stage, int warp, int lane
) {
    const int rows = BLOCK_N / 4;  // rows of one warp
    const int chunks = D_C / 8 + D_R / 8;
    int token = block * BLOCK_N + warp * rows + lane % rows;
    bool inside = token < length;
    int page = inside ? table[token / PAGE_SIZE] : 0;
    long long offset = inside ? page * p.page_elements + (token % PAGE_SIZE) * D_C + (long long)latent * PAGE_SIZE * D_C : 0;
    long long rope = inside
        ? page * p.page_elements + (long long)p.latent_heads * PAGE_SIZE * D_C + (token % PAGE_SIZE) * D_R : 0;
    const int latent_chunks = rows * (D_C / 8);
#pragma unroll 4
    for (int i = lane; i < latent_chunks; i += 32) {
        int row = i / (D_C / 8), chunk = i % (D_C / 8);
        long long from = __shfl_sync(0xffffffff, offset, row);
        int in_block = warp * rows + row;
        copy_16(
            stage + (chunk / 8) * PANEL_BYTES + in_block * 128 + (((chunk % 8) ^ (in_block % 8)) << 4),
            p.cache + from + chunk * 8, block * BLOCK_N + in_block < length ? 16 : 0);
    }
#pragma unroll
    for (int i = lane; i < rows * (D_R / 8); i += 32) {
        int row = i / (D_R / 8), chunk = i % (D_R / 8);
        long long from = __shfl_sync(0xffffffff, rope, row);
        int in_block = warp * rows + row;
        copy_16(
            stage + C_PANELS * PANEL_BYTES + in_block * 128 + ((chunk ^ (in_block % 8)) << 4),
            p.cache + from + chunk * 8, block * BLOCK_N + in_block < length ? 16 : 0);
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

extern "C" __global__ void __launch_bounds__(THREADS, 1) latent_decode(
    const __grid_constant__ TensorMap latent_map, const __grid_constant__ TensorMap rope_map,
    const __grid_constant__ LatentDecode p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[2 * STAGES + 2];
    const u32 query = shared_address(memory);
    const u32 stages = query + WARPGROUPS * Q_BYTES;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const u32 query_full = empty + 8 * STAGES, query_empty = query_full + 8;
    const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int lane_index = blockIdx.x % p.lanes;
    int index = blockIdx.x / p.lanes;

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, GATHER ? 128 : 1);
            barrier_init(empty + 8 * i, WARPGROUPS * 4);
        }
        barrier_init(query_full, GATHER ? 128 : 96);
        barrier_init(query_empty, WARPGROUPS * 4);
        barrier_init_fence();
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
        registers_shrink<40>();
#endif
#if GATHER
        u32 filled = 0, piece_count = 0;
        while (index >= 0) {
            Piece piece = load_piece(p.pieces, index);
            if (piece.sequence < 0) break;
            int2 tile = lane_tile(p, piece, lane_index);
            barrier_wait(query_empty, (piece_count & 1) ^ 1);
            load_queries(p, piece, tile, query, thread, 128);
            copies_commit();
            ++piece_count;
            const int *table = p.page_table + (long long)piece.sequence * p.page_stride;
            // A block's copies are handed over one block later, so that two blocks are always on their way.
            bool queries_pending = true;
            u32 previous = 0;
            for (int block = piece.last_block - 1; block >= piece.first_block; --block) {
                u32 slot = filled % STAGES, parity = (filled / STAGES) & 1;
                barrier_wait(empty + 8 * slot, parity ^ 1);
                gather_block(p, table, piece.length, tile.x, block, stages + slot * STAGE_BYTES, warp, lane);
                copies_commit();
                copies_wait<1>();
                fence_async_proxy();
                if (queries_pending) barrier_arrive(query_full);
                else barrier_arrive(full + 8 * previous);
                queries_pending = false;
                previous = slot;
                ++filled;
            }
            copies_wait<0>();
            fence_async_proxy();
            if (queries_pending) barrier_arrive(query_full);
            else barrier_arrive(full + 8 * previous);
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
                index = piece.next;
            }
        } else {
            u32 piece_count = 0;
            while (index >= 0) {
                Piece piece = load_piece(p.pieces, index);
                if (piece.sequence < 0) break;
                barrier_wait(query_empty, (piece_count & 1) ^ 1);
                load_queries(p, piece, lane_tile(p, piece, lane_index), query, thread - 32, 96);
                copies_commit();
                copies_wait<0>();
                fence_async_proxy();
                barrier_arrive(query_full);
                ++piece_count;
                index = piece.next;
            }
        }
#endif
        return;
    }

#if WARPGROUPS == 2
    registers_grow<232>();
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
    while (index >= 0) {
        Piece piece = load_piece(p.pieces, index);
        if (piece.sequence < 0) break;
        int2 tile = lane_tile(p, piece, lane_index);
        RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        load_rope_queries(p, piece, tile, warpgroup, warp, lane, rope);
        barrier_wait(query_full, piece_count & 1);
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
            barrier_wait(full + 8 * (taken % STAGES), (taken / STAGES) & 1);
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
                barrier_wait(full + 8 * (next % STAGES), (next / STAGES) & 1);
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
                barrier_wait(full + 8 * (next % STAGES), (next / STAGES) & 1);
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
            mma_wait<0>();
            mma_settle(o);
            if (lane == 0) barrier_arrive(empty + 8 * (taken % STAGES));
            ++taken;
        } else {
            if (lane == 0) barrier_arrive(query_empty);
#pragma unroll
            for (int i = 0; i < O_COUNT; ++i) o[i] = 0.0f;
        }
        write_result(p, piece, tile, lane_index, o, state, warpgroup, thread);
        index = piece.next;
    }
}
