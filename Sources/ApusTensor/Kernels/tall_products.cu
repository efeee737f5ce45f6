// Products of some dozens to hundreds of rows with a weight, for decoder steps of larger batches: as row_products.cu, which
// serves fewer rows, by Hopper's matrix instructions.
//
// A block has 64 rows of x for each of its GROUPS warpgroups and COLUMNS rows of the weight; both come in panels of 64 elements
// through STAGES buffers, brought by the copy engine. Panels of the weight, which no kernel writes, are asked for before the
// kernel before this one has finished.
//
// Of a quantised weight EXPANDERS warps of their own write the panels: codes times scales, rounded to bf16.
//
// Set at compile time: WIDTH (elements of a row, a multiple of 8), COLUMNS (16, 32, 48, 64, 96, 128, 192 or 256), GROUPS (1 or
// 2), STAGES, and NORM, PARTS and EPILOGUE as for row_products.cu. Outputs are a multiple of 8 except with CHOOSE.
//
// Floor: the weights once over the bandwidth. In practice the panels of all blocks over the bandwidth of L2, and latencies.
#include "row_products.cuh"

#define CONSUMERS (128 * GROUPS)
#define EXPANDERS (FORMAT == BF16 ? 0 : 4)
#define THREADS (CONSUMERS + 32 + 32 * EXPANDERS)
#define ROWS (64 * GROUPS)
#define PANELS ((WIDTH + 63) / 64)
#define X_BYTES (ROWS * 128)
#define STAGE_BYTES (X_BYTES + COLUMNS * 128)
#define COUNT (COLUMNS / 2)  // accumulators of a thread
#define PANEL_TILES (COLUMNS / 16)
#define ROW_TILES(outputs) (((outputs) + 15) / 16)

static_assert(WIDTH % 8 == 0 && (EPILOGUE != SWIGLU || COLUMNS % 16 == 0), "shapes of these products");

struct Stages {
    u32 memory, full, empty;

    __device__ __forceinline__ u32 at(u32 number) const { return memory + number % STAGES * STAGE_BYTES; }
    __device__ __forceinline__ void wait_full(u32 number) const {
        barrier_wait(full + 8 * (number % STAGES), number / STAGES & 1);
    }
    __device__ __forceinline__ void wait_empty(u32 number) const {
        barrier_wait(empty + 8 * (number % STAGES), (number / STAGES & 1) ^ 1);
    }
    __device__ __forceinline__ void release(u32 number, int lane) const {
        if (lane == 0) barrier_arrive(empty + 8 * (number % STAGES));
    }
};

// Panels of the block's tiles.
__device__ __forceinline__ u32 panel_count(int blocks) {
    return (blocks - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x * PANELS;
}

// One thread: panel after panel, of the weight where it is not expanded. `expert`: whose weight.
__device__ __forceinline__ void bring_panels(
    const TensorMap *x, const TensorMap *weight, const Stages &stages, int blocks, int first_row, int expert
) {
    const u32 panels = panel_count(blocks);
    const auto bring_weight = [&](u32 number) {
        const u32 barrier = stages.full + 8 * (number % STAGES);
        const int tile = blockIdx.x + number / PANELS * gridDim.x;
        barrier_expect(barrier, FORMAT == BF16 ? STAGE_BYTES : X_BYTES);
        if (FORMAT == BF16)
            copy_tile_3d(stages.at(number) + X_BYTES, weight, barrier, number % PANELS * 64, tile * COLUMNS, expert);
    };
    const auto bring_x = [&](u32 number) {
        copy_tile_3d(stages.at(number), x, stages.full + 8 * (number % STAGES), number % PANELS * 64, first_row, 0);
    };
    const u32 early = panels < STAGES ? panels : STAGES;
#pragma unroll 1
    for (u32 number = 0; number < early; ++number) bring_weight(number);
    if (!EXPERTS) grid_wait();
#pragma unroll 1
    for (u32 number = 0; number < early; ++number) bring_x(number);
#pragma unroll 1
    for (u32 number = early; number < panels; ++number) {
        stages.wait_empty(number);
        bring_weight(number);
        bring_x(number);
    }
}

#if FORMAT != BF16
#define AHEAD (32 / CODE_BITS)  // units of a warp on their way

// A warp that goes further than all stages at a time would take the parity of a phase for that of the one before last.
static_assert(STAGES * PANEL_TILES >= EXPANDERS || (STAGES >= PANELS && EPILOGUE != CHOOSE), "stages of warps that expand");

// A warp: every EXPANDERS-th of the units of 16 rows that the panels consist of.
__device__ __forceinline__ void expand_panels(
    const unsigned char *weight, int outputs, const Stages &stages, int blocks, int warp, int lane
) {
    const u32 units = panel_count(blocks) * PANEL_TILES;
    const int g = lane / 4, t = lane % 4, last = ROW_TILES(outputs) - 1;
    const auto load = [&](u32 index) {
        const u32 number = index / PANEL_TILES;
        const int block = blockIdx.x + number / PANELS * gridDim.x;
        const int tile = min(block * PANEL_TILES + (int)(index % PANEL_TILES), last);
        return load_unit(weight + tile * tile_bytes(PANELS), number % PANELS, lane);
    };
    QuantisedUnit ring[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        if (warp + i * EXPANDERS < units) ring[i] = load(warp + i * EXPANDERS);
#pragma unroll 1
    for (u32 first = warp; first < units; first += AHEAD * EXPANDERS) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const u32 index = first + i * EXPANDERS;
            if (index >= units) continue;
            const u32 number = index / PANEL_TILES, rows = stages.at(number) + X_BYTES + index % PANEL_TILES * 2048;
            stages.wait_empty(number);
#pragma unroll
            for (int block = 0; block < 2; ++block)
#pragma unroll
                for (int lower = 0; lower < 2; ++lower) {
                    u32 pairs[4], words[4];
                    unit_pairs(pairs, ring[i], block, lower);
                    expand_pairs(words, pairs, unit_scales(ring[i], block, lower));
                    // A row has 128 bytes, whose runs of 16 are exchanged by its number (the swizzle of descriptor_rows).
                    const u32 row = rows + lower * 1024 + g * 128;
                    if (BY_16) {
#pragma unroll
                        for (int j = 0; j < 4; ++j)
                            store_shared_4(
                                row + (((block * 4 + j / 2 * 2 + t / 2) ^ g) << 4) + t % 2 * 8 + j % 2 * 4, words[j]);
                    } else {
                        store_shared_16(
                            row + (((block * 4 + t) ^ g) << 4), make_uint4(words[0], words[1], words[2], words[3]));
                    }
                }
            if (index + AHEAD * EXPANDERS < units) ring[i] = load(index + AHEAD * EXPANDERS);
            fence_async_proxy();
            __syncwarp();
            if (lane == 0) barrier_arrive(stages.full + 8 * (number % STAGES));
        }
    }
}
#endif

#if EPILOGUE == CHOOSE
// A product with noise. Not inlined: a copy for each accumulator would be more than the caches of instructions hold.
__device__ __noinline__ float drawn(float value, float temperature, u64 seed, int position, int index) {
    return value / temperature + gumbel(seed, position, index);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) tall_product(
    const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap weight_map,
    const __grid_constant__ RowProduct p
) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[2 * STAGES];
#if NORM
    __shared__ float factors[ROWS];
#endif
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int blocks = (p.outputs + COLUMNS - 1) / COLUMNS;
    const Stages stages = {shared_address(memory), shared_address(barriers), shared_address(barriers) + 8 * STAGES};
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(stages.full + 8 * i, FORMAT == BF16 ? 1 : 1 + PANEL_TILES);
            barrier_init(stages.empty + 8 * i, CONSUMERS / 32);
        }
        barrier_init_fence();
    }
    __syncthreads();
    // Which weight it is, the kernel before says.
    if (EXPERTS) grid_wait();
    const BlockRows rows(p, ROWS);
    if (EXPERTS && rows.first >= rows.end) return;
    if (warp == CONSUMERS / 32) {
        const int expert = EXPERTS ? p.chunks[blockIdx.y].x : 0;
        if (lane == 0) bring_panels(&x_map, &weight_map, stages, blocks, rows.first, expert);
        return;
    }
#if FORMAT != BF16
    if (warp > CONSUMERS / 32) {
        expand_panels(rows.weight, p.outputs, stages, blocks, warp - CONSUMERS / 32 - 1, lane);
        return;
    }
#endif
    // This thread's rows, and the first of its columns in each 8.
    const int row = rows.first + warp * 16 + lane / 4, column = lane % 4 * 2;
    const bool first = row < rows.end, second = row + 8 < rows.end;
#if EPILOGUE == ADD
    // Beside warps that expand weights there are no registers for the residual stream.
    constexpr bool EARLY = FORMAT == BF16;
    float2 weights[COLUMNS / 8], residual[EARLY ? COLUMNS / 8 : 1][2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 8; ++i) {
        const int n = blockIdx.x * COLUMNS + column + i * 8;
        weights[i] = n < p.outputs ? *reinterpret_cast<const float2 *>(p.next_weight + n) : float2{0.0f, 0.0f};
    }
#endif
    grid_wait();
    grid_launch_dependents();
#if EPILOGUE == ADD
    const auto residual_at = [&](int i, int half) {
        const int n = blockIdx.x * COLUMNS + column + i * 8;
        const float *from = p.sums + (row + 8LL * half) * p.outputs + n;
        return (half ? second : first) && n < p.outputs ? *reinterpret_cast<const float2 *>(from) : float2{0.0f, 0.0f};
    };
    if (EARLY) {
#pragma unroll
        for (int i = 0; i < COLUMNS / 8; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) residual[EARLY ? i : 0][half] = residual_at(i, half);
    }
#endif
#if NORM
    row_factors<ROWS, CONSUMERS>(p, rows, WIDTH, factors, threadIdx.x);
    named_sync(1, CONSUMERS);
    const float low = factors[warp * 16 + lane / 4], high = factors[warp * 16 + lane / 4 + 8];
#endif
#if EPILOGUE == CHOOSE
    float best[2] = {-infinity(), -infinity()};
    int best_index[2] = {NONE, NONE};
    const float temperatures[2] = {first ? p.temperatures[row] : 0.0f, second ? p.temperatures[row + 8] : 0.0f};
    const bool is_greedy = __all_sync(FULL_WARP, temperatures[0] <= 0.0f && temperatures[1] <= 0.0f);
    const u64 seeds[2] = {first && !is_greedy ? p.seeds[row] : 0, second && !is_greedy ? p.seeds[row + 8] : 0};
    const int positions[2] = {first && !is_greedy ? p.positions[row] : 0, second && !is_greedy ? p.positions[row + 8] : 0};
#endif
    float d[COUNT];
    u32 number = 0;
#pragma unroll 1
    for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
#pragma unroll 1
        for (int panel = 0; panel < PANELS; ++panel, ++number) {
            stages.wait_full(number);
            const u64 a = descriptor_rows(stages.at(number) + warp / 4 * 8192);
            const u64 b = descriptor_rows(stages.at(number) + X_BYTES);
            mma_fence();
#pragma unroll
            for (int step = 0; step < 4; ++step) Mma<COLUMNS>::ss(d, a + step * 2, b + step * 2, panel > 0 || step > 0);
            mma_commit();
            if (panel > 0) {
                mma_wait<1>();
                stages.release(number - 1, lane);
            }
        }
        mma_wait<0>();
        mma_settle(d);
        stages.release(number - 1, lane);

        const int n = block * COLUMNS + column;
#if NORM
#pragma unroll
        for (int i = 0; i < COUNT; ++i) d[i] *= i % 4 < 2 ? low : high;
#endif
#if EPILOGUE != CHOOSE
        if (p.bias != nullptr) {
#pragma unroll
            for (int i = 0; i < COLUMNS / 8; ++i) {
                if (n + i * 8 >= p.outputs) continue;
                const float2 bias = *reinterpret_cast<const float2 *>(p.bias + n + i * 8);
                d[4 * i] += bias.x, d[4 * i + 1] += bias.y, d[4 * i + 2] += bias.x, d[4 * i + 3] += bias.y;
            }
        }
#endif
#if EPILOGUE == STORE
        bf16_bits *out = p.out + (long long)row * p.stride + n;
#pragma unroll
        for (int i = 0; i < COLUMNS / 8; ++i) {
            if (n + i * 8 >= p.outputs) continue;
            if (first) *reinterpret_cast<u32 *>(out + i * 8) = pack_bf16(d[4 * i], d[4 * i + 1]);
            if (second)
                *reinterpret_cast<u32 *>(out + 8LL * p.stride + i * 8) = pack_bf16(d[4 * i + 2], d[4 * i + 3]);
        }
#elif EPILOGUE == SWIGLU
        const int width = p.outputs / 2;
        bf16_bits *out = p.out + (long long)row * width + block * (COLUMNS / 2) + column;
#pragma unroll
        for (int i = 0; i < COLUMNS / 16; ++i) {
            if (n + i * 16 >= p.outputs) continue;
            float x[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) x[j] = d[8 * i + j] * logistic(d[8 * i + j]) * d[8 * i + 4 + j];
            if (first) *reinterpret_cast<u32 *>(out + i * 8) = pack_bf16(x[0], x[1]);
            if (second) *reinterpret_cast<u32 *>(out + 8LL * width + i * 8) = pack_bf16(x[2], x[3]);
        }
#elif EPILOGUE == ADD
        float *sums = p.sums + (long long)row * p.outputs + n;
        bf16_bits *out = p.out + (long long)row * p.outputs + n;
        float squares[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < COLUMNS / 8; ++i) {
            if (n + i * 8 >= p.outputs) continue;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (!(half ? second : first)) continue;
                const long long at = half * 8LL * p.outputs + i * 8;
                const float2 old = EARLY ? residual[EARLY ? i : 0][half] : residual_at(i, half);
                const float2 x = {old.x + d[4 * i + 2 * half], old.y + d[4 * i + 2 * half + 1]};
                *reinterpret_cast<float2 *>(sums + at) = x;
                *reinterpret_cast<u32 *>(out + at) = pack_bf16(x.x * weights[i].x, x.y * weights[i].y);
                squares[half] += x.x * x.x + x.y * x.y;
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            squares[half] += __shfl_xor_sync(FULL_WARP, squares[half], 1);
            squares[half] += __shfl_xor_sync(FULL_WARP, squares[half], 2);
            if (lane % 4 == 0 && (half ? second : first))
                p.next_squares[(long long)(row + 8 * half) * blocks + block] = squares[half];
        }
#else
        if (p.sums != nullptr) {
            float *sums = p.sums + (long long)row * p.outputs + n;
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const int half = i / 2 % 2, at = i / 4 * 8 + i % 2;
                if (n + at < p.outputs && (half ? second : first)) sums[half * 8LL * p.outputs + at] = d[i];
            }
        }
        // Indices rise from one accumulator of a row to the next: the first of equal ones stays.
        const bool is_whole = (block + 1) * COLUMNS <= p.outputs;
        if (is_greedy) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const int half = i / 2 % 2, index = n + i / 4 * 8 + i % 2;
                if (d[i] > best[half] && (is_whole || index < p.outputs)) best[half] = d[i], best_index[half] = index;
            }
            continue;
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int half = i / 2 % 2, index = n + i / 4 * 8 + i % 2;
            if (index >= p.outputs) continue;
            const float value =
                temperatures[half] > 0.0f ? drawn(d[i], temperatures[half], seeds[half], positions[half], p.first_token + index) : d[i];
            if (value > best[half]) best[half] = value, best_index[half] = index;
        }
#endif
    }
#if EPILOGUE == CHOOSE
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int bit = 1; bit < 4; bit *= 2) {
            const float other = __shfl_xor_sync(FULL_WARP, best[half], bit);
            const int index = __shfl_xor_sync(FULL_WARP, best_index[half], bit);
            keep_better(best[half], best_index[half], other, index);
        }
        if (lane % 4 != 0 || !(half ? second : first)) continue;
        p.best[(long long)(row + 8 * half) * gridDim.x + blockIdx.x] = best[half];
        p.best_index[(long long)(row + 8 * half) * gridDim.x + blockIdx.x] = best_index[half];
    }
#endif
}
