/* Products of row-major float weights with row-major activations with AVX2: tiles of 4 rows x 2 tokens, 8 lanes of sums per
 * element. As with AVX-512, every tile shape sums an element in the same order. */
#include <math.h>

#include "avx2.h"
#if defined(__x86_64__)

enum { TILE_ROWS = 4, SUB_TOKENS = 2, LANES = 8 };

AVX2_INLINE __m256 load_f32(const char *p) { return _mm256_loadu_ps((const float *)p); }

AVX2_INLINE __m256 load_bf16(const char *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

AVX2_INLINE __m256 load_f16(const char *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

/* The sums of the lanes of four vectors. */
AVX2_INLINE __m128 reduce4(__m256 a, __m256 b, __m256 c, __m256 d) {
    __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

#define ROWS_KERNEL(name, load_w, w_size, load_x, x_size)                                                                    \
    AVX2_INLINE void tile_##name(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *out,        \
                                 const int rows, const int tokens) {                                                         \
        __m256 sums[SUB_TOKENS][TILE_ROWS];                                                                                  \
        UNROLL for (int t = 0; t < SUB_TOKENS; t++)                                                                          \
            UNROLL for (int r = 0; r < TILE_ROWS; r++) sums[t][r] = _mm256_setzero_ps();                                     \
        int64_t i = 0;                                                                                                       \
        for (; i + LANES <= k; i += LANES) {                                                                                 \
            __m256 weights[TILE_ROWS];                                                                                       \
            UNROLL for (int r = 0; r < rows; r++) weights[r] = load_w(w + r * w_step + i * w_size);                          \
            UNROLL for (int t = 0; t < tokens; t++) {                                                                        \
                __m256 activations = load_x(x + t * x_step + i * x_size);                                                    \
                UNROLL for (int r = 0; r < rows; r++)                                                                        \
                    sums[t][r] = _mm256_fmadd_ps(weights[r], activations, sums[t][r]);                                       \
            }                                                                                                                \
        }                                                                                                                    \
        if (i < k) {                                                                                                         \
            char w_tail[TILE_ROWS][LANES * 4] = {0}, x_tail[LANES * 4];                                                      \
            UNROLL for (int r = 0; r < rows; r++)                                                                            \
                memcpy(w_tail[r], w + r * w_step + i * w_size, (size_t)(k - i) * w_size);                                    \
            UNROLL for (int t = 0; t < tokens; t++) {                                                                        \
                memset(x_tail, 0, sizeof x_tail);                                                                            \
                memcpy(x_tail, x + t * x_step + i * x_size, (size_t)(k - i) * x_size);                                       \
                UNROLL for (int r = 0; r < rows; r++)                                                                        \
                    sums[t][r] = _mm256_fmadd_ps(load_w(w_tail[r]), load_x(x_tail), sums[t][r]);                             \
            }                                                                                                                \
        }                                                                                                                    \
        UNROLL for (int t = 0; t < tokens; t++) {                                                                            \
            float results[TILE_ROWS];                                                                                        \
            _mm_storeu_ps(results, reduce4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]));                                 \
            memcpy(out + t * PANEL_ROWS, results, sizeof(float) * rows);                                                     \
        }                                                                                                                    \
    }                                                                                                                        \
    AVX2 static void rows_##name(const void *w, int64_t ws, int rows, const void *x, int64_t xs, int tokens, int64_t k,      \
                                 float *out, int streaming) {                                                                \
        (void)streaming;                                                                                                     \
        int64_t w_step = ws * w_size, x_step = xs * x_size;                                                                  \
        for (int r = 0; r < rows;) {                                                                                         \
            int width = rows - r >= TILE_ROWS ? TILE_ROWS : 1;                                                               \
            const char *wr = (const char *)w + r * w_step;                                                                   \
            for (int t = 0; t < tokens; t += SUB_TOKENS) {                                                                   \
                const char *xt = (const char *)x + t * x_step;                                                               \
                float *o = out + t * PANEL_ROWS + r;                                                                         \
                if (tokens - t == 1) {                                                                                       \
                    if (width == 1) tile_##name(wr, w_step, xt, x_step, k, o, 1, 1);                                         \
                    else tile_##name(wr, w_step, xt, x_step, k, o, TILE_ROWS, 1);                                            \
                } else {                                                                                                     \
                    if (width == 1) tile_##name(wr, w_step, xt, x_step, k, o, 1, SUB_TOKENS);                                \
                    else tile_##name(wr, w_step, xt, x_step, k, o, TILE_ROWS, SUB_TOKENS);                                   \
                }                                                                                                            \
            }                                                                                                                \
            r += width;                                                                                                      \
        }                                                                                                                    \
    }
ROWS_KERNEL(f32, load_f32, 4, load_f32, 4)
ROWS_KERNEL(bf16, load_bf16, 2, load_f32, 4)
ROWS_KERNEL(f16, load_f16, 2, load_f32, 4)
ROWS_KERNEL(bf16_bf16, load_bf16, 2, load_bf16, 2)

static void to_bf16(const float *x, int64_t count, uint16_t *out) {
    for (int64_t i = 0; i < count; i++) out[i] = f32_to_bf16(x[i]);
}

/* e^x = 2^n e^r with n = round(x / ln 2), as in the AVX-512 kernels; x is held where 2^n is a normal number. */
AVX2_INLINE __m256 exp_f32(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87)), _mm256_set1_ps(88));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), 0);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.0f / 720);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
}

AVX2 static void swiglu(float *gate, const float *up, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        __m256 g = _mm256_loadu_ps(gate + i);
        __m256 e = exp_f32(_mm256_sub_ps(_mm256_setzero_ps(), g));
        __m256 silu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1), e));
        _mm256_storeu_ps(gate + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
    }
}

const apus_kernels apus_kernels_avx2 = {
    .name = "avx2",
    .quantise = apus_avx2_quantise,
    .to_bf16 = to_bf16,
    .panel = {[APUS_Q8_0] = apus_avx2_panel_q8_0, [APUS_Q4_0] = apus_avx2_panel_q4_0, [APUS_Q4_1] = apus_avx2_panel_q4_1,
              [APUS_Q4_K] = apus_avx2_panel_q4_k, [APUS_Q6_K] = apus_avx2_panel_q6_k},
    .rows_f32 = rows_f32,
    .rows_bf16 = rows_bf16,
    .rows_f16 = rows_f16,
    .rows_bf16_bf16 = rows_bf16_bf16,
    .swiglu = swiglu,
};

#endif
