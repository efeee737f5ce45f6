// Prefill attention over the paged cache: the new tokens of each sequence, already appended, attend to all tokens before them
// and to each other, causally. For every CacheGeometry whose output is at most 256 wide; bf16, float32 accumulation.
//
// The geometry (CacheGeometry): a query head of group g computes
//   score  = q_shared . shared[g] + q_key . key[g, or the one kept once]
//   output = softmax(scale score) [shared[g] | value[g]]
// MHA, GQA, MQA: value and own key. GTA: shared | value = the tied state, key = the one RoPE key. GLA: absorbed.
//
// Layouts (elements):
//   query    [new token of all sequences][query head][shared | key], sequences one after the other
//   cache    a page: [group][token][shared | value | own key], then [token][once key], as for decode.cu
//   output   [new token][query head][shared | value] bf16; lse [new token][query head], natural log
// Row r of a sequence with `cached` tokens before its new ones sees the tokens in (cached + r - window, cached + r].
//
// Schedule: as attention_forward.cu; a block of BLOCK_N tokens comes from its pages by the tensor copy engine, rows that are
// both key and value once. The producer looks a block's pages up one block ahead.
//
// Floor: 2 (query + output width) operations a score that is not masked, over the rate of a bf16 product.
//
// Set at compile time: SHARED, VALUE, KEY (multiples of 16), KEY_ONCE, PAGE_SIZE (a multiple of 8), BLOCK_N, STAGES.
#include "attention_items.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

#define V_WIDTH (SHARED + VALUE)
#define ROW_WIDTH (V_WIDTH + (KEY_ONCE ? 0 : KEY))
#define Q_WIDTH (SHARED + KEY)
#define ROW_PANELS PANELS_OF(ROW_WIDTH)
#define QUERY_BYTES (PANELS_OF(Q_WIDTH) * 64 * 128)  // of a warpgroup's rows
#define PANEL_BYTES (BLOCK_N * 128)
#define STAGE_BYTES ((ROW_PANELS + KEY_ONCE) * PANEL_BYTES)
#define BOX (PAGE_SIZE < BLOCK_N ? PAGE_SIZE : BLOCK_N)  // tokens that one copy brings
#define BOXES (BLOCK_N / BOX)
#define S_COUNT (BLOCK_N / 2)

static_assert(SHARED % 16 == 0 && VALUE % 16 == 0 && KEY % 16 == 0 && V_WIDTH <= 256, "widths of this kernel");
static_assert(!KEY_ONCE || KEY <= 64, "the key kept once is one panel");
static_assert(PAGE_SIZE % 8 == 0 && PAGE_SIZE % BOX == 0 && BLOCK_N % BOX == 0, "pages and blocks must nest");
static_assert(BOXES <= 8, "pages that the producer's registers hold");

struct Prefill {
    Work work;
    const int *page_table;  // [sequence][page_stride]
    bf16_bits *output;
    float *lse;
    int page_stride;
};

struct Buffers {
    u32 queries, stages, query_full, query_empty;
};

// The blocks of tokens that a tile sees: the last one, and the first.
__device__ __forceinline__ int2 visible_blocks(const Work &work, const Item &item) {
    return {
        (item.cached + min(item.length, item.row + TILE) - 1) / BLOCK_N,
        max(0, item.cached + item.row - work.window + 1) / BLOCK_N};
}

// The pages of a block, -1 behind the sequence's end.
__device__ __forceinline__ void look_up(int (&pages)[BOXES], const int *table, const Item &item, int block) {
#pragma unroll
    for (int i = 0; i < BOXES; ++i) {
        const int token = block * BLOCK_N + i * BOX;
        pages[i] = token < item.cached + item.length ? table[token / PAGE_SIZE] : -1;
    }
}

__device__ __forceinline__ void load_item(
    const Prefill &p, const TensorMap *query, const TensorMap *rows, const TensorMap *key, const Buffers &b, const Item &item,
    u32 &count, Ring<STAGES> &stages
) {
    const int *table = p.page_table + (long long)item.sequence * p.page_stride;
    const int2 blocks = visible_blocks(p.work, item);
    int pages[BOXES], next[BOXES];
    look_up(pages, table, item, blocks.x);
    barrier_wait(b.query_empty, (count++ & 1) ^ 1);
    barrier_expect(b.query_full, 2 * QUERY_BYTES);
    for (int i = 0; i < 2; ++i)
        load_panels<Q_WIDTH>(b.queries + i * QUERY_BYTES, query, b.query_full, item.head, item.begin + item.row + i * 64, 64);
    const int group = item.head / p.work.group;
#pragma unroll 1
    for (int block = blocks.x; block >= blocks.y; --block) {
        if (block > blocks.y) look_up(next, table, item, block - 1);
        const u32 full = stages.claim(), target = b.stages + stages.slot() * STAGE_BYTES;
        int boxes = 0;
#pragma unroll
        for (int i = 0; i < BOXES; ++i) boxes += pages[i] >= 0;
        barrier_expect(full, boxes * ((ROW_PANELS + KEY_ONCE) * BOX * 128));
#pragma unroll
        for (int i = 0; i < BOXES; ++i) {
            if (pages[i] < 0) continue;
            const int in_page = (block * BLOCK_N + i * BOX) % PAGE_SIZE;
            const u32 box = target + i * (BOX * 128);
#pragma unroll
            for (int panel = 0; panel < ROW_PANELS; ++panel)
                copy_tile_5d(box + panel * PANEL_BYTES, rows, full, panel * 64, in_page, 0, group, pages[i]);
            if (KEY_ONCE) copy_tile_3d(box + ROW_PANELS * PANEL_BYTES, key, full, 0, in_page, pages[i]);
        }
        ++stages.number;
#pragma unroll
        for (int i = 0; i < BOXES; ++i) pages[i] = next[i];
    }
}

// Where in a block the 16 key columns lie that meet the query columns from `column` on, in units of 16 bytes.
__device__ constexpr int key_place(int column) {
    const bool shared = column < SHARED, once = KEY_ONCE && !shared;
    const int in_row = shared ? column : once ? column - SHARED : V_WIDTH + column - SHARED;
    return ((once ? ROW_PANELS : 0) + in_row / 64) * (PANEL_BYTES / 16) + in_row % 64 / 8;
}

// S = Q K^T.
__device__ __forceinline__ void scores(float (&s)[S_COUNT], u32 query, u32 stage) {
    keep_in_place(query);  // or the compiler keeps a descriptor for every step over all blocks
    const u64 a = descriptor_rows(query), b = descriptor_rows(stage);
#pragma unroll
    for (int step = 0; step < Q_WIDTH / 16; ++step)
        Mma<BLOCK_N>::ss(s, a + step / 4 * (64 * 128 / 16) + step % 4 * 2, b + key_place(step * 16), step > 0);
}

// O (+)= P V.
__device__ __forceinline__ void add_values(
    float (&o)[V_WIDTH / 2], const u32 (&weights)[S_COUNT / 2], u32 stage, int accumulate
) {
    const u64 b = descriptor_columns(stage, PANEL_BYTES);
#pragma unroll
    for (int step = 0; step < BLOCK_N / 16; ++step)
        Mma<V_WIDTH>::rs_columns(
            o, weights[4 * step], weights[4 * step + 1], weights[4 * step + 2], weights[4 * step + 3], b + step * 128,
            step > 0 ? 1 : accumulate);
}

// What a warpgroup sees of a block that begins at token `first`; `position` is this thread's first row, `rows` the
// warpgroup's, both as positions in the sequence.
__device__ __forceinline__ void mask_block(float (&s)[S_COUNT], int first, int rows, int position, int window, int lane) {
    if (first + BLOCK_N - 1 > rows) mask_scores(s, {position + 1 - first, position + 9 - first}, lane);
    if (first <= rows + 63 - window)
        mask_scores_before(s, {position - window + 1 - first, position - window + 9 - first}, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) prefill(
    const __grid_constant__ TensorMap query_map, const __grid_constant__ TensorMap rows_map,
    const __grid_constant__ TensorMap key_map, const __grid_constant__ Prefill p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[2 + RING_BARRIERS(STAGES) + QUEUE_BARRIERS];
    __shared__ Item slots[2];
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    Buffers b;
    b.queries = shared_address(memory);
    b.stages = b.queries + 2 * QUERY_BYTES;
    b.query_full = shared_address(barriers);
    b.query_empty = b.query_full + 8;
    Ring<STAGES> stages(b.query_full + 16);
    const Queue queue = prepare_queue(slots, b.query_full + 16 + 8 * RING_BARRIERS(STAGES));
    if (threadIdx.x == 0) {
        barrier_init(b.query_full, 1);
        barrier_init(b.query_empty, CONSUMERS / 32);
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
            produce_items(p.work, queue, [&](const Item &item) {
                load_item(p, &query_map, &rows_map, &key_map, b, item, count, stages);
            });
        }
        return;
    }

    registers_grow<CONSUMER_REGISTERS>();
    turns_begin(warpgroup);
    const u32 query = b.queries + warpgroup * QUERY_BYTES;
    const float scale = p.work.scale * LOG2_E;
    u32 count = 0;
    float o[V_WIDTH / 2];
    float s[S_COUNT];
    u32 even[S_COUNT / 2], odd[S_COUNT / 2];
    consume_items(queue, lane, [&](const Item &item) {
        const int rows = item.cached + item.row + warpgroup * 64, position = rows + warp * 16 + lane / 4;
        const int2 blocks = visible_blocks(p.work, item);
        RowState state = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
        int block = blocks.x, accumulate = 0;
        barrier_wait(b.query_full, count++ & 1);

        // What lies behind the sequence's end in its last page may be anything, NaN too: as values it must be 0.
        stages.wait();
        const int valid = item.cached + item.length - block * BLOCK_N;
        if (valid < BLOCK_N) {
            clear_rows<PANELS_OF(V_WIDTH)>(b.stages + stages.slot() * STAGE_BYTES, BLOCK_N, valid, threadIdx.x, CONSUMERS);
            fence_async_proxy();
            named_sync(1, CONSUMERS);
        }
        u32 stage = b.stages + stages.slot() * STAGE_BYTES;
        mma_fence();
        scores(s, query, stage);
        mma_commit();
        mma_wait<0>();
        mma_settle(s);
        mask_block(s, block * BLOCK_N, rows, position, p.work.window, lane);
        softmax_block<false>(s, even, state, scale, [](int) { return float2{1.0f, 1.0f}; });

        // Weights `from` of the block before meet its values, while the next block's become `to`.
        const auto step = [&](const u32 (&from)[S_COUNT / 2], u32 (&to)[S_COUNT / 2]) {
            --block;
            const u32 next = b.stages + stages.slot(1) * STAGE_BYTES;
            stages.wait(1);
            turn_begin(warpgroup);
            mma_fence();
            scores(s, query, next);
            mma_commit();
            add_values(o, from, stage, accumulate);
            mma_commit();
            turn_end(warpgroup);
            mma_wait<1>();
            mma_settle(s);
            mask_block(s, block * BLOCK_N, rows, position, p.work.window, lane);
            const float2 factor = softmax_block<false>(s, to, state, scale, [](int) { return float2{1.0f, 1.0f}; });
            mma_wait<0>();
            mma_settle(o);
            stages.release(lane);
            rescale(o, factor);
            accumulate = 1;
            stage = next;
        };
        const auto finish = [&](const u32 (&from)[S_COUNT / 2]) {
            if (lane == 0) barrier_arrive(b.query_empty);
            mma_fence();
            add_values(o, from, stage, accumulate);
            mma_commit();
            mma_wait<0>();
            mma_settle(o);
            stages.release(lane);
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
            const int row = position - item.cached + 8 * half;
            const bool exists = row < item.length;
            const long long index = (long long)(item.begin + row) * p.work.heads + item.head;
            if (exists && lane % 4 == 0) p.lse[index] = finished.y * LN_2;
            store_row<0, V_WIDTH, false, false>(p.output + index * V_WIDTH, o, half, finished.x, exists, lane);
        }
    });
}
