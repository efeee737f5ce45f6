// RMSNorm with the residual sum before it, its gradients, and layer norm: y = x inverse weight over each row, where
// inverse = 1 / sqrt(mean(x^2) + epsilon).
//
//   forward:  sum = x + addend; y = sum inverse weight; inverse is kept for the backward pass
//   backward: g = d weight; result = base + inverse (g - x inverse^2 mean(g x)), in bf16 too where there is `narrow`;
//             weight gradient: sums of d x inverse
//
// Forward, every token has `groups` rows with a weight each; x may lie at strides, everything else is [rows][width].
//
// A row belongs to GROUP threads: a warp where a row is short, a block elsewhere; they keep it in shared memory, so that it
// is read once. The weight's gradient gathers block by block, over a fixed division of the rows, into `partials`
// [blocks][width], which `add_partials` (reductions.cu) adds up in order: the result is the same in every run.
//
// Floor: forward reads x and the addend and writes sum and y; backward reads x, d and base and writes the result.
#include "rows.cuh"

#define THREADS 256
#define N 4

extern __shared__ __align__(16) unsigned char memory[];

// A group's share of shared memory: `rows` rows of `pitch` floats.
template <int GROUP>
__device__ __forceinline__ float *group_rows(int rows, int pitch) {
    return reinterpret_cast<float *>(memory) + (long long)(GROUP == 32 ? threadIdx.x / 32 : 0) * rows * pitch;
}

template <int GROUP, typename In, typename Addend, typename Out>
__device__ __forceinline__ void forward(
    const In *x, const Addend *addend, float *sum, const float *weight, float epsilon, Out *y, float *inverses, int rows,
    int width, int groups, long long token_stride, long long group_stride
) {
    __shared__ float warps[THREADS / 32];
    const int lane = threadIdx.x % GROUP, pitch = (width + N - 1) / N * N;
    float *own = group_rows<GROUP>(1, pitch);
    const bool wide = width % N == 0 && token_stride % N == 0 && group_stride % N == 0 && aligned(x) && aligned(addend) &&
                      aligned(sum) && aligned(weight) && aligned(y);
    const int stride = gridDim.x * (THREADS / GROUP);
    for (int row = blockIdx.x * (THREADS / GROUP) + threadIdx.x / GROUP; row < rows; row += stride) {
        const long long base = (long long)row * width;
        const int token = row / groups, in_token = row - token * groups;
        const In *from = x + token * token_stride + in_token * group_stride;
        const float *weight_row = weight + (long long)in_token * width;
        float squares = 0.0f;
        for (int i = lane * N; i < width; i += GROUP * N) {
            float values[N];
            load(from, i, width, wide, values);
            if (addend != nullptr) {
                float others[N];
                load(addend + base, i, width, wide, others);
#pragma unroll
                for (int j = 0; j < N; ++j) values[j] += others[j];
                store(sum + base, i, width, wide, values);
            }
#pragma unroll
            for (int j = 0; j < N; ++j) squares += values[j] * values[j];
            store_wide(own + i, values);
        }
        squares = group_sum<GROUP>(squares, warps);
        const float inverse = 1.0f / sqrtf(squares / (float)width + epsilon);
        if (lane == 0 && inverses != nullptr) inverses[row] = inverse;
        for (int i = lane * N; i < width; i += GROUP * N) {
            float values[N], weights[N];
            load_wide(own + i, values);
            load(weight_row, i, width, wide, weights);
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] *= inverse * weights[j];
            store(y + base, i, width, wide, values);
        }
    }
}

// Block b takes rows b x chunk ... and leaves its sums in partials[b] unless there are none to leave.
template <int GROUP, typename In, typename Gradient>
__device__ __forceinline__ void backward(
    const In *x, const float *weight, const float *inverses, const Gradient *gradient, const float *base, float *result,
    bf16_bits *narrow, float *partials, int rows, int width, int chunk
) {
    __shared__ float warps[THREADS / 32];
    const int lane = threadIdx.x % GROUP, pitch = (width + N - 1) / N * N;
    float *own_x = group_rows<GROUP>(3, pitch), *own_g = own_x + pitch, *sums = own_g + pitch;
    const bool wide = width % N == 0 && aligned(x) && aligned(weight) && aligned(gradient) && aligned(base) &&
                      aligned(result) && aligned(narrow);
    for (int i = lane * N; i < width; i += GROUP * N) store_wide(sums + i, {0.0f, 0.0f, 0.0f, 0.0f});
    const int end = min(rows, ((int)blockIdx.x + 1) * chunk);
    for (int row = blockIdx.x * chunk + threadIdx.x / GROUP; row < end; row += THREADS / GROUP) {
        const long long start = (long long)row * width;
        const float inverse = inverses[row];
        float dot = 0.0f;
        for (int i = lane * N; i < width; i += GROUP * N) {
            float values[N], d[N], weights[N], total[N];
            load(x + start, i, width, wide, values);
            load(gradient + start, i, width, wide, d);
            load(weight, i, width, wide, weights);
            load_wide(sums + i, total);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                total[j] += d[j] * values[j] * inverse;
                d[j] *= weights[j];
                dot += d[j] * values[j];
            }
            store_wide(sums + i, total);
            store_wide(own_x + i, values);
            store_wide(own_g + i, d);
        }
        dot = group_sum<GROUP>(dot, warps);
        const float slope = dot / (float)width * inverse * inverse;
        for (int i = lane * N; i < width; i += GROUP * N) {
            float values[N], g[N], out[N] = {0.0f, 0.0f, 0.0f, 0.0f};
            load_wide(own_x + i, values);
            load_wide(own_g + i, g);
            if (base != nullptr) load(base + start, i, width, wide, out);
#pragma unroll
            for (int j = 0; j < N; ++j) out[j] += inverse * (g[j] - values[j] * slope);
            store(result + start, i, width, wide, out);
            if (narrow != nullptr) store(narrow + start, i, width, wide, out);
        }
    }
    if (partials == nullptr) return;
    __syncthreads();
    const float *all = reinterpret_cast<const float *>(memory) + 2 * pitch;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float total = all[i];
        for (int group = 1; group < THREADS / GROUP; ++group) total += all[(long long)group * 3 * pitch + i];
        partials[(long long)blockIdx.x * width + i] = total;
    }
}

// Named by the group, the types of x, of the addend and of y; bf16 rows have no addend.
#define FORWARD(NAME, GROUP, IN, ADDEND, OUT)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                              \
        NAME(const IN *x, const ADDEND *addend, float *sum, const float *weight, float epsilon, OUT *y,                \
             float *inverses, int rows, int width, int groups, long long token_stride, long long group_stride) {       \
        forward<GROUP>(                                                                                                \
            x, addend, sum, weight, epsilon, y, inverses, rows, width, groups, token_stride, group_stride);            \
    }
#define FORWARDS(GROUP)                                                                                                \
    FORWARD(rms_norm_forward_##GROUP##_f32_f32_f32, GROUP, float, float, float)                                        \
    FORWARD(rms_norm_forward_##GROUP##_f32_f32_bf16, GROUP, float, float, bf16_bits)                                   \
    FORWARD(rms_norm_forward_##GROUP##_f32_bf16_f32, GROUP, float, bf16_bits, float)                                   \
    FORWARD(rms_norm_forward_##GROUP##_f32_bf16_bf16, GROUP, float, bf16_bits, bf16_bits)                              \
    FORWARD(rms_norm_forward_##GROUP##_bf16_bf16_f32, GROUP, bf16_bits, bf16_bits, float)                              \
    FORWARD(rms_norm_forward_##GROUP##_bf16_bf16_bf16, GROUP, bf16_bits, bf16_bits, bf16_bits)
FORWARDS(32)
FORWARDS(256)

// Named by the group and the types of x and of the gradient that comes.
#define BACKWARD(NAME, GROUP, IN, GRADIENT)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                              \
        NAME(const IN *x, const float *weight, const float *inverses, const GRADIENT *gradient, const float *base,     \
             float *result, bf16_bits *narrow, float *partials, int rows, int width, int chunk) {                      \
        backward<GROUP>(x, weight, inverses, gradient, base, result, narrow, partials, rows, width, chunk);            \
    }
#define BACKWARDS(GROUP)                                                                                               \
    BACKWARD(rms_norm_backward_##GROUP##_f32_f32, GROUP, float, float)                                                 \
    BACKWARD(rms_norm_backward_##GROUP##_f32_bf16, GROUP, float, bf16_bits)                                            \
    BACKWARD(rms_norm_backward_##GROUP##_bf16_f32, GROUP, bf16_bits, float)                                            \
    BACKWARD(rms_norm_backward_##GROUP##_bf16_bf16, GROUP, bf16_bits, bf16_bits)
BACKWARDS(32)
BACKWARDS(256)

// (x - mean) / sqrt(variance + epsilon) weight + bias. The variance is taken about the mean, from shared memory.
extern "C" __global__ void __launch_bounds__(THREADS, 4) layer_norm(
    const float *x, const float *weight, const float *bias, float epsilon, float *y, int rows, int width
) {
    __shared__ float warps[THREADS / 32];
    const int lane = threadIdx.x, pitch = (width + N - 1) / N * N;
    float *own = group_rows<THREADS>(1, pitch);
    const bool wide = width % N == 0 && aligned(x) && aligned(weight) && aligned(bias) && aligned(y);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long base = (long long)row * width;
        float sum = 0.0f;
        for (int i = lane * N; i < width; i += THREADS * N) {
            float values[N];
            load(x + base, i, width, wide, values);
#pragma unroll
            for (int j = 0; j < N; ++j) sum += values[j];
            store_wide(own + i, values);
        }
        const float mean = group_sum<THREADS>(sum, warps) / (float)width;
        float squares = 0.0f;
        for (int i = lane * N; i < width; i += THREADS * N)
            for (int j = 0; j < N; ++j) {
                const float distance = i + j < width ? own[i + j] - mean : 0.0f;
                squares += distance * distance;
            }
        const float inverse = 1.0f / sqrtf(group_sum<THREADS>(squares, warps) / (float)width + epsilon);
        for (int i = lane * N; i < width; i += THREADS * N) {
            float values[N], weights[N], biases[N] = {0.0f, 0.0f, 0.0f, 0.0f};
            load_wide(own + i, values);
            load(weight, i, width, wide, weights);
            if (bias != nullptr) load(bias, i, width, wide, biases);
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] = (values[j] - mean) * inverse * weights[j] + biases[j];
            store(y + base, i, width, wide, values);
        }
    }
}
