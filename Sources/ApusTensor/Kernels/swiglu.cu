// SwiGLU: silu(gate) x up, and its gradients.
//
//   d_gate = d up s (1 + gate (1 - s)),  d_up = d gate s,  s = logistic(gate)
//
// Floor: forward reads gate and up and writes the result once; backward reads gate, up and d, and writes both gradients.
#include "rows.cuh"

#define THREADS 256

template <typename In, typename Out>
__device__ __forceinline__ void forward(const In *gate, const In *up, Out *result, long long count) {
    constexpr int N = Vector<In, Out>::size;
    const bool wide = count % N == 0 && aligned(gate) && aligned(up) && aligned(result);
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N; i < count;
         i += (long long)gridDim.x * THREADS * N) {
        float g[N], u[N];
        load(gate, i, count, wide, g);
        load(up, i, count, wide, u);
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = g[j] * logistic(g[j]) * u[j];
        store(result, i, count, wide, g);
    }
}

template <typename In, typename Gradient, typename Out>
__device__ __forceinline__ void backward(
    const In *gate, const In *up, const Gradient *gradient, Out *gate_gradient, Out *up_gradient, long long count
) {
    constexpr int N = Vector<Gradient, Out>::size;
    const bool wide = count % N == 0 && aligned(gate) && aligned(up) && aligned(gradient) && aligned(gate_gradient) &&
                      aligned(up_gradient);
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * N; i < count;
         i += (long long)gridDim.x * THREADS * N) {
        float g[N], u[N], d[N];
        load(gate, i, count, wide, g);
        load(up, i, count, wide, u);
        load(gradient, i, count, wide, d);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float s = logistic(g[j]), x = g[j];
            g[j] = d[j] * u[j] * s * (1.0f + x * (1.0f - s));
            u[j] = d[j] * x * s;
        }
        store(gate_gradient, i, count, wide, g);
        store(up_gradient, i, count, wide, u);
    }
}

#define FORWARD(NAME, IN, OUT)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const IN *gate, const IN *up, OUT *result, long long count) {                                             \
        forward(gate, up, result, count);                                                                              \
    }
FORWARD(swiglu_forward_f32_f32, float, float)
FORWARD(swiglu_forward_f32_bf16, float, bf16_bits)
FORWARD(swiglu_forward_bf16_bf16, bf16_bits, bf16_bits)

// Named by the types of gate and up, of the gradient that comes, and of those that go.
#define BACKWARD(NAME, IN, GRADIENT, OUT)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const IN *gate, const IN *up, const GRADIENT *gradient, OUT *gate_gradient, OUT *up_gradient,             \
             long long count) {                                                                                        \
        backward(gate, up, gradient, gate_gradient, up_gradient, count);                                               \
    }
BACKWARD(swiglu_backward_f32_f32_f32, float, float, float)
BACKWARD(swiglu_backward_f32_f32_bf16, float, float, bf16_bits)
BACKWARD(swiglu_backward_bf16_f32_bf16, bf16_bits, float, bf16_bits)
BACKWARD(swiglu_backward_bf16_bf16_bf16, bf16_bits, bf16_bits, bf16_bits)
