// What attention over many rows shares, in training and prefill: panels in shared memory, items of work and who takes them,
// rings of buffers, turns.
//
// A tile in shared memory is panels of 64 columns: rows of 128 bytes in the 128-byte swizzle. Where a width is no multiple
// of 64 its last panel is filled up with zeros.
#pragma once

#include "ptx.cuh"

#define PANELS_OF(WIDTH) (((WIDTH) + 63) / 64)
#define TILE 128  // rows of an item, 64 to a consumer warpgroup
#define CONSUMERS 256
#define THREADS (CONSUMERS + 128)
#define PRODUCER_REGISTERS 40
#define CONSUMER_REGISTERS 232
#define LOG2_E 1.4426950408889634f
#define LN_2 0.69314718055994531f

// A tile of rows of one head. 32 bytes, read as two 16-byte words.
struct alignas(16) Item {
    int begin;     // token at which the sequence begins
    int length;    // its tokens; 0: nothing is left to do
    int row;       // the tile's first row in the sequence
    int head;      // query head, or KV head where the tile is one of keys
    int padded;    // place of the sequence's first row where every sequence begins at a multiple of TILE
    int cached;    // prefill: tokens of the sequence before these,
    int sequence;  // and its row in the page table
    int unused;
};

// The items of a launch in the order in which they are begun, longest first. The first ones go to blocks by their number,
// the others to whoever is free: results do not depend on it.
struct Work {
    const Item *items;
    u32 *counters;  // [2], zero before the launch and after it
    int count;
    int heads, group;  // query heads, and how many of them share a KV head
    int window;        // rows see so many keys; 1 << 30 for all
    float scale;
};

// All panels of a row of `WIDTH` columns from `row` on, of one head; on their way until `barrier` has their bytes.
template <int WIDTH>
__device__ __forceinline__ void load_panels(u32 target, const TensorMap *map, u32 barrier, int head, int token, int rows) {
#pragma unroll
    for (int panel = 0; panel < PANELS_OF(WIDTH); ++panel)
        copy_tile_3d(target + panel * rows * 128, map, barrier, panel * 64, head, token);
}

// Rows from `valid` on of COUNT panels become 0: behind the end of a sequence lies another, and 0 x NaN is NaN.
template <int COUNT>
__device__ __forceinline__ void clear_rows(u32 panels, int rows, int valid, int thread, int threads) {
    const int chunks = (rows - valid) * 8;
#pragma unroll 1
    for (int i = thread; i < chunks * COUNT; i += threads)
        store_shared_zero_16(panels + i / chunks * (rows * 128) + valid * 128 + i % chunks * 16);
}

// ---- who takes which item ----

// Two items in shared memory, the one that is worked on and the next.
struct Queue {
    Item *slots;
    u32 full, empty;  // two barriers each
};

#define QUEUE_BARRIERS 4

__device__ __forceinline__ Queue prepare_queue(Item *slots, u32 barriers) {
    const Queue queue = {slots, barriers, barriers + 16};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
            barrier_init(queue.full + 8 * i, 1);
            barrier_init(queue.empty + 8 * i, CONSUMERS / 32);
        }
    }
    return queue;
}

// One thread: hands items to the consumers and gives each to `load`.
template <typename Load>
__device__ __forceinline__ void produce_items(const Work &work, const Queue &queue, Load load) {
    u32 index = blockIdx.x;
    for (u32 number = 0;; ++number) {
        const u32 slot = number & 1;
        Item item = {};
        const bool some = index < (u32)work.count;
        if (some) {
            const int4 *words = reinterpret_cast<const int4 *>(work.items + index);
            const int4 a = words[0], b = words[1];
            item = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, 0};
        }
        barrier_wait(queue.empty + 8 * slot, (number >> 1 & 1) ^ 1);
        queue.slots[slot] = item;
        barrier_arrive(queue.full + 8 * slot);
        if (!some) break;
        index = gridDim.x + atomicAdd(work.counters, 1u);
        load(item);
    }
    // The last block to be done leaves the counters as it found them.
    if (atomicAdd(work.counters + 1, 1u) == gridDim.x - 1) work.counters[0] = work.counters[1] = 0;
}

// All consumers: gives item after item to `consume`.
template <typename Consume>
__device__ __forceinline__ void consume_items(const Queue &queue, int lane, Consume consume) {
    for (u32 number = 0;; ++number) {
        const u32 slot = number & 1;
        barrier_wait(queue.full + 8 * slot, number >> 1 & 1);
        const Item &item = queue.slots[slot];
        if (item.length == 0) return;
        consume(item);
        __syncwarp();
        if (lane == 0) barrier_arrive(queue.empty + 8 * slot);
    }
}

// The two consumer warpgroups issue their products by turns, so that what one computes between them runs under the products
// of the other. The first turn is warpgroup 0's. With TURNS 0 they issue as they come, to measure what turns give.
#ifndef TURNS
#define TURNS 1
#endif

__device__ __forceinline__ void turns_begin(int warpgroup) {
    if (TURNS && warpgroup == 1) named_arrive(2, CONSUMERS);
}

__device__ __forceinline__ void turn_begin(int warpgroup) {
    if (TURNS) named_sync(2 + warpgroup, CONSUMERS);
}

__device__ __forceinline__ void turn_end(int warpgroup) {
    if (TURNS) named_arrive(3 - warpgroup, CONSUMERS);
}

// A ring of buffers in shared memory: barriers `full` and `empty` of each, and how far this thread has come.
template <int BUFFERS>
struct Ring {
    u32 full, empty;
    u32 number = 0;

    __device__ __forceinline__ Ring(u32 barriers) : full(barriers), empty(barriers + 8 * BUFFERS) {}

    __device__ __forceinline__ void prepare(u32 fillers, u32 users) {
        for (int i = 0; i < BUFFERS; ++i) {
            barrier_init(full + 8 * i, fillers);
            barrier_init(empty + 8 * i, users);
        }
    }

    __device__ __forceinline__ u32 slot(u32 ahead = 0) const { return (number + ahead) % BUFFERS; }

    // The producer: waits until the next buffer is free. Its barrier.
    __device__ __forceinline__ u32 claim() const {
        barrier_wait(empty + 8 * slot(), (number / BUFFERS & 1) ^ 1);
        return full + 8 * slot();
    }

    // A consumer: waits until the buffer is filled.
    __device__ __forceinline__ void wait(u32 ahead = 0) const {
        barrier_wait(full + 8 * slot(ahead), (number + ahead) / BUFFERS & 1);
    }

    // A consumer warp: has done with the buffer.
    __device__ __forceinline__ void release(int lane) {
        if (lane == 0) barrier_arrive(empty + 8 * slot());
        ++number;
    }
};

#define RING_BARRIERS(STAGES) (2 * (STAGES))
