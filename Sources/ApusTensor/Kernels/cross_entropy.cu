// Cross-entropy over the vocabulary: the log-probability of each row's target, and the gradient of -scale x log-probability,
// which may go where the logits are.
//
//   logits      [rows][width] float32 or bf16, used as float32
//   targets     [rows]; negative: the row does not count: log-probability 0, gradient 0
//   gradient    [rows][width] scale (p - [i is the target]), or absent
//
// A block takes a row: one pass for maximum and sum of exponentials together (Milakov and Gimelshein 2018), and one for the
// gradient. Where `kept` holds, the first leaves the row in shared memory for the second, which finds it in L2 otherwise.
//
// Floor: the logits are read once and the gradient is written once. Exponentials: two an element, 16 a cycle and
// multiprocessor.
#include "rows.cuh"

#define THREADS 512
#define WARPS (THREADS / 32)
#define LOG2_E 1.4426950408889634f

extern __shared__ __align__(16) unsigned char memory[];

template <typename T, typename Gradient>
__device__ __forceinline__ void cross_entropy(
    const T *logits, const int *targets, const float *scales, Gradient *gradient, float *log_probabilities, int rows,
    int width, int kept
) {
    constexpr int N = Vector<T, T>::size;
    __shared__ float maxima[WARPS], sums[WARPS];
    T *own = reinterpret_cast<T *>(memory);
    const bool wide = width % N == 0 && aligned(logits) && aligned(gradient);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *x = logits + (long long)row * width;
        const int target = targets[row];
        // A finite start, so that rows of minus infinity subtract nothing infinite from it.
        float maximum = -3.4e38f, sum = 0.0f;
        if (target >= 0) {
            for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
                float values[N];
                load(x, i, width, wide, values);
                // Each thread reads back what it wrote itself.
                if (kept) store_wide(own + i, values);
                float largest = maximum;
#pragma unroll
                for (int j = 0; j < N; ++j)
                    if (i + j < width) largest = fmaxf(largest, values[j]);
                if (largest > maximum) {
                    sum *= exp2_approximate((maximum - largest) * LOG2_E);
                    maximum = largest;
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
        sum = group_sum<THREADS>(sum * exp2_approximate((maximum - all) * LOG2_E), sums);
        const float log_sum = all + logf(sum);
        if (threadIdx.x == 0)
            log_probabilities[row] =
                target < 0 ? 0.0f : target < width ? as_float(x[target]) - log_sum : __int_as_float(0x7fffffff);
        if (gradient == nullptr) continue;
        // The target's logit is read before the gradient may take its place.
        __syncthreads();
        const float scale = target < 0 ? 0.0f : scales[row];
        Gradient *out = gradient + (long long)row * width;
        for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
            float values[N];
            if (kept && target >= 0) load_wide(own + i, values);
            else load(x, i, width, wide, values);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float p = exp2_approximate((values[j] - log_sum) * LOG2_E);
                values[j] = scale == 0.0f ? 0.0f : scale * (i + j == target ? p - 1.0f : p);
            }
            store(out, i, width, wide, values);
        }
    }
}

// Named by the types of the logits and of their gradient.
#define CROSS_ENTROPY(NAME, T, GRADIENT)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                              \
        NAME(const T *logits, const int *targets, const float *scales, GRADIENT *gradient, float *log_probabilities,   \
             int rows, int width, int kept) {                                                                          \
        cross_entropy(logits, targets, scales, gradient, log_probabilities, rows, width, kept);                        \
    }
CROSS_ENTROPY(cross_entropy_f32_f32, float, float)
CROSS_ENTROPY(cross_entropy_f32_bf16, float, bf16_bits)
CROSS_ENTROPY(cross_entropy_bf16_bf16, bf16_bits, bf16_bits)
