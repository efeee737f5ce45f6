// A step of AdamW (Loshchilov and Hutter 2019) on a list of tensors at once: float32 values and moments, and the values'
// bf16 copy for products.
//
//   g = gradient x factor;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   value -= rate (m / c1 / (sqrt(v / c2) + epsilon) + decay value)
//
// The factor clips the norm of all gradients, whose square is read from device memory, so that nobody waits for it: where it
// is not finite, nothing changes.
//
// Floor: gradient, value and both moments are read, value, moments and copy are written: 30 bytes an element.
#include "rows.cuh"

#define THREADS 256
#define CHUNK_ELEMENTS 16384

// A tensor of the list: block b belongs to the last one whose `first_block` is at most b, and takes 16384 elements.
struct UpdatedTensor {
    const float *gradient;
    float *values, *first_moment, *second_moment;
    bf16_bits *narrow;  // or nullptr
    long long count;
    float decay;
    int first_block;
};

struct Step {
    float rate, beta1, beta2, epsilon;
    float correction1, correction2;  // 1 - beta^step
    float scale;                     // of gradients, before clipping
    float clip;                      // the largest norm, after scaling; 0: any
    const double *squares;           // of all gradients, summed; or nullptr
};

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(const UpdatedTensor *tensors, int tensor_count, const __grid_constant__ Step step) {
    float factor = step.scale;
    if (step.squares != nullptr) {
        const double norm = sqrt(*step.squares) * step.scale;
        if (!(norm < 1e300)) return;
        if (step.clip > 0.0f && norm > step.clip) factor = (float)(step.scale * (step.clip / norm));
    }
    int low = 0, high = tensor_count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (tensors[middle].first_block <= (int)blockIdx.x) low = middle;
        else high = middle - 1;
    }
    const UpdatedTensor t = tensors[low];
    constexpr int N = 4;
    const long long begin = (long long)((int)blockIdx.x - t.first_block) * CHUNK_ELEMENTS;
    const long long end = min(t.count, begin + CHUNK_ELEMENTS);
    const bool wide = t.count % N == 0 && aligned(t.gradient) && aligned(t.values) && aligned(t.first_moment) &&
                      aligned(t.second_moment) && aligned(t.narrow);
    for (long long i = begin + threadIdx.x * N; i < end; i += THREADS * N) {
        float g[N], w[N], m[N], v[N];
        load(t.gradient, i, end, wide, g);
        load(t.values, i, end, wide, w);
        load(t.first_moment, i, end, wide, m);
        load(t.second_moment, i, end, wide, v);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float x = g[j] * factor;
            m[j] = step.beta1 * m[j] + (1.0f - step.beta1) * x;
            v[j] = step.beta2 * v[j] + (1.0f - step.beta2) * x * x;
            const float change = m[j] / step.correction1 / (sqrtf(v[j] / step.correction2) + step.epsilon);
            w[j] -= step.rate * (change + t.decay * w[j]);
        }
        store(t.values, i, end, wide, w);
        store(t.first_moment, i, end, wide, m);
        store(t.second_moment, i, end, wide, v);
        if (t.narrow != nullptr) store(t.narrow, i, end, wide, w);
    }
}
