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
// Set at compile time: WIDTH (elements of a row, a multiple of 8), ROWS of x in a block (8, 16, 32 or 64), TILES of 16 weight
// rows in a block at a time, WARPS, and
//   NORM      x is a row of the residual stream times the norm's weight; its products get 1 / sqrt(mean square + epsilon);
//             PARTS add up to the sum of squares
//   EPILOGUE  STORE:  out = product + bias
//             ADD:    residual += product + bias; out = residual x the next norm's weight; the sums of its squares
//             SWIGLU: weight rows come as 8 of the gate, 8 of up, ...; out = silu(gate) up
//             CHOOSE: the largest product of each row and its index, with Gumbel noise where a row has a temperature
//   ROUND     units of a warp whose x is in shared memory at a time; 0: x stays in registers
//
// Floor: the weights once over the bandwidth. In practice the latencies of a launch, of x and of the sums.
#include "row_products.cuh"

#define THREADS (32 * WARPS)
#define UNIT 64
#define UNITS ((WIDTH + UNIT - 1) / UNIT)
#define OWN ((UNITS + WARPS - 1) / WARPS)  // units of a warp: its number, and every WARPS-th from there
#define GROUPS (ROWS / 8)
#define DEPTH (OWN < 4 / TILES ? OWN : TILES < 4 ? 4 / TILES : 1)  // units whose weights are on their way
#define FRAGMENTS ((TILES * GROUPS + WARPS - 1) / WARPS)           // 16 weight rows x 8 rows of x that a warp finishes
#define STAGE_BYTES (ROUND * ROWS * 128)                           // of a warp
#define REPEATS (EPILOGUE == CHOOSE)                               // blocks go on to further tiles
#define SUMS_OFFSET (REPEATS ? WARPS * STAGE_BYTES : 0)            // elsewhere the sums take the place of x

static_assert(WIDTH % 8 == 0 && ROWS % 8 == 0 && (TILES == 1 || TILES == 2 || TILES == 4), "shapes of these products");

extern __shared__ __align__(128) unsigned char memory[];

__device__ __forceinline__ void load_weights(uint4 (&w)[TILES][4], const RowProduct &p, int block, int unit, int lane) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = min((block * TILES + i) * 16 + half * 8 + lane / 4, p.outputs - 1);
            const bf16_bits *source = p.weight + (long long)row * WIDTH;
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int k = unit * UNIT + part * 32 + lane % 4 * 8;
                w[i][2 * half + part] =
                    k < WIDTH ? *reinterpret_cast<const uint4 *>(source + k) : make_uint4(0, 0, 0, 0);
            }
        }
    }
}

// Where 16 bytes of a row of a unit lie: lanes that read 8 rows together meet all banks.
__device__ __forceinline__ u32 stage_place(int unit, int row, int chunk) {
    return unit * (ROWS * 128) + row * 128 + ((chunk ^ (row % 2 * 4)) << 4);
}

// Units [first, first + ROUND) of the warp's own, into its share of shared memory.
__device__ __forceinline__ void stage_rows(const RowProduct &p, u32 stage, int first, int warp, int lane, int first_row) {
#pragma unroll 1
    for (int i = 0; i < ROUND && (first + i) * WARPS + warp < UNITS; ++i) {
        const int k = ((first + i) * WARPS + warp) * UNIT + lane % 8 * 8;
#pragma unroll
        for (int row = lane / 8; row < ROWS; row += 4) {
            const bf16_bits *source = p.x + (long long)min(first_row + row, p.rows - 1) * WIDTH + k;
            copy_16(stage + stage_place(i, row, lane % 8), k < WIDTH ? source : p.x, k < WIDTH ? 16 : 0);
        }
    }
    copies_commit();
    copies_wait<0>();
    __syncwarp();
}

__device__ __forceinline__ void multiply_unit(
    float (&sum)[TILES][GROUPS][4], const uint4 (&w)[TILES][4], int group, const uint4 &low, const uint4 &high
) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
        mma_16x8x16(sum[i][group], w[i][0].x, w[i][2].x, w[i][0].y, w[i][2].y, low.x, low.y);
        mma_16x8x16(sum[i][group], w[i][0].z, w[i][2].z, w[i][0].w, w[i][2].w, low.z, low.w);
        mma_16x8x16(sum[i][group], w[i][1].x, w[i][3].x, w[i][1].y, w[i][3].y, high.x, high.y);
        mma_16x8x16(sum[i][group], w[i][1].z, w[i][3].z, w[i][1].w, w[i][3].w, high.z, high.w);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) row_product(const __grid_constant__ RowProduct p) {
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
    const int first_row = blockIdx.y * ROWS, tiles = (p.outputs + 15) / 16, blocks = (tiles + TILES - 1) / TILES;
    const u32 stage = shared_address(memory) + warp * STAGE_BYTES;
    float4 *block_sums = reinterpret_cast<float4 *>(memory + SUMS_OFFSET);

    uint4 w[DEPTH][TILES][4];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i)
        if (i * WARPS + warp < UNITS) load_weights(w[i], p, blockIdx.x, i * WARPS + warp, lane);
    grid_wait();
    grid_launch_dependents();

#if ROUND == 0
    uint4 x[OWN][GROUPS][2];
#pragma unroll
    for (int i = 0; i < OWN; ++i)
#pragma unroll
        for (int group = 0; group < GROUPS; ++group)
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const int k = (i * WARPS + warp) * UNIT + part * 32 + lane % 4 * 8;
                const long long row = min(first_row + group * 8 + lane / 4, p.rows - 1);
                x[i][group][part] =
                    k < WIDTH ? *reinterpret_cast<const uint4 *>(p.x + row * WIDTH + k) : make_uint4(0, 0, 0, 0);
            }
#endif
#if EPILOGUE == ADD
    float4 residual[FRAGMENTS];
#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i) {
        const int fragment = warp + i * WARPS, row = first_row + fragment % GROUPS * 8 + lane % 4 * 2;
        const int n = (blockIdx.x * TILES + fragment / GROUPS) * 16 + lane / 4;
        const float *from = p.sums + (long long)row * p.outputs + n;
        const bool some = fragment < TILES * GROUPS, first = some && row < p.rows, second = some && row + 1 < p.rows;
        residual[i].x = first && n < p.outputs ? from[0] : 0.0f;
        residual[i].y = second && n < p.outputs ? from[p.outputs] : 0.0f;
        residual[i].z = first && n + 8 < p.outputs ? from[8] : 0.0f;
        residual[i].w = second && n + 8 < p.outputs ? from[p.outputs + 8] : 0.0f;
    }
#endif
#if NORM
    row_factors<ROWS, THREADS>(p, first_row, WIDTH, inverses, threadIdx.x);
#endif
#if ROUND >= OWN
    stage_rows(p, stage, 0, warp, lane, first_row);
#endif

#pragma unroll 1
    for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
        float sum[TILES][GROUPS][4] = {};
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
#if ROUND > 0 && ROUND < OWN
                if (own % ROUND == 0) {
                    __syncwarp();
                    stage_rows(p, stage, own, warp, lane, first_row);
                }
#endif
                if (unit < UNITS) {
#pragma unroll
                    for (int group = 0; group < GROUPS; ++group) {
#if ROUND == 0
                        multiply_unit(sum, w[i], group, x[own][group][0], x[own][group][1]);
#else
                        const int row = group * 8 + lane / 4, slot = ROUND < OWN ? own % ROUND : own;
                        multiply_unit(
                            sum, w[i], group, load_shared_16(stage + stage_place(slot, row, lane % 4)),
                            load_shared_16(stage + stage_place(slot, row, 4 + lane % 4)));
#endif
                    }
                }
                if (own + DEPTH < OWN && unit + DEPTH * WARPS < UNITS)
                    load_weights(w[i], p, block, unit + DEPTH * WARPS, lane);
            }
        }
        // The next tile's weights are on their way while this one's sums meet.
        if (REPEATS && block + gridDim.x < blocks) {
#pragma unroll
            for (int i = 0; i < DEPTH; ++i)
                if (i * WARPS + warp < UNITS) load_weights(w[i], p, block + gridDim.x, i * WARPS + warp, lane);
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
            bf16_bits *out = p.out + (long long)row * p.outputs + n;
            if (row < p.rows) {
                if (low) put(out, total.x);
                if (high) put(out + 8, total.z);
            }
            if (row + 1 < p.rows) {
                if (low) put(out + p.outputs, total.y);
                if (high) put(out + p.outputs + 8, total.w);
            }
#elif EPILOGUE == ADD
            total.x += residual[i].x, total.y += residual[i].y, total.z += residual[i].z, total.w += residual[i].w;
            const float a = low ? p.next_weight[n] : 0.0f, b = high ? p.next_weight[n + 8] : 0.0f;
            float *sums = p.sums + (long long)row * p.outputs + n;
            bf16_bits *out = p.out + (long long)row * p.outputs + n;
            if (row < p.rows) {
                if (low) sums[0] = total.x, put(out, total.x * a);
                if (high) sums[8] = total.z, put(out + 8, total.z * b);
            }
            if (row + 1 < p.rows) {
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
                if (row < p.rows) p.next_squares[(long long)row * tiles + tile] = first;
                if (row + 1 < p.rows) p.next_squares[(long long)(row + 1) * tiles + tile] = second;
            }
#elif EPILOGUE == SWIGLU
            const int width = p.outputs / 2;
            bf16_bits *out = p.out + (long long)row * width + tile * 8 + lane / 4;
            if (row < p.rows && high) put(out, total.x * logistic(total.x) * total.z);
            if (row + 1 < p.rows && high) put(out + width, total.y * logistic(total.y) * total.w);
#else
            const float values[2][2] = {{total.x, total.z}, {total.y, total.w}};
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                if (row + j >= p.rows) continue;
                const float temperature = p.temperatures[row + j];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int index = n + 8 * half;
                    if (index >= p.outputs) continue;
                    float value = values[j][half];
                    if (p.sums != nullptr) p.sums[(long long)(row + j) * p.outputs + index] = value;
                    if (temperature > 0.0f)
                        value = value / temperature + gumbel(p.seeds[row + j], p.positions[row + j], index);
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
        if (first_row + row >= p.rows) continue;
        p.best[(long long)(first_row + row) * gridDim.x + blockIdx.x] = value;
        p.best_index[(long long)(first_row + row) * gridDim.x + blockIdx.x] = index;
    }
#endif
}
