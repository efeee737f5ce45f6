// The gradients of keys and values of causal attention. What is computed: attention_backward.cuh; operands:
// attention_panels.cuh.
//
// Schedule: an item is 128 keys of a KV head, 64 to each of two consumer warpgroups; a producer thread brings them and, head
// after head of the group, from the diagonal on, blocks of BLOCK_M queries, G and row terms through a ring of STAGES buffers.
// All is transposed, so that keys are the rows of every tile: S^T = K Q^T and dP^T = V G^T from shared memory; P^T and dS^T
// become, in registers, operand A of dV += P^T G and dK += dS^T Q. In its turn a warpgroup issues dV, dK and the next S^T, and,
// once the first two are done, the next dP^T: so at no time more is alive than the accumulators of four products, packed
// operands lying where dP^T will be. It computes the next P^T and dS^T under the products of the other warpgroup.
//
// Each head's part of the gradient of the key kept once is written by itself; attention_once.cu adds these up.
//
// Floor: 4 (QUERY + VALUE) operations a score that is not masked, over the rate of a bf16 product.
//
// Set at compile time: KEY, ONCE, VALUE, BLOCK_M, STAGES, FLOAT32, ADDS.
#include "attention_backward.cuh"

#define KEY_BYTES (WHOLE_KEY_PANELS * 64 * 128)  // of a warpgroup's keys
#define VALUE_BYTES (VALUE_PANELS * 64 * 128)
#define TILE_BYTES (KEY_BYTES + VALUE_BYTES)
#define QUERY_BYTES (QUERY_PANELS * BLOCK_M * 128)
#define STAGE_BYTES (QUERY_BYTES + VALUE_PANELS * BLOCK_M * 128)
#define TERM_BYTES (BLOCK_M * 8)
#define S_COUNT (BLOCK_M / 2)

struct Buffers {
    u32 tiles, stages, terms, tile_full, tile_empty;
};

struct Maps {
    const TensorMap *query, *key, *once, *value, *gradient;
};

// The blocks of queries that see a tile, of each head: the first, and behind the last.
__device__ __forceinline__ int2 visible_blocks(const Work &work, const Item &item) {
    const int last = min(item.length, item.row + TILE) - 1;
    const int rows = work.window > item.length - last ? item.length : last + work.window;
    return {item.row / BLOCK_M, (rows + BLOCK_M - 1) / BLOCK_M};
}

__device__ __forceinline__ void load_item(
    const Backward &p, const Maps &maps, const Buffers &b, const Item &item, u32 &count, Ring<STAGES> &stages
) {
    const int2 blocks = visible_blocks(p.work, item);
    // The tile's buffer is free later than those of the first blocks.
    int before_tile = min(STAGES - 2, p.work.group * (blocks.y - blocks.x) - 1);
#pragma unroll 1
    for (int i = 0; i < p.work.group; ++i) {
        const int head = item.head * p.work.group + i;
        const float2 *terms = p.rows + (long long)head * p.padded + item.padded;
#pragma unroll 1
        for (int block = blocks.x; block < blocks.y; ++block) {
            const u32 full = stages.claim(), slot = stages.slot(), target = b.stages + slot * STAGE_BYTES;
            const int token = item.begin + block * BLOCK_M;
            barrier_expect(full, STAGE_BYTES + TERM_BYTES);
            load_panels<QUERY>(target, maps.query, full, head, token, BLOCK_M);
            load_panels<VALUE>(target + QUERY_BYTES, maps.gradient, full, head, token, BLOCK_M);
            copy_bulk(b.terms + slot * TERM_BYTES, terms + block * BLOCK_M, TERM_BYTES, full);
            ++stages.number;
            if (before_tile-- != 0) continue;
            barrier_wait(b.tile_empty, (count++ & 1) ^ 1);
            barrier_expect(b.tile_full, 2 * TILE_BYTES);
            for (int i = 0; i < 2; ++i) {
                const u32 rows = b.tiles + i * TILE_BYTES;
                const int first = item.begin + item.row + i * 64;
                load_panels<KEY>(rows, maps.key, b.tile_full, item.head, first, 64);
                load_panels<ONCE>(rows + KEY_PANELS * 64 * 128, maps.once, b.tile_full, 0, first, 64);
                load_panels<VALUE>(rows + KEY_BYTES, maps.value, b.tile_full, item.head, first, 64);
            }
        }
    }
}

// S^T = K Q^T, or dP^T = V G^T: the products of a tile's rows with a block's, WIDTH columns of both.
template <int WIDTH, bool OF_KEYS>
__device__ __forceinline__ void scores(float (&s)[S_COUNT], u32 tile, u32 block) {
    keep_in_place(tile);  // or the compiler keeps a descriptor for every step over all blocks
    const u64 a = descriptor_rows(tile), b = descriptor_rows(block);
#pragma unroll
    for (int step = 0; step < WIDTH / 16; ++step) {
        const int place = OF_KEYS ? key_place(step * 16, 64) : query_place(step * 16, 64);
        Mma<BLOCK_M>::ss(s, a + place / 16, b + query_place(step * 16, BLOCK_M) / 16, step > 0);
    }
}

// Sums (+)= A B, A being weights or their slopes and B the block's queries or G.
template <int WIDTH>
__device__ __forceinline__ void add_rows(float (&sums)[WIDTH / 2], const u32 (&a)[S_COUNT / 2], u32 rows, int accumulate) {
    const u64 b = descriptor_columns(rows, BLOCK_M * 128);
#pragma unroll
    for (int step = 0; step < BLOCK_M / 16; ++step)
        Mma<WIDTH>::rs_columns(
            sums, a[4 * step], a[4 * step + 1], a[4 * step + 2], a[4 * step + 3], b + step * 128, step > 0 ? 1 : accumulate);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys(
    const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap once_map, const __grid_constant__ TensorMap value_map,
    const __grid_constant__ TensorMap gradient_map, const __grid_constant__ Backward p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[2 + RING_BARRIERS(STAGES) + QUEUE_BARRIERS];
    __shared__ Item slots[2];
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    Buffers b;
    b.tiles = shared_address(memory);
    b.stages = b.tiles + 2 * TILE_BYTES;
    b.terms = b.stages + STAGES * STAGE_BYTES;
    b.tile_full = shared_address(barriers);
    b.tile_empty = b.tile_full + 8;
    Ring<STAGES> stages(b.tile_full + 16);
    const Queue queue = prepare_queue(slots, b.tile_full + 16 + 8 * RING_BARRIERS(STAGES));
    if (threadIdx.x == 0) {
        barrier_init(b.tile_full, 1);
        barrier_init(b.tile_empty, CONSUMERS / 32);
        stages.prepare(1, CONSUMERS / 32);
        barrier_init_fence();
    }
    __syncthreads();
    grid_launch_dependents();
    grid_wait();

    if (warpgroup == 2) {
        registers_shrink<PRODUCER_REGISTERS>();
        if (threadIdx.x == CONSUMERS) {
            u32 count = 0;
            const Maps maps = {&query_map, &key_map, &once_map, &value_map, &gradient_map};
            produce_items(p.work, queue, [&](const Item &item) { load_item(p, maps, b, item, count, stages); });
        }
        return;
    }

    registers_grow<CONSUMER_REGISTERS>();
    turns_begin(warpgroup);
    const u32 tile = b.tiles + warpgroup * TILE_BYTES;
    const float scale = p.work.scale * LOG2_E;
    u32 count = 0;
    float d_key[QUERY / 2], d_value[VALUE / 2];
    float s[S_COUNT], slopes[S_COUNT];
    u32 weights[S_COUNT / 2], d_scores[S_COUNT / 2];
    consume_items(queue, lane, [&](const Item &item) {
        const int rows = item.row + warpgroup * 64, row = rows + warp * 16 + lane / 4;
        const int2 blocks = visible_blocks(p.work, item);
        int block = blocks.x, left = p.work.group * (blocks.y - blocks.x), accumulate = 0;

        // Waits for the block `ahead` and makes it safe to multiply with.
        const auto wait_block = [&](int number, u32 ahead) {
            stages.wait(ahead);
            const int valid = item.length - number * BLOCK_M;
            if (valid >= BLOCK_M) return;
            clear_rows<QUERY_PANELS + VALUE_PANELS>(
                b.stages + stages.slot(ahead) * STAGE_BYTES, BLOCK_M, valid, threadIdx.x, CONSUMERS);
            fence_async_proxy();
            named_sync(1, CONSUMERS);
        };

        // S^T to P^T, in place.
        const auto weigh = [&] {
            const int first = block * BLOCK_M;
            if (first < rows + 63) mask_scores_before(s, {row - first, row + 8 - first}, lane);
            if (first + BLOCK_M - 1 - p.work.window >= rows)
                mask_scores(s, {row + p.work.window - first, row + 8 + p.work.window - first}, lane);
            const u32 terms = b.terms + stages.slot() * TERM_BYTES + lane % 4 * 16;
#pragma unroll
            for (int i = 0; i < S_COUNT / 4; ++i) {
                const float4 pair = load_shared_4_floats(terms + i * 64);  // of two neighbouring queries
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float *x = &s[4 * i + 2 * half];
                    x[0] = exp2_approximate(fmaf(x[0], scale, -pair.x));
                    x[1] = exp2_approximate(fmaf(x[1], scale, -pair.z));
                }
            }
        };
        // P^T and dP^T to dS^T; both packed.
        const auto differentiate = [&] {
            const u32 terms = b.terms + stages.slot() * TERM_BYTES + lane % 4 * 16;
#pragma unroll
            for (int i = 0; i < S_COUNT / 4; ++i) {
                const float4 pair = load_shared_4_floats(terms + i * 64);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int at = 4 * i + 2 * half;
                    weights[2 * i + half] = pack_bf16(s[at], s[at + 1]);
                    d_scores[2 * i + half] = pack_bf16(s[at] * (slopes[at] - pair.y), s[at + 1] * (slopes[at + 1] - pair.w));
                }
            }
        };

        barrier_wait(b.tile_full, count++ & 1);
        wait_block(block, 0);
        u32 stage = b.stages + stages.slot() * STAGE_BYTES;
        mma_fence();
        scores<QUERY, true>(s, tile, stage);
        mma_commit();
        scores<VALUE, false>(slopes, tile + KEY_BYTES, stage + QUERY_BYTES);
        mma_commit();
        mma_wait<1>();
        mma_settle(s);
        weigh();
        mma_wait<0>();
        mma_settle(slopes);
        differentiate();
        while (--left > 0) {
            if (++block == blocks.y) block = blocks.x;
            wait_block(block, 1);
            const u32 next = b.stages + stages.slot(1) * STAGE_BYTES;
            turn_begin(warpgroup);
            mma_fence();
            add_rows<VALUE>(d_value, weights, stage + QUERY_BYTES, accumulate);
            add_rows<QUERY>(d_key, d_scores, stage, accumulate);
            mma_commit();
            scores<QUERY, true>(s, tile, next);
            mma_commit();
            mma_wait<1>();
            mma_settle(d_value);
            mma_settle(d_key);
            stages.release(lane);
            mma_fence();
            scores<VALUE, false>(slopes, tile + KEY_BYTES, next + QUERY_BYTES);
            mma_commit();
            turn_end(warpgroup);
            mma_wait<1>();
            mma_settle(s);
            weigh();
            mma_wait<0>();
            mma_settle(slopes);
            differentiate();
            accumulate = 1;
            stage = next;
        }
        mma_fence();
        add_rows<VALUE>(d_value, weights, stage + QUERY_BYTES, accumulate);
        add_rows<QUERY>(d_key, d_scores, stage, accumulate);
        mma_commit();
        mma_wait<0>();
        mma_settle(d_value);
        mma_settle(d_key);
        stages.release(lane);
        if (lane == 0) barrier_arrive(b.tile_empty);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int token = item.begin + row + 8 * half;
            const bool exists = row + 8 * half < item.length;
            store_row<0, VALUE, FLOAT32, ADDS>(target_row(p.value, token, item.head), d_value, half, 1.0f, exists, lane);
            store_row<0, KEY, FLOAT32, ADDS>(target_row(p.key, token, item.head), d_key, half, p.work.scale, exists, lane);
#if ONCE
            store_row<KEY, ONCE, true, false>(
                p.once + ((long long)item.head * p.tokens + token) * ONCE, d_key, half, p.work.scale, exists, lane);
#endif
        }
    });
}
