// Products with a weight for each head:
//   out[r, h, n] = sum_k x[r, h, k] weight[h, n, k] + bias[h, n], bf16 operands, float32 sums.
// Latent attention's: queries with their head's key up-projection, what attention gives with the value up-projection, query
// latents of several latent heads with the projection to these heads' queries.
//
// A warp multiplies 16 ROW_TILES rows with 32 outputs, from memory to registers to tensor cores: the order of k within a
// product is free as long as both operands have the same, so a lane takes 16 bytes of a row, which serve two products. SPLIT
// warps share out k; their sums meet in shared memory. What does not depend on the kernel before, the first weights, is asked
// for before it has finished.
//
// With TAIL a head of x has KEY elements more, which are rotated and put behind the outputs, by a block of their own.
//
// Set at compile time: INPUTS (elements of k) and OUTPUTS (both multiples of 8), ROW_TILES (1, 2 or 4), STRIPS (of 32 outputs)
// of a block, SPLIT, TAIL, and with it KEY, ROTATED, INTERLEAVED (rotary_rows.cuh).
//
// Floor: the weights once over the bandwidth, or 2 rows x heads x INPUTS x OUTPUTS operations over the rate of bf16 products.
#if !TAIL
#define KEY 0
#define ROTATED 0
#define INTERLEAVED 0
#endif
#include "fragments.cuh"
#include "rotary_rows.cuh"

#define ROWS (16 * ROW_TILES)
#define WARPS (STRIPS * SPLIT)
#define UNITS ((INPUTS + 31) / 32)  // of k, that lanes take at a time
#define OWN ((UNITS + SPLIT - 1) / SPLIT)

static_assert(INPUTS % 8 == 0 && OUTPUTS % 8 == 0 && KEY % 8 == 0, "rows are read 16 bytes at a time");

struct HeadProduct {
    const bf16_bits *x, *weight;
    const float *bias;  // or none
    bf16_bits *out;
    const float *cosine, *sine;         // [position][ROTATED / 2]
    const int *positions, *lengths;     // of rows: as of grouped_append.cu
    long long x_row, x_head;            // elements from row to row, from head to head; multiples of 8
    long long out_row, out_head;
    int rows;
};

// 16 bytes of a row from element k on; zeros behind its end.
__device__ __forceinline__ uint4 load_part(const bf16_bits *row, int k) {
    return k < INPUTS ? *reinterpret_cast<const uint4 *>(row + k) : make_uint4(0, 0, 0, 0);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) head_product(const __grid_constant__ HeadProduct p) {
#if SPLIT > 1
    __shared__ float4 sums[STRIPS][SPLIT - 1][ROW_TILES * 4][32];
#endif
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, first = blockIdx.z * ROWS;
    const bf16_bits *x = p.x + head * p.x_head;
    bf16_bits *out = p.out + head * p.out_head;
#if TAIL
    if (blockIdx.x == gridDim.x - 1) {
        grid_wait();
        grid_launch_dependents();
        for (int row = first + warp; row < min(first + ROWS, p.rows); row += WARPS) {
            const int position = p.positions != nullptr ? p.positions[row] : p.lengths[row] - 1;
            if (position < 0) continue;
            const long long angle = (long long)position * (ROTATED / 2);
            rotate_row(
                x + row * p.x_row + INPUTS, p.cosine + angle, p.sine + angle, out + row * p.out_row + OUTPUTS, lane);
        }
        return;
    }
#endif
    const int split = warp % SPLIT, strip = warp / SPLIT, n = (blockIdx.x * STRIPS + strip) * 32;
    const bf16_bits *weights[4], *rows[ROW_TILES][2];
#pragma unroll
    for (int i = 0; i < 4; ++i)
        weights[i] = p.weight + ((long long)head * OUTPUTS + min(n + 8 * i + lane / 4, OUTPUTS - 1)) * INPUTS;
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            rows[i][half] = x + min(first + 16 * i + 8 * half + lane / 4, p.rows - 1) * p.x_row;
    int k = split * OWN * 32 + lane % 4 * 8;
    const int end = min((split + 1) * OWN, UNITS) * 32;

    float sum[ROW_TILES][4][4] = {};
    uint4 w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = load_part(weights[i], k);
    grid_wait();
    grid_launch_dependents();
#pragma unroll 1
    for (; k < end; k += 32) {
        uint4 a[ROW_TILES][2], next[4];
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i) a[i][0] = load_part(rows[i][0], k), a[i][1] = load_part(rows[i][1], k);
#pragma unroll
        for (int i = 0; i < 4; ++i) next[i] = load_part(weights[i], k + 32);
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                mma_16x8x16(sum[i][j], a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y, w[j].x, w[j].y);
                mma_16x8x16(sum[i][j], a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w, w[j].z, w[j].w);
            }
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = next[i];
    }

#if SPLIT > 1
    if (split > 0) {
#pragma unroll
        for (int i = 0; i < ROW_TILES * 4; ++i) {
            const float *from = sum[i / 4][i % 4];
            sums[strip][split - 1][i][lane] = make_float4(from[0], from[1], from[2], from[3]);
        }
    }
    __syncthreads();
    if (split > 0) return;
#pragma unroll
    for (int part = 0; part < SPLIT - 1; ++part)
#pragma unroll
        for (int i = 0; i < ROW_TILES * 4; ++i) {
            const float4 other = sums[strip][part][i][lane];
            float *to = sum[i / 4][i % 4];
            to[0] += other.x, to[1] += other.y, to[2] += other.z, to[3] += other.w;
        }
#endif
    if (n >= OUTPUTS) return;
    if (p.bias != nullptr) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int at = n + 8 * j + lane % 4 * 2;
            if (at >= OUTPUTS) continue;
            const float2 bias = *reinterpret_cast<const float2 *>(p.bias + head * OUTPUTS + at);
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i)
                sum[i][j][0] += bias.x, sum[i][j][1] += bias.y, sum[i][j][2] += bias.x, sum[i][j][3] += bias.y;
        }
    }
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            u32 words[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) words[j] = pack_bf16(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
            const uint4 columns = transpose_quad(words[0], words[1], words[2], words[3], lane);
            const int row = first + 16 * i + 8 * half + lane / 4, at = n + lane % 4 * 8;
            if (row < p.rows && at < OUTPUTS) *reinterpret_cast<uint4 *>(out + row * p.out_row + at) = columns;
        }
}

// Adds a bias to each row of a product: x[row][width] bf16.
extern "C" __global__ void __launch_bounds__(256) add_row_bias(bf16_bits *x, const float *bias, long long count, int width) {
    for (long long i = 8 * (blockIdx.x * 256LL + threadIdx.x); i < count; i += 8 * 256LL * gridDim.x) {
        float values[8], biases[8];
        load_wide(x + i, values);
        load_wide(bias + i % width, biases);
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] += biases[j];
        store_wide(x + i, values);
    }
}
