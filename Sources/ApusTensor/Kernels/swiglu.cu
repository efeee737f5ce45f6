// SwiGLU: silu(gate) x up, and its gradients.
//
//   d_gate = d up s (1 + gate (1 - s)),  d_up = d gate s,  s = logistic(gate)
//
// Rows of gate and up lie `stride` elements apart, so that both may be halves of the rows of one tensor; those of their
// gradients `gradient_stride`. Rows of the result and of its gradient lie side by side.
//
// Floor: forward reads gate and up and writes the result once; backward reads gate, up and d, and writes both gradients.
#include "rows.cuh"

#define THREADS 256

template <typename In, typename Out>
__device__ __forceinline__ void forward(
    const In *gate, const In *up, Out *result, int rows, int width, long long stride
) {
    constexpr int N = Vector<In, Out>::size;
    grid_launch_dependents();
    grid_wait();
    const bool wide = width % N == 0 && stride % N == 0 && aligned(gate) && aligned(up) && aligned(result);
    // The host sees to it that there are fewer than 2^31 parts.
    const int parts = (width + N - 1) / N, all = rows * parts;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        const int row = i / parts, first = (i - row * parts) * N;
        float g[N], u[N];
        load(gate + row * stride, first, width, wide, g);
        load(up + row * stride, first, width, wide, u);
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = g[j] * logistic(g[j]) * u[j];
        store(result + (long long)row * width, first, width, wide, g);
    }
}

template <typename In, typename Gradient, typename Out>
__device__ __forceinline__ void backward(
    const In *gate, const In *up, const Gradient *gradient, Out *gate_gradient, Out *up_gradient, int rows, int width,
    long long stride, long long gradient_stride
) {
    constexpr int N = Vector<Gradient, Out>::size;
    grid_launch_dependents();
    grid_wait();
    const bool wide = width % N == 0 && stride % N == 0 && gradient_stride % N == 0 && aligned(gate) && aligned(up) &&
                      aligned(gradient) && aligned(gate_gradient) && aligned(up_gradient);
    const int parts = (width + N - 1) / N, all = rows * parts;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        const int row = i / parts, first = (i - row * parts) * N;
        float g[N], u[N], d[N];
        load(gate + row * stride, first, width, wide, g);
        load(up + row * stride, first, width, wide, u);
        load(gradient + (long long)row * width, first, width, wide, d);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float s = logistic(g[j]), x = g[j];
            g[j] = d[j] * u[j] * s * (1.0f + x * (1.0f - s));
            u[j] = d[j] * x * s;
        }
        store(gate_gradient + row * gradient_stride, first, width, wide, g);
        store(up_gradient + row * gradient_stride, first, width, wide, u);
    }
}

#define FORWARD(NAME, IN, OUT)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const IN *gate, const IN *up, OUT *result, int rows, int width, long long stride) {                       \
        forward(gate, up, result, rows, width, stride);                                                                \
    }
FORWARD(swiglu_forward_f32_f32, float, float)
FORWARD(swiglu_forward_f32_bf16, float, bf16_bits)
FORWARD(swiglu_forward_bf16_bf16, bf16_bits, bf16_bits)

// Named by the types of gate and up, of the gradient that comes, and of those that go.
#define BACKWARD(NAME, IN, GRADIENT, OUT)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const IN *gate, const IN *up, const GRADIENT *gradient, OUT *gate_gradient, OUT *up_gradient, int rows,   \
             int width, long long stride, long long gradient_stride) {                                                 \
        backward(gate, up, gradient, gate_gradient, up_gradient, rows, width, stride, gradient_stride);                \
    }
BACKWARD(swiglu_backward_f32_f32_f32, float, float, float)
BACKWARD(swiglu_backward_f32_f32_bf16, float, float, bf16_bits)
BACKWARD(swiglu_backward_bf16_f32_bf16, bf16_bits, float, bf16_bits)
BACKWARD(swiglu_backward_bf16_bf16_bf16, bf16_bits, bf16_bits, bf16_bits)
