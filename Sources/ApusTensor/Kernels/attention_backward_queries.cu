// The gradient of the queries of causal attention, and what each row hands to the kernel of keys and values. What is computed:
// attention_backward.cuh; operands: attention_panels.cuh.
//
// Schedule: as attention_forward.cu, with G beside the queries and blocks of BLOCK_N keys and values together in one ring. Of
// a block S = Q K^T and dP = G V^T are computed with both operands in shared memory; dS becomes, in registers, operand A of
// dQ += dS K. In its turn a warpgroup issues S of the next block, dQ of this one, dP of the next; it computes the next block's
// P under the last two and dS under the products of the other warpgroup.
//
// Floor: 2 (2 QUERY + VALUE) operations a score that is not masked, over the rate of a bf16 product.
//
// Set at compile time: KEY, ONCE, VALUE, BLOCK_N, STAGES, OUTPUT_FLOAT32, FLOAT32, ADDS.
#include "attention_backward.cuh"

#define QUERY_BYTES (QUERY_PANELS * 64 * 128)  // of a warpgroup's rows
#define GRADIENT_BYTES (VALUE_PANELS * 64 * 128)
#define TILE_BYTES (QUERY_BYTES + GRADIENT_BYTES)
#define KEY_BYTES (WHOLE_KEY_PANELS * BLOCK_N * 128)
#define STAGE_BYTES (KEY_BYTES + VALUE_PANELS * BLOCK_N * 128)
#define S_COUNT (BLOCK_N / 2)

struct Buffers {
    u32 tiles, stages, tile_full, tile_empty;
};

struct Maps {
    const TensorMap *query, *key, *once, *value, *gradient;
};

// The blocks of keys that a tile sees: the last one, and the first.
__device__ __forceinline__ int2 visible_blocks(const Work &work, const Item &item) {
    return {
        (min(item.length, item.row + TILE) - 1) / BLOCK_N, max(0, item.row - work.window + 1) / BLOCK_N};
}

__device__ __forceinline__ void load_item(
    const Work &work, const Maps &maps, const Buffers &b, const Item &item, u32 &count, Ring<STAGES> &stages
) {
    const int head = item.head / work.group;
    const int2 blocks = visible_blocks(work, item);
    // The tile's buffer is free later than those of the first blocks.
    int before_tile = min(STAGES - 2, blocks.x - blocks.y);
#pragma unroll 1
    for (int block = blocks.x; block >= blocks.y; --block) {
        const int token = item.begin + block * BLOCK_N;
        const u32 full = stages.claim(), target = b.stages + stages.slot() * STAGE_BYTES;
        barrier_expect(full, STAGE_BYTES);
        load_panels<KEY>(target, maps.key, full, head, token, BLOCK_N);
        load_panels<ONCE>(target + KEY_PANELS * BLOCK_N * 128, maps.once, full, 0, token, BLOCK_N);
        load_panels<VALUE>(target + KEY_BYTES, maps.value, full, head, token, BLOCK_N);
        ++stages.number;
        if (before_tile-- != 0) continue;
        barrier_wait(b.tile_empty, (count++ & 1) ^ 1);
        barrier_expect(b.tile_full, 2 * TILE_BYTES);
        for (int i = 0; i < 2; ++i) {
            const u32 rows = b.tiles + i * TILE_BYTES;
            const int first = item.begin + item.row + i * 64;
            load_panels<QUERY>(rows, maps.query, b.tile_full, item.head, first, 64);
            load_panels<VALUE>(rows + QUERY_BYTES, maps.gradient, b.tile_full, item.head, first, 64);
        }
    }
}

// S = Q K^T, or dP = G V^T: the products of a tile's rows with a block's, WIDTH columns of both.
template <int WIDTH, bool OF_KEYS>
__device__ __forceinline__ void scores(float (&s)[S_COUNT], u32 tile, u32 block) {
    keep_in_place(tile);  // or the compiler keeps a descriptor for every step over all blocks
    const u64 a = descriptor_rows(tile), b = descriptor_rows(block);
#pragma unroll
    for (int step = 0; step < WIDTH / 16; ++step) {
        const int place = OF_KEYS ? key_place(step * 16, BLOCK_N) : query_place(step * 16, BLOCK_N);
        Mma<BLOCK_N>::ss(s, a + query_place(step * 16, 64) / 16, b + place / 16, step > 0);
    }
}

// Sums (+)= dS K, of WIDTH columns of the key.
template <int WIDTH>
__device__ __forceinline__ void add_keys(
    float (&sums)[WIDTH / 2], const u32 (&slopes)[S_COUNT / 2], u32 keys, int accumulate
) {
    const u64 b = descriptor_columns(keys, BLOCK_N * 128);
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
        Mma<WIDTH>::rs_columns(
            sums, slopes[4 * step], slopes[4 * step + 1], slopes[4 * step + 2], slopes[4 * step + 3], b + step * 128,
            step > 0 ? 1 : accumulate);
}

// {log-sum-exp in powers of two, delta} of a row; four lanes share it.
__device__ __forceinline__ float2 row_terms(const Backward &p, const Item &item, int row, int lane) {
    float sum = 0.0f, lse = infinity();
    if (row < item.length) {
        const long long index = (long long)(item.begin + row) * p.work.heads + item.head;
        lse = p.lse[index] * LOG2_E;
        const uint4 *gradient = reinterpret_cast<const uint4 *>(p.gradient + index * VALUE);
        const uint4 *output = reinterpret_cast<const uint4 *>(
            static_cast<const char *>(p.output) + index * (VALUE * (OUTPUT_FLOAT32 ? 4 : 2)));
#pragma unroll
        for (int chunk = lane % 4; chunk < VALUE / 8; chunk += 4) {
            const uint4 g = gradient[chunk], o = output[OUTPUT_FLOAT32 ? 2 * chunk : chunk];
            const u32 gs[4] = {g.x, g.y, g.z, g.w}, os[4] = {o.x, o.y, o.z, o.w};
            u32 last[4] = {};
            if (OUTPUT_FLOAT32) {
                const uint4 second = output[2 * chunk + 1];
                last[0] = second.x, last[1] = second.y, last[2] = second.z, last[3] = second.w;
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const u32 low = OUTPUT_FLOAT32 ? (i < 2 ? os[2 * i] : last[2 * i - 4]) : os[i] << 16;
                const u32 high = OUTPUT_FLOAT32 ? (i < 2 ? os[2 * i + 1] : last[2 * i - 3]) : os[i] & 0xffff0000;
                sum += __uint_as_float(low) * __uint_as_float(gs[i] << 16);
                sum += __uint_as_float(high) * __uint_as_float(gs[i] & 0xffff0000);
            }
        }
    }
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    const float2 terms = {lse, sum};
    if (lane % 4 == 0) p.rows[(long long)item.head * p.padded + item.padded + row] = terms;
    return terms;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward_queries(
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
            produce_items(p.work, queue, [&](const Item &item) { load_item(p.work, maps, b, item, count, stages); });
        }
        return;
    }

    registers_grow<CONSUMER_REGISTERS>();
    turns_begin(warpgroup);
    const u32 tile = b.tiles + warpgroup * TILE_BYTES;
    const float scale = p.work.scale * LOG2_E;
    u32 count = 0;
    float own[KEY / 2];
#if ONCE
    float once[ONCE / 2];
#endif
    float s[S_COUNT], slopes[S_COUNT];
    u32 packed[S_COUNT / 2];
    consume_items(queue, lane, [&](const Item &item) {
        const int rows = item.row + warpgroup * 64, row = rows + warp * 16 + lane / 4;
        const int2 blocks = visible_blocks(p.work, item);
        float2 terms[2];
        int block = blocks.x, accumulate = 0;
        barrier_wait(b.tile_full, count++ & 1);
        stages.wait();
        const int valid = item.length - block * BLOCK_N;
        if (valid < BLOCK_N) {
            clear_rows<WHOLE_KEY_PANELS + VALUE_PANELS>(
                b.stages + stages.slot() * STAGE_BYTES, BLOCK_N, valid, threadIdx.x, CONSUMERS);
            fence_async_proxy();
            named_sync(1, CONSUMERS);
        }

        // S to P, in place.
        const auto weigh = [&] {
            const int first = block * BLOCK_N;
            if (first + BLOCK_N - 1 > rows) mask_scores(s, {row + 1 - first, row + 9 - first}, lane);
            if (first <= rows + 63 - p.work.window)
                mask_scores_before(s, {row - p.work.window + 1 - first, row - p.work.window + 9 - first}, lane);
#pragma unroll
            for (int i = 0; i < S_COUNT; ++i) s[i] = exp2_approximate(fmaf(s[i], scale, -terms[i / 2 % 2].x));
        };
        // P and dP to dS.
        const auto differentiate = [&] {
#pragma unroll
            for (int i = 0; i < S_COUNT / 2; ++i) {
                const float delta = terms[i % 2].y;
                packed[i] = pack_bf16(s[2 * i] * (slopes[2 * i] - delta), s[2 * i + 1] * (slopes[2 * i + 1] - delta));
            }
        };
        const auto add = [&](u32 keys) {
            add_keys<KEY>(own, packed, keys, accumulate);
#if ONCE
            add_keys<ONCE>(once, packed, keys + KEY_PANELS * BLOCK_N * 128, accumulate);
#endif
        };
        const auto settle = [&] {
            mma_settle(own);
#if ONCE
            mma_settle(once);
#endif
        };

        u32 stage = b.stages + stages.slot() * STAGE_BYTES;
        mma_fence();
        scores<QUERY, true>(s, tile, stage);
        mma_commit();
        scores<VALUE, false>(slopes, tile + QUERY_BYTES, stage + KEY_BYTES);
        mma_commit();
        terms[0] = row_terms(p, item, row, lane);
        terms[1] = row_terms(p, item, row + 8, lane);
        mma_wait<1>();
        mma_settle(s);
        weigh();
        mma_wait<0>();
        mma_settle(slopes);
        differentiate();
        for (--block; block >= blocks.y; --block) {
            const u32 next = b.stages + stages.slot(1) * STAGE_BYTES;
            stages.wait(1);
            turn_begin(warpgroup);
            mma_fence();
            scores<QUERY, true>(s, tile, next);
            mma_commit();
            add(stage);
            mma_commit();
            scores<VALUE, false>(slopes, tile + QUERY_BYTES, next + KEY_BYTES);
            mma_commit();
            turn_end(warpgroup);
            mma_wait<2>();
            mma_settle(s);
            weigh();
            mma_wait<0>();
            settle();
            mma_settle(slopes);
            stages.release(lane);
            differentiate();
            accumulate = 1;
            stage = next;
        }
        mma_fence();
        add(stage);
        mma_commit();
        mma_wait<0>();
        settle();
        stages.release(lane);
        if (lane == 0) barrier_arrive(b.tile_empty);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const bool exists = row + 8 * half < item.length;
            void *target = target_row(p.query, item.begin + row + 8 * half, item.head);
            store_row<0, KEY, FLOAT32, ADDS>(target, own, half, p.work.scale, exists, lane);
#if ONCE
            store_row<0, ONCE, FLOAT32, ADDS>(
                static_cast<char *>(target) + KEY * (FLOAT32 ? 4 : 2), once, half, p.work.scale, exists, lane);
#endif
        }
    });
}
