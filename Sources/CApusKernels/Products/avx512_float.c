/* Products of row-major float weights with row-major activations, both read as they lie: a tile of 4 rows x 6 tokens keeps
 * 24 vector sums, each summing its element's k in 16 lanes, and reduces them at the end. Per 16 k: 24 fused products for 10
 * loads. Every tile shape sums an element in the same order. */
#include <math.h>

#include "avx512.h"
#if defined(__x86_64__)

enum { TILE_ROWS = 4, SUB_TOKENS = 6 };

AVX512_INLINE __m512 load_f32(const char *p, int64_t i) { return _mm512_loadu_ps(p + i * 4); }

AVX512_INLINE __m512 load_bf16(const char *p, int64_t i) {
    __m256i h = _mm256_loadu_si256((const __m256i *)(p + i * 2));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

AVX512_INLINE __m512 load_f16(const char *p, int64_t i) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + i * 2)));
}

AVX512_INLINE __m512 tail_f32(const char *p, int64_t i, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p + i * 4); }

AVX512_INLINE __m512 tail_bf16(const char *p, int64_t i, __mmask16 mask) {
    __m256i h = _mm256_maskz_loadu_epi16(mask, p + i * 2);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

AVX512_INLINE __m512 tail_f16(const char *p, int64_t i, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p + i * 2));
}

/* The sums of the lanes of four vectors. */
AVX512_INLINE __m128 reduce4(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

AVX512_INLINE void reduce_and_store(__m512 sums[SUB_TOKENS][TILE_ROWS], float *out, int rows, int tokens) {
    __m512 zero = _mm512_setzero_ps();
    UNROLL for (int t = 0; t < tokens; t++) {
        __m128 s = reduce4(sums[t][0], rows > 1 ? sums[t][1] : zero, rows > 2 ? sums[t][2] : zero,
                           rows > 3 ? sums[t][3] : zero);
        _mm_mask_storeu_ps(out + t * PANEL_ROWS, (__mmask8)((1 << rows) - 1), s);
    }
}

#define TILE(type, size)                                                                                                     \
    AVX512_INLINE void tile_##type(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *out,      \
                                   const int rows, const int tokens, const char *ahead, const int lines) {                   \
        __m512 sums[SUB_TOKENS][TILE_ROWS];                                                                                  \
        UNROLL for (int t = 0; t < tokens; t++)                                                                              \
            UNROLL for (int r = 0; r < rows; r++) sums[t][r] = _mm512_setzero_ps();                                          \
        int64_t i = 0;                                                                                                       \
        for (; i + 16 <= k; i += 16) {                                                                                       \
            __m512 weights[TILE_ROWS];                                                                                       \
            UNROLL for (int l = 0; l < lines; l++) _mm_prefetch(ahead + i * 4 * lines + l * 64, _MM_HINT_T0);                \
            UNROLL for (int r = 0; r < rows; r++) weights[r] = load_##type(w + r * w_step, i);                               \
            UNROLL for (int t = 0; t < tokens; t++) {                                                                        \
                __m512 activations = load_f32(x + t * x_step, i);                                                            \
                UNROLL for (int r = 0; r < rows; r++)                                                                        \
                    sums[t][r] = _mm512_fmadd_ps(weights[r], activations, sums[t][r]);                                       \
            }                                                                                                                \
        }                                                                                                                    \
        if (i < k) {                                                                                                         \
            __mmask16 mask = (__mmask16)((1u << (k - i)) - 1);                                                               \
            UNROLL for (int t = 0; t < tokens; t++) {                                                                        \
                __m512 activations = tail_f32(x + t * x_step, i, mask);                                                      \
                UNROLL for (int r = 0; r < rows; r++)                                                                        \
                    sums[t][r] = _mm512_fmadd_ps(tail_##type(w + r * w_step, i, mask), activations, sums[t][r]);             \
            }                                                                                                                \
        }                                                                                                                    \
        reduce_and_store(sums, out, rows, tokens);                                                                           \
    }
TILE(f32, 4)
TILE(bf16, 2)
TILE(f16, 2)

/* The same with bf16 on both sides: vdpbf16ps takes 32 k at a time. */
AVX512_INLINE void tile_bf16_bf16(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *out,
                                  const int rows, const int tokens, const char *ahead, const int lines) {
    __m512 sums[SUB_TOKENS][TILE_ROWS];
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int r = 0; r < rows; r++) sums[t][r] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 32 <= k; i += 32) {
        __m512bh weights[TILE_ROWS];
        UNROLL for (int l = 0; l < lines; l++) _mm_prefetch(ahead + i * 2 * lines + l * 64, _MM_HINT_T0);
        UNROLL for (int r = 0; r < rows; r++) weights[r] = (__m512bh)_mm512_loadu_si512(w + r * w_step + i * 2);
        UNROLL for (int t = 0; t < tokens; t++) {
            __m512bh activations = (__m512bh)_mm512_loadu_si512(x + t * x_step + i * 2);
            UNROLL for (int r = 0; r < rows; r++)
                sums[t][r] = _mm512_dpbf16_ps(sums[t][r], weights[r], activations);
        }
    }
    if (i < k) {
        __mmask32 mask = (1u << (k - i)) - 1;
        UNROLL for (int t = 0; t < tokens; t++) {
            __m512bh activations = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + t * x_step + i * 2);
            UNROLL for (int r = 0; r < rows; r++)
                sums[t][r] = _mm512_dpbf16_ps(
                    sums[t][r], (__m512bh)_mm512_maskz_loadu_epi16(mask, w + r * w_step + i * 2), activations);
        }
    }
    reduce_and_store(sums, out, rows, tokens);
}

#define FOR_SUB_TOKENS(tokens, kernel, ...)   \
    switch (tokens) {                         \
    case 1: kernel(__VA_ARGS__, 1); break;    \
    case 2: kernel(__VA_ARGS__, 2); break;    \
    case 3: kernel(__VA_ARGS__, 3); break;    \
    case 4: kernel(__VA_ARGS__, 4); break;    \
    case 5: kernel(__VA_ARGS__, 5); break;    \
    case 6: kernel(__VA_ARGS__, 6); break;    \
    }

/* Brings a stretch of memory into the first cache. */
AVX512_INLINE void touch(const char *p, int64_t bytes) {
    __m512i seen = _mm512_setzero_si512();
    for (int64_t i = 0; i + 64 <= bytes; i += 64) seen = _mm512_or_si512(seen, _mm512_loadu_si512(p + i));
    __asm__ volatile("" : : "v"(seen));
}

/* Rows from here on are streams long enough for the prefetchers to follow four of them. */
enum { LONG_ROW = 4096 };

/* Tiles over 16 rows x 12 tokens. In general a cut of the tokens stays in the first cache while the rows pass by. Short rows
 * that come from memory are brought in one after the other, because the prefetchers follow one short stream at twice the
 * speed of four: a single token takes row by row, few tokens touch four rows before their tile, and many (two cuts) fetch
 * the next four during it. */
#define ROWS_KERNEL(type, w_size, x_size, lines)                                                                             \
    AVX512_INLINE void one_row_##type(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *o,     \
                                      const int tokens) {                                                                    \
        tile_##type(w, w_step, x, x_step, k, o, 1, tokens, w, 0);                                                            \
    }                                                                                                                        \
    AVX512_INLINE void four_rows_##type(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *o,   \
                                        const int tokens) {                                                                  \
        tile_##type(w, w_step, x, x_step, k, o, TILE_ROWS, tokens, w, 0);                                                    \
    }                                                                                                                        \
    AVX512_INLINE void four_ahead_##type(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *o,  \
                                         const char *ahead, const int tokens) {                                              \
        tile_##type(w, w_step, x, x_step, k, o, TILE_ROWS, tokens, ahead, lines);                                            \
    }                                                                                                                        \
    AVX512 static void rows_by_cut_##type(const char *w, int64_t w_step, int rows, const char *x, int64_t x_step,            \
                                          int tokens, int64_t k, float *out, int width) {                                    \
        for (int r = 0; r < rows;) {                                                                                         \
            const char *wr = w + r * w_step;                                                                                 \
            if (rows - r < width) width = 1;                                                                                 \
            if (width == 1) {                                                                                                \
                FOR_SUB_TOKENS(tokens, one_row_##type, wr, w_step, x, x_step, k, out + r)                                    \
            } else {                                                                                                         \
                FOR_SUB_TOKENS(tokens, four_rows_##type, wr, w_step, x, x_step, k, out + r)                                  \
            }                                                                                                                \
            r += width;                                                                                                      \
        }                                                                                                                    \
    }                                                                                                                        \
    AVX512 void apus_avx512_rows_##type(const void *w, int64_t ws, int rows, const void *x, int64_t xs, int tokens,          \
                                        int64_t k, float *out, int streaming) {                                              \
        int cuts = (tokens + SUB_TOKENS - 1) / SUB_TOKENS, done = 0;                                                         \
        int64_t w_step = ws * w_size, x_step = xs * x_size;                                                                  \
        if (streaming && w_step < LONG_ROW && tokens > 1) {                                                                  \
            for (; done + TILE_ROWS <= rows; done += TILE_ROWS) {                                                            \
                const char *wr = (const char *)w + done * w_step;                                                            \
                if (cuts == 1) touch(wr, TILE_ROWS * w_step);                                                                \
                for (int cut = 0; cut < cuts; cut++) {                                                                       \
                    int t = tokens * cut / cuts, count = tokens * (cut + 1) / cuts - t;                                      \
                    const char *xt = (const char *)x + t * x_step;                                                           \
                    float *o = out + t * PANEL_ROWS + done;                                                                  \
                    if (cuts == 1) {                                                                                         \
                        FOR_SUB_TOKENS(count, four_rows_##type, wr, w_step, xt, x_step, k, o)                                \
                    } else {                                                                                                 \
                        FOR_SUB_TOKENS(count, four_ahead_##type, wr, w_step, xt, x_step, k, o, wr + (4 + 2 * cut) * w_step)  \
                    }                                                                                                        \
                }                                                                                                            \
            }                                                                                                                \
        }                                                                                                                    \
        for (int cut = 0; cut < cuts; cut++) {                                                                               \
            int t = tokens * cut / cuts, count = tokens * (cut + 1) / cuts - t;                                              \
            rows_by_cut_##type((const char *)w + done * w_step, w_step, rows - done, (const char *)x + t * x_step, x_step,   \
                               count, k, out + t * PANEL_ROWS + done, streaming && tokens == 1 ? 1 : TILE_ROWS);             \
        }                                                                                                                    \
    }
ROWS_KERNEL(f32, 4, 4, 2)
ROWS_KERNEL(bf16, 2, 4, 1)
ROWS_KERNEL(f16, 2, 4, 1)
ROWS_KERNEL(bf16_bf16, 2, 2, 2)

AVX512 static void to_bf16(const float *x, int64_t count, uint16_t *out) {
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
        _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
    for (; i < count; i++) out[i] = f32_to_bf16(x[i]);
}

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln(2) / 2; a polynomial of degree 6 errs by 1e-7 there. x is held to where the
 * result is a normal number. */
AVX512_INLINE __m512 exp_f32(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87)), _mm512_set1_ps(88));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

AVX512 static void swiglu(float *gate, const float *up, int64_t count) {
    __m512 one = _mm512_set1_ps(1);
    for (int64_t i = 0; i < count; i += 16) {
        __m512 g = _mm512_loadu_ps(gate + i);
        __m512 sigmoid = _mm512_div_ps(g, _mm512_add_ps(one, exp_f32(_mm512_sub_ps(_mm512_setzero_ps(), g))));
        _mm512_storeu_ps(gate + i, _mm512_mul_ps(sigmoid, _mm512_loadu_ps(up + i)));
    }
}

const apus_kernels apus_kernels_avx512 = {
    .name = "avx512",
    .quantise = apus_avx512_quantise,
    .to_bf16 = to_bf16,
    .panel = {[APUS_Q8_0] = apus_avx512_panel_q8_0, [APUS_Q4_0] = apus_avx512_panel_q4_0,
              [APUS_Q4_1] = apus_avx512_panel_q4_1, [APUS_Q4_K] = apus_avx512_panel_q4_k,
              [APUS_Q6_K] = apus_avx512_panel_q6_k},
    .rows_f32 = apus_avx512_rows_f32,
    .rows_bf16 = apus_avx512_rows_bf16,
    .rows_f16 = apus_avx512_rows_f16,
    .rows_bf16_bf16 = apus_avx512_rows_bf16_bf16,
    .swiglu = swiglu,
    .has_bf16_dot = 1,
};

#endif
