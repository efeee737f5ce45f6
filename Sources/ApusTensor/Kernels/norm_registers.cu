// RMSNorm with the residual sum before it, and its gradients, as norm.cu computes them, of float32 rows that a warp keeps in
// registers: at most PARTS x 128 elements, a multiple of 4, at addresses that are multiples of 16.
//
// A row is asked for at once, so that many bytes are on their way, and passes no shared memory. The weight's gradient gathers
// in registers too, over the rows of a warp; the warps of a block add theirs up at its end, in order.
//
// Floor: as norm.cu.
//
// Set at compile time: PARTS.
#include "rows.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define N 4

// What a lane has of each part of a row.
#define FOR_PARTS(part, i)                                                                                             \
    _Pragma("unroll") for (int part = 0, i = threadIdx.x % 32 * N; part < PARTS; ++part, i += 32 * N) if (i < width)

template <typename Addend, typename Out>
__device__ __forceinline__ void forward(
    const float *x, const Addend *addend, float *sum, const float *weight, float epsilon, Out *y, float *inverses, int rows,
    int width
) {
    grid_launch_dependents();
    grid_wait();
    for (int row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
        const long long start = (long long)row * width;
        float values[PARTS][N];
        FOR_PARTS(part, i) load_wide(x + start + i, values[part]);
        if (addend != nullptr) {
            float others[PARTS][N];
            FOR_PARTS(part, i) load_wide(addend + start + i, others[part]);
            FOR_PARTS(part, i) {
#pragma unroll
                for (int j = 0; j < N; ++j) values[part][j] += others[part][j];
                store_wide(sum + start + i, values[part]);
            }
        }
        float squares = 0.0f;
        FOR_PARTS(part, i) {
#pragma unroll
            for (int j = 0; j < N; ++j) squares += values[part][j] * values[part][j];
        }
        squares = group_sum<32, float>(squares, nullptr);
        const float inverse = 1.0f / sqrtf(squares / (float)width + epsilon);
        if (threadIdx.x % 32 == 0 && inverses != nullptr) inverses[row] = inverse;
        FOR_PARTS(part, i) {
            float weights[N];
            load_wide(weight + i, weights);
#pragma unroll
            for (int j = 0; j < N; ++j) weights[j] *= values[part][j] * inverse;
            store_wide(y + start + i, weights);
        }
    }
}

// Block b takes rows b x chunk ... and leaves its sums in partials[b] unless there are none to leave.
template <typename Gradient>
__device__ __forceinline__ void backward(
    const float *x, const float *weight, const float *inverses, const Gradient *gradient, const float *base, float *result,
    bf16_bits *narrow, float *partials, int rows, int width, int chunk
) {
    __shared__ float4 shared[WARPS][PARTS * 32];
    grid_launch_dependents();
    grid_wait();
    float sums[PARTS][N] = {};
    const int end = min(rows, ((int)blockIdx.x + 1) * chunk);
    for (int row = blockIdx.x * chunk + threadIdx.x / 32; row < end; row += WARPS) {
        const u32 start = (u32)row * width;  // the host sees to it that there are fewer than 2^32 elements
        float values[PARTS][N], g[PARTS][N], out[PARTS][N] = {};
        FOR_PARTS(part, i) load_wide(x + start + i, values[part]);
        FOR_PARTS(part, i) load_wide(gradient + start + i, g[part]);
        if (base != nullptr) FOR_PARTS(part, i) load_wide(base + start + i, out[part]);
        const float inverse = inverses[row];
        float dot = 0.0f;
        FOR_PARTS(part, i) {
            float weights[N];
            load_wide(weight + i, weights);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                sums[part][j] += g[part][j] * values[part][j] * inverse;
                g[part][j] *= weights[j];
                dot += g[part][j] * values[part][j];
            }
        }
        dot = group_sum<32, float>(dot, nullptr);
        const float slope = dot / (float)width * inverse * inverse;
        FOR_PARTS(part, i) {
#pragma unroll
            for (int j = 0; j < N; ++j) out[part][j] += inverse * (g[part][j] - values[part][j] * slope);
            store_wide(result + start + i, out[part]);
            if (narrow != nullptr) store_wide(narrow + start + i, out[part]);
        }
    }
    if (partials == nullptr) return;
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
        shared[threadIdx.x / 32][part * 32 + threadIdx.x % 32] =
            make_float4(sums[part][0], sums[part][1], sums[part][2], sums[part][3]);
    __syncthreads();
    for (int i = threadIdx.x; i < width / N; i += THREADS) {
        float4 total = shared[0][i];
#pragma unroll
        for (int warp = 1; warp < WARPS; ++warp) {
            const float4 one = shared[warp][i];
            total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
        }
        *reinterpret_cast<float4 *>(partials + (long long)blockIdx.x * width + i * N) = total;
    }
}

// Named by the types of the addend and of y.
#define FORWARD(NAME, ADDEND, OUT)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, PARTS <= 5 ? 4 : 2)                                          \
        NAME(const float *x, const ADDEND *addend, float *sum, const float *weight, float epsilon, OUT *y,             \
             float *inverses, int rows, int width) {                                                                   \
        forward(x, addend, sum, weight, epsilon, y, inverses, rows, width);                                            \
    }
FORWARD(rms_norm_forward_registers_f32_f32, float, float)
FORWARD(rms_norm_forward_registers_f32_bf16, float, bf16_bits)
FORWARD(rms_norm_forward_registers_bf16_f32, bf16_bits, float)
FORWARD(rms_norm_forward_registers_bf16_bf16, bf16_bits, bf16_bits)

// Named by the type of the gradient that comes.
#define BACKWARD(NAME, GRADIENT)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, PARTS <= 6 ? 2 : 1)                                          \
        NAME(const float *x, const float *weight, const float *inverses, const GRADIENT *gradient, const float *base,  \
             float *result, bf16_bits *narrow, float *partials, int rows, int width, int chunk) {                      \
        backward(x, weight, inverses, gradient, base, result, narrow, partials, rows, width, chunk);                   \
    }
BACKWARD(rms_norm_backward_registers_f32, float)
BACKWARD(rms_norm_backward_registers_bf16, bf16_bits)
