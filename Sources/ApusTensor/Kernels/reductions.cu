// Sums over rows and over whole tensors, without atomics: blocks take fixed parts and leave partial sums, which a second
// kernel adds up in order, so that a result is the same in every run.
//
// Floor: what is summed is read once.
#include "rows.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define CHUNK_ROWS 256
#define CHUNK_ELEMENTS 16384

// partials[b.y] [columns]: sums of rows b.y x 256 ... of a matrix whose rows are `stride` elements apart. A block takes 128
// columns, a warp every eighth row.
template <typename T>
__device__ __forceinline__ void column_sums(const T *x, int rows, int columns, long long stride, float *partials) {
    constexpr int N = 4;
    __shared__ float4 sums[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = (blockIdx.x * 32 + lane) * N;
    const bool wide = columns % N == 0 && stride % N == 0 && aligned(x) && aligned(partials);
    const int begin = blockIdx.y * CHUNK_ROWS, end = min(rows, begin + CHUNK_ROWS);
    float total[N] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (first < columns) {
#pragma unroll 4
        for (int row = begin + warp; row < end; row += WARPS) {
            float values[N];
            load(x + row * stride, first, columns, wide, values);
#pragma unroll
            for (int j = 0; j < N; ++j) total[j] += values[j];
        }
    }
    sums[warp][lane] = make_float4(total[0], total[1], total[2], total[3]);
    __syncthreads();
    if (warp != 0 || first >= columns) return;
    float values[N] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int w = 0; w < WARPS; ++w) {
        const float4 part = sums[w][lane];
        values[0] += part.x, values[1] += part.y, values[2] += part.z, values[3] += part.w;
    }
    store(partials + (long long)blockIdx.y * columns, first, columns, wide, values);
}

#define COLUMN_SUMS(NAME, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T *x, int rows, int columns, long long stride, float *partials) {                                   \
        column_sums(x, rows, columns, stride, partials);                                                               \
    }
COLUMN_SUMS(column_sums_f32, float)
COLUMN_SUMS(column_sums_bf16, bf16_bits)

// sums[column] = (where `adds`, +=) the partial sums of that column, in order within each of PARTIAL_WARPS parts, and those in
// order. 32 columns a block: few blocks, so that what counts is how many rows are on their way at once.
#define PARTIAL_WARPS 32

extern "C" __global__ void __launch_bounds__(32 * PARTIAL_WARPS)
    add_partials(const float *partials, float *sums, int count, int columns, int adds) {
    __shared__ float parts[PARTIAL_WARPS][32];
    grid_launch_dependents();
    grid_wait();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    const int length = (count + PARTIAL_WARPS - 1) / PARTIAL_WARPS, begin = warp * length, end = min(count, begin + length);
    float total = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (int i = begin; i < end; ++i) total += partials[(long long)i * columns + column];
    }
    parts[warp][lane] = total;
    __syncthreads();
    if (warp != 0 || column >= columns) return;
    total = adds ? sums[column] : 0.0f;
    for (int w = 0; w < PARTIAL_WARPS; ++w) total += parts[w][lane];
    sums[column] = total;
}

// A tensor of a list: block b belongs to the last one whose `first_block` is at most b, and takes 16384 elements.
struct SummedTensor {
    const float *values;
    long long count;
    int first_block;
    int unused;
};

// partials[b]: the sum of squares of a block's elements, in float64.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_of_squares(const SummedTensor *tensors, int tensor_count, double *partials) {
    __shared__ double warps[WARPS];
    int low = 0, high = tensor_count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (tensors[middle].first_block <= (int)blockIdx.x) low = middle;
        else high = middle - 1;
    }
    const SummedTensor tensor = tensors[low];
    constexpr int N = 4;
    const long long begin = (long long)((int)blockIdx.x - tensor.first_block) * CHUNK_ELEMENTS;
    const long long end = min(tensor.count, begin + CHUNK_ELEMENTS);
    const bool wide = tensor.count % N == 0 && aligned(tensor.values);
    double total = 0.0;
#pragma unroll 4
    for (long long i = begin + threadIdx.x * N; i < end; i += THREADS * N) {
        float values[N];
        load(tensor.values, i, end, wide, values);
#pragma unroll
        for (int j = 0; j < N; ++j) total += (double)values[j] * values[j];
    }
    total = group_sum<THREADS>(total, warps);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// *result = the sum of `count` numbers. One block.
extern "C" __global__ void __launch_bounds__(THREADS) sum_float64(const double *x, int count, double *result) {
    __shared__ double warps[WARPS];
    double total = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) total += x[i];
    total = group_sum<THREADS>(total, warps);
    if (threadIdx.x == 0) *result = total;
}

// *result = the sum of factor x a[i] b[i] (b may be absent), in float64. One block.
extern "C" __global__ void __launch_bounds__(THREADS)
    weighted_sum(const float *a, const float *b, float factor, int count, float *result) {
    __shared__ double warps[WARPS];
    double total = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) total += (double)a[i] * (b != nullptr ? b[i] : 1.0f);
    total = group_sum<THREADS>(total, warps);
    if (threadIdx.x == 0) *result = (float)(total * factor);
}

// partials[block]: a sum over a block's part of `rows` rows of `words` words, `stride` words apart, that differs (but for one
// case in 2^64) where a word does.
extern "C" __global__ void __launch_bounds__(THREADS)
    checksum(const u32 *x, int rows, int words, long long stride, u64 *partials) {
    __shared__ u64 warps[WARPS];
    u64 total = 0;
    for (int row = blockIdx.x; row < rows; row += gridDim.x)
        for (int i = threadIdx.x; i < words; i += THREADS) {
            u64 mixed = x[row * stride + i] + ((u64)row * words + i) * 0x9e3779b97f4a7c15ull;
            mixed = (mixed ^ mixed >> 32) * 0xd6e8feb86659fd93ull;
            total += mixed ^ mixed >> 32;
        }
    total = group_sum<THREADS>(total, warps);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}
