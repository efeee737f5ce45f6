// Rotary position embedding in place: pairs (x, y) of each head become (x cos - y sin, y cos + x sin). Gradients take the
// same way with the sines negated.
//
//   x       [tokens][heads][2 pairs], at `token_stride` and `head_stride` elements; the first of them at x[0]
//   cosine, sine  [tokens][pairs]
//
// Pairs are neighbours where `interleaved`, otherwise element i with element i + pairs.
//
// Floor: what is rotated is read and written once; the tables are small and stay in L2 over the heads of a token.
#include "rows.cuh"

#define THREADS 256

template <typename T>
__device__ __forceinline__ void rotate(
    T *x, const float *cosine, const float *sine, int tokens, int heads, int pairs, long long token_stride,
    long long head_stride, int interleaved
) {
    constexpr int N = Vector<T, T>::size;
    grid_launch_dependents();
    grid_wait();
    const bool wide = pairs % N == 0 && token_stride % N == 0 && head_stride % N == 0 && aligned(x) &&
                      aligned(cosine) && aligned(sine);
    // The host sees to it that there are fewer than 2^31 parts.
    const int parts = (pairs + N - 1) / N, token_parts = heads * parts, all = tokens * token_parts;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        const int token = i / token_parts, in_token = i - token * token_parts;
        const int head = in_token / parts, first = (in_token - head * parts) * N;
        T *row = x + token * token_stride + head * head_stride;
        float c[N], s[N];
        load(cosine + (long long)token * pairs, first, pairs, wide, c);
        load(sine + (long long)token * pairs, first, pairs, wide, s);
        if (interleaved) {
            float values[2 * N];
            if (wide) {
                float low[N], high[N];
                load_wide(row + 2 * first, low);
                load_wide(row + 2 * first + N, high);
#pragma unroll
                for (int j = 0; j < N; ++j) values[j] = low[j], values[N + j] = high[j];
            } else {
                load(row, 2 * first, 2 * pairs, false, values);
            }
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float a = values[2 * j], b = values[2 * j + 1];
                values[2 * j] = a * c[j] - b * s[j];
                values[2 * j + 1] = b * c[j] + a * s[j];
            }
            if (wide) {
                float low[N], high[N];
#pragma unroll
                for (int j = 0; j < N; ++j) low[j] = values[j], high[j] = values[N + j];
                store_wide(row + 2 * first, low);
                store_wide(row + 2 * first + N, high);
            } else {
                store(row, 2 * first, 2 * pairs, false, values);
            }
        } else {
            float a[N], b[N];
            load(row, first, pairs, wide, a);
            load(row + pairs, first, pairs, wide, b);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float x0 = a[j], y0 = b[j];
                a[j] = x0 * c[j] - y0 * s[j];
                b[j] = y0 * c[j] + x0 * s[j];
            }
            store(row, first, pairs, wide, a);
            store(row + pairs, first, pairs, wide, b);
        }
    }
}

#define ROTATE(NAME, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(T *x, const float *cosine, const float *sine, int tokens, int heads, int pairs, long long token_stride,   \
             long long head_stride, int interleaved) {                                                     \
        rotate(x, cosine, sine, tokens, heads, pairs, token_stride, head_stride, interleaved);                   \
    }
ROTATE(rotate_f32, float)
ROTATE(rotate_bf16, bf16_bits)

// Cosine and sine of positions, as RotaryEmbedding computes them on the CPU: in float64, stored in float32.
extern "C" __global__ void __launch_bounds__(THREADS) rotary_angles(
    const int *positions, const double *inverse_frequencies, double magnitude, float *cosine, float *sine, int tokens,
    int pairs
) {
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < (long long)tokens * pairs;
         i += (long long)gridDim.x * THREADS) {
        const double angle = positions[i / pairs] * inverse_frequencies[i % pairs];
        cosine[i] = (float)(cos(angle) * magnitude);
        sine[i] = (float)(sin(angle) * magnitude);
    }
}
