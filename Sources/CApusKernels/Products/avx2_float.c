/* Products of row-major float weights with row-major activations with AVX2: tiles of 4 rows x 2 tokens, 8 lanes of sums per
 * element. As with AVX-512, every tile shape sums an element in the same order. */
#include <math.h>

#include "avx2.h"
#if defined(__x86_64__)

enum { TILE_ROWS = 4, SUB_TOKENS = 2, LANES = 8 };

typedef enum { KIND_F32, KIND_BF16, KIND_F16 } float_kind;

AVX2_INLINE int size_of(const float_kind kind) { return kind == KIND_F32 ? 4 : 2; }

AVX2_INLINE __m256 load(const char *p, const float_kind kind) {
    if (kind == KIND_F32) return _mm256_loadu_ps((const float *)p);
    __m128i h = _mm_loadu_si128((const __m128i *)p);
    if (kind == KIND_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

AVX2_INLINE __m256 load_tail(const char *p, int64_t count, const float_kind kind) {
    char padded[LANES * 4] = {0};
    memcpy(padded, p, (size_t)(count * size_of(kind)));
    return load(padded, kind);
}

/* The sums of the lanes of four vectors. */
AVX2_INLINE __m128 reduce4(const __m256 *v) {
    __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

AVX2_INLINE void tile(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *out,
                      const float_kind w_kind, const float_kind x_kind, const int rows, const int tokens) {
    const int w_size = size_of(w_kind), x_size = size_of(x_kind);
    __m256 sums[SUB_TOKENS][TILE_ROWS];
    UNROLL for (int t = 0; t < SUB_TOKENS; t++)
        UNROLL for (int r = 0; r < TILE_ROWS; r++) sums[t][r] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        __m256 weights[TILE_ROWS];
        UNROLL for (int r = 0; r < rows; r++) weights[r] = load(w + r * w_step + i * w_size, w_kind);
        UNROLL for (int t = 0; t < tokens; t++) {
            __m256 activations = load(x + t * x_step + i * x_size, x_kind);
            UNROLL for (int r = 0; r < rows; r++) sums[t][r] = _mm256_fmadd_ps(weights[r], activations, sums[t][r]);
        }
    }
    if (i < k) {
        UNROLL for (int t = 0; t < tokens; t++) {
            __m256 activations = load_tail(x + t * x_step + i * x_size, k - i, x_kind);
            UNROLL for (int r = 0; r < rows; r++)
                sums[t][r] = _mm256_fmadd_ps(load_tail(w + r * w_step + i * w_size, k - i, w_kind), activations, sums[t][r]);
        }
    }
    UNROLL for (int t = 0; t < tokens; t++) {
        float results[TILE_ROWS];
        _mm_storeu_ps(results, reduce4(sums[t]));
        memcpy(out + t * PANEL_ROWS, results, sizeof(float) * (size_t)rows);
    }
}

AVX2_INLINE void rows_of(const char *weights, int64_t w_step, int rows, const char *x, int64_t x_step, int tokens, int64_t k,
                         float *out, const float_kind w_kind, const float_kind x_kind) {
    for (int r = 0; r < rows;) {
        int width = rows - r >= TILE_ROWS ? TILE_ROWS : 1;
        const char *w = weights + r * w_step;
        for (int t = 0; t < tokens; t += SUB_TOKENS) {
            const char *xt = x + t * x_step;
            float *o = out + t * PANEL_ROWS + r;
            int pair = tokens - t >= SUB_TOKENS;
            if (width == 1 && pair) tile(w, w_step, xt, x_step, k, o, w_kind, x_kind, 1, SUB_TOKENS);
            else if (width == 1) tile(w, w_step, xt, x_step, k, o, w_kind, x_kind, 1, 1);
            else if (pair) tile(w, w_step, xt, x_step, k, o, w_kind, x_kind, TILE_ROWS, SUB_TOKENS);
            else tile(w, w_step, xt, x_step, k, o, w_kind, x_kind, TILE_ROWS, 1);
        }
        r += width;
    }
}

AVX2 static void rows_f32(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens, int64_t k,
                          float *out) {
    rows_of(w, w_stride * 4, rows, x, x_stride * 4, tokens, k, out, KIND_F32, KIND_F32);
}

AVX2 static void rows_bf16(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens, int64_t k,
                           float *out) {
    rows_of(w, w_stride * 2, rows, x, x_stride * 4, tokens, k, out, KIND_BF16, KIND_F32);
}

AVX2 static void rows_f16(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens, int64_t k,
                          float *out) {
    rows_of(w, w_stride * 2, rows, x, x_stride * 4, tokens, k, out, KIND_F16, KIND_F32);
}

AVX2 static void rows_bf16_pairs(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens,
                                 int64_t k, float *out) {
    rows_of(w, w_stride * 2, rows, x, x_stride * 2, tokens, k, out, KIND_BF16, KIND_BF16);
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
    .panel = {[APUS_Q8_0] = apus_avx2_panel_q8_0, [APUS_Q4_0] = apus_avx2_panel_q4_0, [APUS_Q4_1] = apus_avx2_panel_q4_1,
              [APUS_Q4_K] = apus_avx2_panel_q4_k, [APUS_Q6_K] = apus_avx2_panel_q6_k},
    .rows = {[APUS_F32] = rows_f32, [APUS_BF16] = rows_bf16, [APUS_F16] = rows_f16},
    .swiglu = swiglu,
    .rows_bf16_pairs = rows_bf16_pairs,
};

#endif
