// Cross-entropy over a vocabulary whose columns several ranks share (cross_entropy.cu has it over a whole one). Three kernels,
// between which the ranks reduce three numbers a row, never the logits:
//
//   shard_statistics   each row's largest own logit and the sum of the exponentials of the rest;  the ranks' largest
//   shard_merge        that sum, and the target's logit where it is here, beside the largest;      the sums over ranks
//   shard_gradient     log-probabilities and the gradient of -scale x log-probability, which may go where the logits are
//
//   logits      [rows][width] float32 or bf16, used as float32: this rank's columns
//   targets     [rows] among the own columns; -1: another rank's; less: the row does not count (log-probability 0, gradient 0)
//   largest     [rows] of this rank, and then of all
//   sums        [rows] of exponentials, chosen [rows] the target's logit less the largest, 0 on ranks that do not have it
//
// A block takes a row in the first and the last, a thread takes one in the second.
//
// Floor: the logits are read twice (the second time from L2, where they fit) and the gradient is written once.
#include "rows.cuh"

#define THREADS 512
#define WARPS (THREADS / 32)
#define LOG2_E 1.4426950408889634f

template <typename T>
__device__ __forceinline__ void statistics(
    const T *logits, const int *targets, float *own_largest, float *largest, float *sums, int rows, int width
) {
    constexpr int N = Vector<T, T>::size;
    __shared__ float maxima[WARPS], parts[WARPS];
    const bool wide = width % N == 0 && aligned(logits);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *x = logits + (long long)row * width;
        // A finite start, so that rows of minus infinity subtract nothing infinite from it.
        float maximum = -3.4e38f, sum = 0.0f;
        if (targets[row] >= -1) {
            for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
                float values[N];
                load(x, i, width, wide, values);
                float most = maximum;
#pragma unroll
                for (int j = 0; j < N; ++j)
                    if (i + j < width) most = fmaxf(most, values[j]);
                if (most > maximum) {
                    sum *= exp2_approximate((maximum - most) * LOG2_E);
                    maximum = most;
                }
#pragma unroll
                for (int j = 0; j < N; ++j)
                    if (i + j < width) sum += exp2_approximate((values[j] - maximum) * LOG2_E);
            }
        }
        float all = maximum;
#pragma unroll
        for (int i = 16; i > 0; i /= 2) all = fmaxf(all, __shfl_xor_sync(FULL_WARP, all, i));
        __syncthreads();
        if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = all;
        __syncthreads();
        for (int i = 0; i < WARPS; ++i) all = fmaxf(all, maxima[i]);
        sum = group_sum<THREADS>(sum * exp2_approximate((maximum - all) * LOG2_E), parts);
        if (threadIdx.x == 0) {
            own_largest[row] = largest[row] = all;
            sums[row] = sum;
        }
    }
}

template <typename T>
__device__ __forceinline__ void merge(
    const T *logits, const int *targets, const float *own_largest, const float *largest, float *sums, float *chosen, int rows,
    int width
) {
    for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += gridDim.x * blockDim.x) {
        const int target = targets[row];
        sums[row] *= exp2_approximate((own_largest[row] - largest[row]) * LOG2_E);
        chosen[row] = target >= 0 ? as_float(logits[(long long)row * width + target]) - largest[row] : 0.0f;
    }
}

template <typename T, typename Gradient>
__device__ __forceinline__ void gradients(
    const T *logits, const int *targets, const float *scales, const float *largest, const float *sums, const float *chosen,
    Gradient *gradient, float *log_probabilities, int rows, int width
) {
    constexpr int N = Vector<T, T>::size;
    const bool wide = width % N == 0 && aligned(logits) && aligned(gradient);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const int target = targets[row];
        const float rest = logf(sums[row]), log_sum = largest[row] + rest;
        if (threadIdx.x == 0) log_probabilities[row] = target < -1 ? 0.0f : chosen[row] - rest;
        if (gradient == nullptr) continue;
        const T *x = logits + (long long)row * width;
        Gradient *out = gradient + (long long)row * width;
        const float scale = target < -1 ? 0.0f : scales[row];
        for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
            float values[N];
            load(x, i, width, wide, values);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float p = exp2_approximate((values[j] - log_sum) * LOG2_E);
                values[j] = scale == 0.0f ? 0.0f : scale * (i + j == target ? p - 1.0f : p);
            }
            store(out, i, width, wide, values);
        }
    }
}

#define STATISTICS(NAME, MERGE, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                              \
        NAME(const T *logits, const int *targets, float *own_largest, float *largest, float *sums, int rows,           \
             int width) {                                                                                              \
        statistics(logits, targets, own_largest, largest, sums, rows, width);                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                     \
        MERGE(const T *logits, const int *targets, const float *own_largest, const float *largest, float *sums,        \
              float *chosen, int rows, int width) {                                                                    \
        merge(logits, targets, own_largest, largest, sums, chosen, rows, width);                                       \
    }
STATISTICS(shard_statistics_f32, shard_merge_f32, float)
STATISTICS(shard_statistics_bf16, shard_merge_bf16, bf16_bits)

// Named by the types of the logits and of their gradient.
#define GRADIENT(NAME, T, OUT)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                              \
        NAME(const T *logits, const int *targets, const float *scales, const float *largest, const float *sums,        \
             const float *chosen, OUT *gradient, float *log_probabilities, int rows, int width) {                      \
        gradients(logits, targets, scales, largest, sums, chosen, gradient, log_probabilities, rows, width);           \
    }
GRADIENT(shard_gradient_f32_f32, float, float)
GRADIENT(shard_gradient_f32_bf16, float, bf16_bits)
GRADIENT(shard_gradient_bf16_bf16, bf16_bits, bf16_bits)
