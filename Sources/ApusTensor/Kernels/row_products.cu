// Products of few rows with a weight, for decoder steps in which each sequence gets one token:
//   out[r, n] = sum_k x[r, k] weight[n, k], bf16 operands, float32 sums.
//
// A weight row is read by one block and by no other warp than the one that multiplies it, so it goes from memory to registers
// and into tensor cores as the 16-row operand; 8 rows of x are the other one. The order of k within a product is free as long
// as both operands have the same: a lane takes 16 bytes of a row, which serve two products.
//
// Warps share out k in units of 64 elements; their sums meet in shared memory. What does not depend on the kernel before, the
// first weights, is asked for before it has finished.
//
// Codes of a quantised weight become bf16 in registers, which represents them exactly; the sums over a block of 32 elements get
// its scale, in float32. Where there is a minimum, it is added times the sum of x, which is a product with ones.
//
// Set at compile time: WIDTH (elements of a row, a multiple of 8), ROWS of x in a block (8, 16, 32 or 64), TILES of 16 weight
// rows in a block at a time, WARPS, and
//   NORM      x is a row of the residual stream times the norm's weight; its products get 1 / sqrt(mean square + epsilon);
//             PARTS add up to the sum of squares
//   EPILOGUE  STORE:  out = product + bias
//             ADD:    residual += product + bias; out = residual x the next norm's weight; the sums of its squares
//             SWIGLU: weight rows come as 8 of the gate, 8 of up, ...; out = silu(gate) up
//             CHOOSE: the largest product of each row and its index, with Gumbel noise where a row has a temperature
//   ROUND     units of a warp whose x is in shared memory at a time; 0: x stays in registers
//   REPEATS   blocks go on to further tiles (with CHOOSE they do)
//   RESIDENT  blocks that a multiprocessor has registers for
//
// Floor: the weights once over the bandwidth. In practice the latencies of a launch, of x and of the sums.
#include "row_products.cuh"

#ifndef REPEATS
#define REPEATS (EPILOGUE == CHOOSE)
#endif
#define THREADS (32 * WARPS)
#ifdef RESIDENT
#define BOUNDS THREADS, RESIDENT
#else
#define BOUNDS THREADS
#endif
#define UNIT 64
#define UNITS ((WIDTH + UNIT - 1) / UNIT)
#define OWN ((UNITS + WARPS - 1) / WARPS)  // units of a warp: its number, and every WARPS-th from there
#define GROUPS (ROWS / 8)
#if FORMAT == BF16
#define AT_ONCE 4  // units of a tile whose weights are on their way
#else
#define AT_ONCE (GROUPS >= 8 ? 2 : CODE_BITS == 8 ? 4 : HAS_MINIMUM ? 6 : 8)
#endif
#define FRAGMENTS ((TILES * GROUPS + WARPS - 1) / WARPS)  // 16 weight rows x 8 rows of x that a warp finishes
#define IN_ROUNDS (ROUND > 0 && ROUND < OWN)              // x comes again for each tile
#define BUFFERS (FORMAT != BF16 && IN_ROUNDS ? 2 : 1)
#define ROUNDS (ROUND > 0 ? (OWN + ROUND - 1) / ROUND : 1)
#define BUFFER_BYTES (ROUND * ROWS * 128)
#define STAGE_BYTES (BUFFERS * BUFFER_BYTES)               // of a warp
#define SUMS_OFFSET (REPEATS ? WARPS * STAGE_BYTES : 0)    // elsewhere the sums take the place of x

static_assert(WIDTH % 8 == 0 && ROWS % 8 == 0 && (TILES == 1 || TILES == 2 || TILES == 4), "shapes of these products");

extern __shared__ __align__(128) unsigned char memory[];

// Units whose weights are on their way: of quantised weights so many that a tile's units are a multiple of them, where that does
// not make them much fewer. Then the next tile's take the places of those that have been multiplied.
constexpr int depth(int own, int most, bool divides) {
    if (own <= most) return own;
    for (int count = most; divides && count > most / 2; --count)
        if (own % count == 0) return count;
    return most;
}

constexpr int DEPTH = depth(OWN, TILES < AT_ONCE ? AT_ONCE / TILES : 1, FORMAT != BF16);
constexpr bool FOLLOWS = FORMAT != BF16 && REPEATS && OWN % DEPTH == 0;

#if FORMAT == BF16
struct WeightUnit {
    uint4 words[4];
};

__device__ __forceinline__ void load_weights(
    WeightUnit (&w)[TILES], const RowProduct &p, const unsigned char *weight, int block, int unit, int lane
) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = min((block * TILES + i) * 16 + half * 8 + lane / 4, p.outputs - 1);
            const bf16_bits *source = reinterpret_cast<const bf16_bits *>(weight) + (long long)row * WIDTH;
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int k = unit * UNIT + part * 32 + lane % 4 * 8;
                w[i].words[2 * half + part] =
                    k < WIDTH ? *reinterpret_cast<const uint4 *>(source + k) : make_uint4(0, 0, 0, 0);
            }
        }
    }
}
#else
typedef QuantisedUnit WeightUnit;

__device__ __forceinline__ void load_weights(
    WeightUnit (&w)[TILES], const RowProduct &p, const unsigned char *weight, int block, int unit, int lane
) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
        const int tile = min(block * TILES + i, (p.outputs - 1) / 16);
        w[i] = load_unit(weight + tile * tile_bytes(UNITS), unit, lane);
    }
}
#endif

// Where 16 bytes of a row of a unit lie: lanes that read 8 rows together meet all banks.
__device__ __forceinline__ u32 stage_place(int unit, int row, int chunk) {
    return unit * (ROWS * 128) + row * 128 + ((chunk ^ (row % 2 * 4)) << 4);
}

// Units [first, first + ROUND) of the warp's own, into its share of shared memory: asks for them.
__device__ __forceinline__ void stage_rows(
    const RowProduct &p, const BlockRows &rows, u32 stage, int first, int warp, int lane
) {
#pragma unroll 1
    for (int i = 0; i < ROUND && first + i < OWN && (first + i) * WARPS + warp < UNITS; ++i) {
        const int k = ((first + i) * WARPS + warp) * UNIT + lane % 8 * 8;
#pragma unroll
        for (int row = lane / 8; row < ROWS; row += 4) {
            const bf16_bits *source = p.x + rows.source(p, rows.first + row) * WIDTH + k;
            copy_16(stage + stage_place(i, row, lane % 8), k < WIDTH ? source : p.x, k < WIDTH ? 16 : 0);
        }
    }
    copies_commit();
}

template <int PENDING>
__device__ __forceinline__ void staged() {
    copies_wait<PENDING>();
    __syncwarp();
}

// A lane's x of a row in a block of 32 elements: two pairs for the first product of 16, two for the second.
__device__ __forceinline__ uint4 x_of_stage(u32 stage, int slot, int row, int block, int lane) {
#if FORMAT != BF16
    if (BY_16) {
        const int chunk = block * 4 + lane % 4 / 2, offset = lane % 2 * 8;
        const float2 first = load_shared_2_floats(stage + stage_place(slot, row, chunk) + offset);
        const float2 second = load_shared_2_floats(stage + stage_place(slot, row, chunk + 2) + offset);
        return make_uint4(
            __float_as_uint(first.x), __float_as_uint(first.y), __float_as_uint(second.x), __float_as_uint(second.y));
    }
#endif
    return load_shared_16(stage + stage_place(slot, row, block * 4 + lane % 4));
}

__device__ __forceinline__ uint4 x_of_memory(const bf16_bits *row, int k, int lane) {
#if FORMAT != BF16
    if (BY_16) {
        // Rows are whole super-blocks.
        if (k >= WIDTH) return make_uint4(0, 0, 0, 0);
        const uint2 first = *reinterpret_cast<const uint2 *>(row + k + lane % 4 * 4);
        const uint2 second = *reinterpret_cast<const uint2 *>(row + k + 16 + lane % 4 * 4);
        return make_uint4(first.x, first.y, second.x, second.y);
    }
#endif
    k += lane % 4 * 8;
    return k < WIDTH ? *reinterpret_cast<const uint4 *>(row + k) : make_uint4(0, 0, 0, 0);
}

// sum += a unit's products; x(group, block) are a lane's of 8 rows in a block of 32 elements.
#if FORMAT == BF16
template <typename X>
__device__ __forceinline__ void multiply_unit(float (&sum)[TILES][GROUPS][4], const WeightUnit (&units)[TILES], X x) {
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        const uint4 low = x(group, 0), high = x(group, 1);
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            const uint4(&w)[4] = units[i].words;
            mma_16x8x16(sum[i][group], w[0].x, w[2].x, w[0].y, w[2].y, low.x, low.y);
            mma_16x8x16(sum[i][group], w[0].z, w[2].z, w[0].w, w[2].w, low.z, low.w);
            mma_16x8x16(sum[i][group], w[1].x, w[3].x, w[1].y, w[3].y, high.x, high.y);
            mma_16x8x16(sum[i][group], w[1].z, w[3].z, w[1].w, w[3].w, high.z, high.w);
        }
    }
}
#else
#define ONES 0x3f803f80u  // two of them in bf16
#define BLOCKS_AT_ONCE (GROUPS >= 8 && CODE_BITS == 4 ? 1 : 2)  // what registers hold

template <typename X>
__device__ __forceinline__ void multiply_unit(float (&sum)[TILES][GROUPS][4], const WeightUnit (&units)[TILES], X x) {
#pragma unroll BLOCKS_AT_ONCE
    for (int block = 0; block < 2; ++block) {
        u32 a[TILES][2][4];
        Scales scales[TILES][2];
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            u32 upper[4], lower[4];
            unit_pairs(upper, units[i], block, 0);
            unit_pairs(lower, units[i], block, 1);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                a[i][half][0] = upper[2 * half], a[i][half][1] = lower[2 * half];
                a[i][half][2] = upper[2 * half + 1], a[i][half][3] = lower[2 * half + 1];
            }
            scales[i][0] = unit_scales(units[i], block, 0);
            scales[i][1] = unit_scales(units[i], block, 1);
        }
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            const uint4 own = x(group, block);
            float whole[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // sums of x
            if (HAS_MINIMUM) {
                mma_16x8x16(whole, ONES, ONES, ONES, ONES, own.x, own.y);
                mma_16x8x16(whole, ONES, ONES, ONES, ONES, own.z, own.w);
            }
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                mma_16x8x16(d, a[i][0][0], a[i][0][1], a[i][0][2], a[i][0][3], own.x, own.y);
                if (BY_16) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) sum[i][group][j] += scales[i][j / 2].factor[0] * d[j], d[j] = 0.0f;
                }
                mma_16x8x16(d, a[i][1][0], a[i][1][1], a[i][1][2], a[i][1][3], own.z, own.w);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    sum[i][group][j] += scales[i][j / 2].factor[1] * d[j];
                    if (HAS_MINIMUM) sum[i][group][j] += scales[i][j / 2].minimum * whole[j];
                }
            }
        }
    }
}
#endif

extern "C" __global__ void __launch_bounds__(BOUNDS) row_product(const __grid_constant__ RowProduct p) {
#if NORM
    __shared__ float inverses[ROWS];
#endif
#if EPILOGUE == CHOOSE
    __shared__ float block_best[TILES][ROWS];
    __shared__ int block_index[TILES][ROWS];
    float best[FRAGMENTS][2];
    int best_index[FRAGMENTS][2];
#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) best[i][j] = -infinity(), best_index[i][j] = NONE;
#endif
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int tiles = (p.outputs + 15) / 16, blocks = (tiles + TILES - 1) / TILES;
#if EXPERTS
    // Which weight it is, the kernel before says.
    grid_wait();
    grid_launch_dependents();
    const BlockRows rows(p, ROWS);
    if (rows.first >= rows.end) return;
#else
    const BlockRows rows(p, ROWS);
#endif
    const int first_row = rows.first;
    const u32 stage = shared_address(memory) + warp * STAGE_BYTES;
    float4 *block_sums = reinterpret_cast<float4 *>(memory + SUMS_OFFSET);

    WeightUnit w[DEPTH][TILES];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i)
        if (i * WARPS + warp < UNITS) load_weights(w[i], p, rows.weight, blockIdx.x, i * WARPS + warp, lane);
#if !EXPERTS
    grid_wait();
    grid_launch_dependents();
#endif

#if ROUND == 0
    uint4 x[OWN][GROUPS][2];
#pragma unroll
    for (int i = 0; i < OWN; ++i)
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            const bf16_bits *row = p.x + rows.source(p, first_row + group * 8 + lane / 4) * WIDTH;
#pragma unroll
            for (int block = 0; block < 2; ++block)
                x[i][group][block] = x_of_memory(row, (i * WARPS + warp) * UNIT + block * 32, lane);
        }
#endif
#if EPILOGUE == ADD
    float4 residual[FRAGMENTS];
    const auto load_residual = [&](int block) {
#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i) {
            const int fragment = warp + i * WARPS, row = first_row + fragment % GROUPS * 8 + lane % 4 * 2;
            const int n = (block * TILES + fragment / GROUPS) * 16 + lane / 4;
            const float *from = p.sums + (long long)row * p.outputs + n;
            const bool some = fragment < TILES * GROUPS, first = some && row < rows.end, second = some && row + 1 < rows.end;
            residual[i].x = first && n < p.outputs ? from[0] : 0.0f;
            residual[i].y = second && n < p.outputs ? from[p.outputs] : 0.0f;
            residual[i].z = first && n + 8 < p.outputs ? from[8] : 0.0f;
            residual[i].w = second && n + 8 < p.outputs ? from[p.outputs + 8] : 0.0f;
        }
    };
    load_residual(blockIdx.x);
#endif
#if NORM
    row_factors<ROWS, THREADS>(p, rows, WIDTH, inverses, threadIdx.x);
#endif
    [[maybe_unused]] u32 round = 0;  // whose x is asked for next, or multiplied, counted over all tiles
#if ROUND >= OWN || BUFFERS == 2
    stage_rows(p, rows, stage, 0, warp, lane);
    if (!IN_ROUNDS) staged<0>();
#endif

#pragma unroll 1
    for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
        float sum[TILES][GROUPS][4] = {};
#if EPILOGUE == ADD
        if (REPEATS && block != blockIdx.x) load_residual(block);
#endif
#if ROUND == 0
#pragma unroll
#else
#pragma unroll 1
#endif
        for (int first = 0; first < OWN; first += DEPTH) {
#pragma unroll
            for (int i = 0; i < DEPTH; ++i) {
                const int own = first + i, unit = own * WARPS + warp;
                if (OWN % DEPTH != 0 && own >= OWN) continue;
#if IN_ROUNDS
                if (own % ROUND == 0) {
                    __syncwarp();
                    if (BUFFERS == 2) {
                        // The next round's x is on its way during this one; after the last round the next tile's first.
                        ++round;
                        const bool more = own + ROUND < OWN || (REPEATS && block + gridDim.x < blocks);
                        const u32 next = stage + round % 2 * BUFFER_BYTES;
                        if (more) stage_rows(p, rows, next, round % ROUNDS * ROUND, warp, lane);
                        else copies_commit();
                        staged<1>();
                    } else {
                        stage_rows(p, rows, stage, own, warp, lane);
                        staged<0>();
                    }
                }
#endif
                if (unit < UNITS) {
#if ROUND == 0
                    multiply_unit(sum, w[i], [&](int group, int part) { return x[own][group][part]; });
#else
                    const int slot = IN_ROUNDS ? own % ROUND : own;
                    const u32 place = stage + (BUFFERS == 2 ? (round + 1) % 2 * BUFFER_BYTES : 0);
                    multiply_unit(
                        sum, w[i], [&](int group, int part) { return x_of_stage(place, slot, group * 8 + lane / 4, part, lane); });
#endif
                }
                if (own + DEPTH < OWN) {
                    if (unit + DEPTH * WARPS < UNITS) load_weights(w[i], p, rows.weight, block, unit + DEPTH * WARPS, lane);
                } else if (FOLLOWS && block + gridDim.x < blocks && i * WARPS + warp < UNITS) {
                    load_weights(w[i], p, rows.weight, block + gridDim.x, i * WARPS + warp, lane);
                }
            }
        }
        // The next tile's weights are on their way while this one's sums meet.
        if (REPEATS && !FOLLOWS && block + gridDim.x < blocks) {
#pragma unroll
            for (int i = 0; i < DEPTH; ++i)
                if (i * WARPS + warp < UNITS) load_weights(w[i], p, rows.weight, block + gridDim.x, i * WARPS + warp, lane);
        }
        if (!REPEATS && ROUND > 0) __syncthreads();  // all have done with x
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int group = 0; group < GROUPS; ++group)
                block_sums[((warp * TILES + i) * GROUPS + group) * 32 + lane] =
                    make_float4(sum[i][group][0], sum[i][group][1], sum[i][group][2], sum[i][group][3]);
        __syncthreads();

#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i) {
            const int fragment = warp + i * WARPS;
            if (fragment >= TILES * GROUPS) continue;
            float4 total = block_sums[fragment * 32 + lane];
            for (int other = 1; other < WARPS; ++other) {
                const float4 part = block_sums[(other * TILES * GROUPS + fragment) * 32 + lane];
                total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
            }
            // x, y: rows `row` and the next of output n; z, w: of output n + 8.
            const int in_block = fragment % GROUPS * 8 + lane % 4 * 2, row = first_row + in_block;
            const int tile = block * TILES + fragment / GROUPS, n = tile * 16 + lane / 4;
            [[maybe_unused]] const bool low = n < p.outputs, high = n + 8 < p.outputs;
#if NORM
            total.x *= inverses[in_block], total.z *= inverses[in_block];
            total.y *= inverses[in_block + 1], total.w *= inverses[in_block + 1];
#endif
#if EPILOGUE != CHOOSE
            if (p.bias != nullptr) {
                const float a = low ? p.bias[n] : 0.0f, b = high ? p.bias[n + 8] : 0.0f;
                total.x += a, total.y += a, total.z += b, total.w += b;
            }
#endif
#if EPILOGUE == STORE
            bf16_bits *out = p.out + (long long)row * p.stride + n;
            if (row < rows.end) {
                if (low) put(out, total.x);
                if (high) put(out + 8, total.z);
            }
            if (row + 1 < rows.end) {
                if (low) put(out + p.stride, total.y);
                if (high) put(out + p.stride + 8, total.w);
            }
#elif EPILOGUE == ADD
            total.x += residual[i].x, total.y += residual[i].y, total.z += residual[i].z, total.w += residual[i].w;
            const float a = low ? p.next_weight[n] : 0.0f, b = high ? p.next_weight[n + 8] : 0.0f;
            float *sums = p.sums + (long long)row * p.outputs + n;
            bf16_bits *out = p.out + (long long)row * p.outputs + n;
            if (row < rows.end) {
                if (low) sums[0] = total.x, put(out, total.x * a);
                if (high) sums[8] = total.z, put(out + 8, total.z * b);
            }
            if (row + 1 < rows.end) {
                if (low) sums[p.outputs] = total.y, put(out + p.outputs, total.y * a);
                if (high) sums[p.outputs + 8] = total.w, put(out + p.outputs + 8, total.w * b);
            }
            float first = (low ? total.x * total.x : 0.0f) + (high ? total.z * total.z : 0.0f);
            float second = (low ? total.y * total.y : 0.0f) + (high ? total.w * total.w : 0.0f);
#pragma unroll
            for (int bit = 4; bit < 32; bit *= 2) {
                first += __shfl_xor_sync(FULL_WARP, first, bit);
                second += __shfl_xor_sync(FULL_WARP, second, bit);
            }
            if (lane < 4 && tile < tiles) {
                if (row < rows.end) p.next_squares[(long long)row * tiles + tile] = first;
                if (row + 1 < rows.end) p.next_squares[(long long)(row + 1) * tiles + tile] = second;
            }
#elif EPILOGUE == SWIGLU
            const int width = p.outputs / 2;
            bf16_bits *out = p.out + (long long)row * width + tile * 8 + lane / 4;
            if (row < rows.end && high) put(out, total.x * logistic(total.x) * total.z);
            if (row + 1 < rows.end && high) put(out + width, total.y * logistic(total.y) * total.w);
#else
            const float values[2][2] = {{total.x, total.z}, {total.y, total.w}};
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                if (row + j >= rows.end) continue;
                const float temperature = p.temperatures[row + j];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int index = n + 8 * half;
                    if (index >= p.outputs) continue;
                    float value = values[j][half];
                    if (p.sums != nullptr) p.sums[(long long)(row + j) * p.outputs + index] = value;
                    if (temperature > 0.0f)
                        value = value / temperature + gumbel(p.seeds[row + j], p.positions[row + j], p.first_token + index);
                    keep_better(best[i][j], best_index[i][j], value, index);
                }
            }
#endif
        }
        if (REPEATS && block + gridDim.x < blocks) __syncthreads();
    }

#if EPILOGUE == CHOOSE
#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i) {
        const int fragment = warp + i * WARPS;
        if (fragment >= TILES * GROUPS) continue;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int bit = 4; bit < 32; bit *= 2) {
                const float other = __shfl_xor_sync(FULL_WARP, best[i][j], bit);
                const int index = __shfl_xor_sync(FULL_WARP, best_index[i][j], bit);
                keep_better(best[i][j], best_index[i][j], other, index);
            }
            const int row = fragment % GROUPS * 8 + lane % 4 * 2 + j;
            if (lane < 4) block_best[fragment / GROUPS][row] = best[i][j], block_index[fragment / GROUPS][row] = best_index[i][j];
        }
    }
    __syncthreads();
    for (int row = threadIdx.x; row < ROWS; row += THREADS) {
        float value = block_best[0][row];
        int index = block_index[0][row];
        for (int i = 1; i < TILES; ++i) keep_better(value, index, block_best[i][row], block_index[i][row]);
        if (first_row + row >= rows.end) continue;
        p.best[(long long)(first_row + row) * gridDim.x + blockIdx.x] = value;
        p.best_index[(long long)(first_row + row) * gridDim.x + blockIdx.x] = index;
    }
#endif
}
