// Rows of a table, and the gradient of the table.
//
// Forward: out[i] = table[rows[i]]; row -1 is zeros, another one outside the table becomes NaN. Backward: the caller sorts the places by their row,
// so that each row of the table that is met belongs to blocks of its own: no atomics, and the same sums in every run.
//
//   order   [places]     places 0 ... n - 1, those of the same row together and ascending
//   starts  [met + 1]    where in `order` a row's places begin
//   ids     [met]        the rows that are met, each once
//
// Floor: forward reads and writes the rows once; backward reads all gradients, and reads and writes the rows that are met.
#include "rows.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)

template <typename Table, typename Out>
__device__ __forceinline__ void gather(
    const int *rows, const Table *table, Out *out, int count, int width, long long table_rows
) {
    constexpr int N = Vector<Table, Out>::size;
    const bool wide = width % N == 0 && aligned(table) && aligned(out);
    for (int i = blockIdx.x * WARPS + threadIdx.x / 32; i < count; i += gridDim.x * WARPS) {
        const long long row = rows[i];
        const bool exists = row >= 0 && row < table_rows;
        const Table *source = table + (exists ? row * width : 0);
        for (int first = threadIdx.x % 32 * N; first < width; first += 32 * N) {
            float values[N];
            load(source, first, width, wide, values);
#pragma unroll
            for (int j = 0; j < N; ++j)
                if (!exists) values[j] = row == -1 ? 0.0f : __int_as_float(0x7fffffff);
            store(out + (long long)i * width, first, width, wide, values);
        }
    }
}

#define GATHER(NAME, TABLE, OUT)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                              \
        NAME(const int *rows, const TABLE *table, OUT *out, int count, int width, long long table_rows) {              \
        gather(rows, table, out, count, width, table_rows);                                                            \
    }
GATHER(gather_rows_f32_f32, float, float)
GATHER(gather_rows_f32_bf16, float, bf16_bits)
GATHER(gather_rows_bf16_f32, bf16_bits, float)
GATHER(gather_rows_bf16_bf16, bf16_bits, bf16_bits)

// table[ids[b.x]] += the gradients of its places. A block takes 128 columns; warp w takes places w, w + 8, ..., and the
// warps' sums are added in their order.
template <typename Gradient>
__device__ __forceinline__ void scatter(
    const int *order, const int *starts, const int *ids, const Gradient *gradient, float *table, int width
) {
    constexpr int N = 4;
    __shared__ float4 sums[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = (blockIdx.y * 32 + lane) * N;
    const bool wide = width % N == 0 && aligned(gradient) && aligned(table);
    const int end = starts[blockIdx.x + 1];
    float total[N] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (first < width) {
#pragma unroll 4
        for (int place = starts[blockIdx.x] + warp; place < end; place += WARPS) {
            float values[N];
            load(gradient + (long long)order[place] * width, first, width, wide, values);
#pragma unroll
            for (int j = 0; j < N; ++j) total[j] += values[j];
        }
    }
    sums[warp][lane] = make_float4(total[0], total[1], total[2], total[3]);
    __syncthreads();
    if (warp != 0 || first >= width) return;
    float *target = table + (long long)ids[blockIdx.x] * width;
    float values[N];
    load(target, first, width, wide, values);
    for (int w = 0; w < WARPS; ++w) {
        const float4 part = sums[w][lane];
        values[0] += part.x, values[1] += part.y, values[2] += part.z, values[3] += part.w;
    }
    store(target, first, width, wide, values);
}

// The same for rows of few places: a warp takes 128 columns of a row, and its places one after the other.
template <typename Gradient>
__device__ __forceinline__ void scatter_few(
    const int *order, const int *starts, const int *ids, const Gradient *gradient, float *table, int met, int width
) {
    constexpr int N = 4;
    const bool wide = width % N == 0 && aligned(gradient) && aligned(table);
    // The host sees to it that there are fewer than 2^31 parts.
    const int parts = (width + 32 * N - 1) / (32 * N), all = met * parts;
    for (int i = blockIdx.x * WARPS + threadIdx.x / 32; i < all; i += gridDim.x * WARPS) {
        const int row = i / parts, first = ((i - row * parts) * 32 + threadIdx.x % 32) * N;
        if (first >= width) continue;
        const int end = starts[row + 1];
        float *target = table + (long long)ids[row] * width;
        float values[N], total[N] = {0.0f, 0.0f, 0.0f, 0.0f};
        load(target, first, width, wide, values);
#pragma unroll 4
        for (int place = starts[row]; place < end; ++place) {
            float one[N];
            load(gradient + (long long)order[place] * width, first, width, wide, one);
#pragma unroll
            for (int j = 0; j < N; ++j) total[j] += one[j];
        }
#pragma unroll
        for (int j = 0; j < N; ++j) values[j] += total[j];
        store(target, first, width, wide, values);
    }
}

#define SCATTER_FEW(NAME, GRADIENT)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                              \
        NAME(const int *order, const int *starts, const int *ids, const GRADIENT *gradient, float *table, int met,     \
             int width) {                                                                                              \
        scatter_few(order, starts, ids, gradient, table, met, width);                                                  \
    }
SCATTER_FEW(add_to_rows_few_f32, float)
SCATTER_FEW(add_to_rows_few_bf16, bf16_bits)

#define SCATTER(NAME, GRADIENT)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                              \
        NAME(const int *order, const int *starts, const int *ids, const GRADIENT *gradient, float *table, int width) { \
        scatter(order, starts, ids, gradient, table, width);                                                           \
    }
SCATTER(add_to_rows_f32, float)
SCATTER(add_to_rows_bf16, bf16_bits)
