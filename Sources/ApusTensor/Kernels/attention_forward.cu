// Causal attention over packed sequences with explicit keys and values: the training form, forward, and prefill of whole
// prompts. bf16 operands, float32 accumulation. Operands: attention_panels.cuh.
//
//   output  [token][head][VALUE], bf16 or (OUTPUT_FLOAT32) float32; lse [token][head], natural log
//
// Schedule: an item is 128 query rows of a head, 64 to each of two consumer warpgroups; a producer thread brings queries and,
// from the diagonal down, blocks of BLOCK_N keys and values through rings of STAGES buffers. Blocks are persistent and take
// items longest first. A warpgroup issues S = Q K^T of the next block, then O += P V of this one, and computes the softmax of
// the next block's scores under the latter and under the other warpgroup's products (turns). Only blocks that the diagonal,
// the window or the sequence's end cuts are masked.
//
// Floor: 2 (QUERY + VALUE) operations a score that is not masked, over the rate of a bf16 product. The bytes are few: a
// tile reads its keys and values from L2, where the order of the items keeps them.
//
// Set at compile time: KEY, ONCE, VALUE, BLOCK_N, STAGES, OUTPUT_FLOAT32.
#include "attention_panels.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

#define QUERY_BYTES (QUERY_PANELS * 64 * 128)  // of a warpgroup's rows
#define KEY_BYTES (WHOLE_KEY_PANELS * BLOCK_N * 128)
#define VALUE_BYTES (VALUE_PANELS * BLOCK_N * 128)
#define SHARED_BYTES (2 * QUERY_BYTES + STAGES * (KEY_BYTES + VALUE_BYTES))
#define S_COUNT (BLOCK_N / 2)

struct Forward {
    Work work;
    void *output;
    float *lse;
};

// The blocks of keys that a tile sees: the last one, and the first.
__device__ __forceinline__ int2 visible_blocks(const Work &work, const Item &item) {
    return {
        (min(item.length, item.row + TILE) - 1) / BLOCK_N, max(0, item.row - work.window + 1) / BLOCK_N};
}

struct Buffers {
    u32 queries, keys, values, query_full, query_empty;
};

__device__ __forceinline__ void load_item(
    const Forward &p, const TensorMap *query, const TensorMap *key, const TensorMap *once, const TensorMap *value,
    const Buffers &b, const Item &item, u32 &count, Ring<STAGES> &keys, Ring<STAGES> &values
) {
    const int head = item.head / p.work.group;
    const int2 blocks = visible_blocks(p.work, item);
    // The queries' buffer is free later than those of the first blocks.
    int before_queries = min(STAGES - 2, blocks.x - blocks.y);
#pragma unroll 1
    for (int block = blocks.x; block >= blocks.y; --block) {
        const int token = item.begin + block * BLOCK_N;
        const u32 key_full = keys.claim(), key_target = b.keys + keys.slot() * KEY_BYTES;
        barrier_expect(key_full, KEY_BYTES);
        load_panels<KEY>(key_target, key, key_full, head, token, BLOCK_N);
        load_panels<ONCE>(key_target + KEY_PANELS * BLOCK_N * 128, once, key_full, 0, token, BLOCK_N);
        ++keys.number;
        const u32 value_full = values.claim();
        barrier_expect(value_full, VALUE_BYTES);
        load_panels<VALUE>(b.values + values.slot() * VALUE_BYTES, value, value_full, head, token, BLOCK_N);
        ++values.number;
        if (before_queries-- != 0) continue;
        barrier_wait(b.query_empty, (count++ & 1) ^ 1);
        barrier_expect(b.query_full, 2 * QUERY_BYTES);
        for (int i = 0; i < 2; ++i)
            load_panels<QUERY>(
                b.queries + i * QUERY_BYTES, query, b.query_full, item.head, item.begin + item.row + i * 64, 64);
    }
}

// S = Q K^T.
__device__ __forceinline__ void scores(float (&s)[S_COUNT], u32 query, u32 keys) {
    keep_in_place(query);  // or the compiler keeps a descriptor for every step over all blocks
    const u64 a = descriptor_rows(query), b = descriptor_rows(keys);
#pragma unroll
    for (int step = 0; step < QUERY / 16; ++step)
        Mma<BLOCK_N>::ss(s, a + query_place(step * 16, 64) / 16, b + key_place(step * 16, BLOCK_N) / 16, step > 0);
}

// O (+)= P V.
__device__ __forceinline__ void add_values(
    float (&o)[VALUE / 2], const u32 (&weights)[S_COUNT / 2], u32 values, int accumulate
) {
    const u64 b = descriptor_columns(values, BLOCK_N * 128);
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
        Mma<VALUE>::rs_columns(
            o, weights[4 * step], weights[4 * step + 1], weights[4 * step + 2], weights[4 * step + 3], b + step * 128,
            step > 0 ? 1 : accumulate);
}

// What a warpgroup sees of a block that begins at key `first`; `row` is this thread's first row, `rows` the warpgroup's.
__device__ __forceinline__ void mask_block(float (&s)[S_COUNT], int first, int rows, int row, int window, int lane) {
    if (first + BLOCK_N - 1 > rows) mask_scores(s, {row + 1 - first, row + 9 - first}, lane);
    if (first <= rows + 63 - window) mask_scores_before(s, {row - window + 1 - first, row - window + 9 - first}, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward(
    const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap key_map,
    const __grid_constant__ TensorMap once_map, const __grid_constant__ TensorMap value_map, const __grid_constant__ Forward p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[2 + 2 * RING_BARRIERS(STAGES) + QUEUE_BARRIERS];
    __shared__ Item slots[2];
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    Buffers b;
    b.queries = shared_address(memory);
    b.keys = b.queries + 2 * QUERY_BYTES;
    b.values = b.keys + STAGES * KEY_BYTES;
    b.query_full = shared_address(barriers);
    b.query_empty = b.query_full + 8;
    Ring<STAGES> keys(b.query_full + 16), values(b.query_full + 16 + 8 * RING_BARRIERS(STAGES));
    const Queue queue = prepare_queue(slots, b.query_full + 16 + 16 * RING_BARRIERS(STAGES));
    if (threadIdx.x == 0) {
        barrier_init(b.query_full, 1);
        barrier_init(b.query_empty, CONSUMERS / 32);
        keys.prepare(1, CONSUMERS / 32);
        values.prepare(1, CONSUMERS / 32);
        barrier_init_fence();
    }
    __syncthreads();
    grid_launch_dependents();
    grid_wait();

    if (warpgroup == 2) {
        registers_shrink<PRODUCER_REGISTERS>();
        if (threadIdx.x == CONSUMERS) {
            u32 count = 0;
            produce_items(p.work, queue, [&](const Item &item) {
                load_item(p, &query_map, &key_map, &once_map, &value_map, b, item, count, keys, values);
            });
        }
        return;
    }

    registers_grow<CONSUMER_REGISTERS>();
    turns_begin(warpgroup);
    const u32 query = b.queries + warpgroup * QUERY_BYTES;
    const float scale = p.work.scale * LOG2_E;
    u32 count = 0;
    float o[VALUE / 2];
    float s[S_COUNT];
    u32 even[S_COUNT / 2], odd[S_COUNT / 2];
    consume_items(queue, lane, [&](const Item &item) {
        const int rows = item.row + warpgroup * 64, row = rows + warp * 16 + lane / 4;
        const int2 blocks = visible_blocks(p.work, item);
        RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        int block = blocks.x, accumulate = 0;
        barrier_wait(b.query_full, count++ & 1);

        keys.wait();
        mma_fence();
        scores(s, query, b.keys + keys.slot() * KEY_BYTES);
        mma_commit();
        const int valid = item.length - block * BLOCK_N;
        if (valid < BLOCK_N) {
            values.wait();
            clear_rows<VALUE_PANELS>(b.values + values.slot() * VALUE_BYTES, BLOCK_N, valid, threadIdx.x, CONSUMERS);
            fence_async_proxy();
            named_sync(1, CONSUMERS);
        }
        mma_wait<0>();
        mma_settle(s);
        keys.release(lane);
        mask_block(s, block * BLOCK_N, rows, row, p.work.window, lane);
        softmax_block<false>(s, even, state, scale, [](int) { return float2{1.0f, 1.0f}; });

        // Weights `from` of the block before meet its values, while the next block's become `to`.
        const auto step = [&](const u32 (&from)[S_COUNT / 2], u32 (&to)[S_COUNT / 2]) {
            --block;
            keys.wait();
            turn_begin(warpgroup);
            mma_fence();
            scores(s, query, b.keys + keys.slot() * KEY_BYTES);
            mma_commit();
            values.wait();
            mma_fence();
            add_values(o, from, b.values + values.slot() * VALUE_BYTES, accumulate);
            mma_commit();
            turn_end(warpgroup);
            mma_wait<1>();
            mma_settle(s);
            keys.release(lane);
            mask_block(s, block * BLOCK_N, rows, row, p.work.window, lane);
            const float2 factor = softmax_block<false>(s, to, state, scale, [](int) { return float2{1.0f, 1.0f}; });
            mma_wait<0>();
            mma_settle(o);
            values.release(lane);
            rescale(o, factor);
            accumulate = 1;
        };
        const auto finish = [&](const u32 (&from)[S_COUNT / 2]) {
            if (lane == 0) barrier_arrive(b.query_empty);
            values.wait();
            mma_fence();
            add_values(o, from, b.values + values.slot() * VALUE_BYTES, accumulate);
            mma_commit();
            mma_wait<0>();
            mma_settle(o);
            values.release(lane);
        };
        // Two steps at a time, so that weights stay in the registers in which they were computed.
        while (true) {
            if (block == blocks.y) {
                finish(even);
                break;
            }
            step(even, odd);
            if (block == blocks.y) {
                finish(odd);
                break;
            }
            step(odd, even);
        }

#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float2 finished = finish_row(state, half);
            const bool exists = row + 8 * half < item.length;
            const long long index = (long long)(item.begin + row + 8 * half) * p.work.heads + item.head;
            if (exists && lane % 4 == 0) p.lse[index] = finished.y * LN_2;
            store_row<0, VALUE, OUTPUT_FLOAT32, false>(
                reinterpret_cast<char *>(p.output) + index * (VALUE * (OUTPUT_FLOAT32 ? 4 : 2)), o, half, finished.x, exists, lane);
        }
    });
}
