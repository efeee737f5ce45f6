/* Products of row-major float weights with up to 12 tokens, both read as they lie: what counts is the speed at which the
 * weights stream in from memory. Each sum runs over k in 16 lanes, reduced at the end, in every tile shape alike. */
#include <math.h>

#include "avx512_float.h"
#if defined(__x86_64__)

/* Brings a stretch of memory into the first cache. */
AVX512_INLINE void touch(const char *p, int64_t bytes) {
    __m512i seen = _mm512_setzero_si512();
    for (int64_t i = 0; i + 64 <= bytes; i += 64) {
        _mm_prefetch(p + i + STREAM_AHEAD, _MM_HINT_T1);
        seen = _mm512_or_si512(seen, _mm512_loadu_si512(p + i));
    }
    __asm__ volatile("" : : "v"(seen));
}

/* Rows from here on are streams long enough for the prefetchers to follow four of them. */
enum { LONG_ROW = 4096 };

/* `ahead`: where to fetch `size of a step` bytes more a step, or NULL. */
AVX512_INLINE void row_tile(const char *w, int64_t w_step, const char *x, int64_t x_step, int64_t k, float *out,
                            const char *ahead, const int rows, const float_kind kind, const int tokens) {
    const int size = weight_size(kind);
    __m512 sums[CUT_TOKENS][TILE_ROWS];
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int r = 0; r < rows; r++) sums[t][r] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 16 <= k; i += 16) {
        __m512 weights[TILE_ROWS];
        if (ahead) {
            UNROLL for (int l = 0; l < size / 2; l++) _mm_prefetch(ahead + i * 2 * size + l * 64, _MM_HINT_T0);
        }
        UNROLL for (int r = 0; r < rows; r++) weights[r] = load_weights(w + r * w_step + i * size, kind);
        UNROLL for (int t = 0; t < tokens; t++) {
            __m512 activations = _mm512_loadu_ps(x + t * x_step + i * 4);
            UNROLL for (int r = 0; r < rows; r++) sums[t][r] = multiply_add(sums[t][r], weights[r], activations, kind);
        }
    }
    if (i < k) {
        UNROLL for (int t = 0; t < tokens; t++) {
            __m512 activations = load_weights_tail(x + t * x_step + i * 4, k - i, KIND_F32);
            UNROLL for (int r = 0; r < rows; r++) {
                __m512 weights = load_weights_tail(w + r * w_step + i * size, k - i, kind);
                sums[t][r] = multiply_add(sums[t][r], weights, activations, kind);
            }
        }
    }
    reduce_tile(sums, out, rows, tokens);
}

/* One token's products with up to four rows, read one after the other and reduced together. There is no fetching ahead: the
 * hardware's own reaches the speed of plain reading, and instructions that fetch take it 5 to 30 % of that. */
AVX512_INLINE void stream_rows(const char *w, int64_t w_step, const char *x, int64_t k, float *out, const int rows,
                               const float_kind kind) {
    const int size = weight_size(kind);
    const __mmask16 rest = (__mmask16)((1u << k % 16) - 1);
    __m512 sums[TILE_ROWS];
    UNROLL for (int r = 0; r < rows; r++, w += w_step) {
        sums[r] = _mm512_setzero_ps();
        int64_t i = 0;
        for (; i + 16 <= k; i += 16)
            sums[r] = multiply_add(sums[r], load_weights(w + i * size, kind), _mm512_loadu_ps(x + i * 4), kind);
        if (rest)
            sums[r] = multiply_add(sums[r], load_weights_tail(w + i * size, k - i, kind), _mm512_maskz_loadu_ps(rest, x + i * 4),
                                   kind);
    }
    _mm_mask_storeu_ps(out, (__mmask8)((1 << rows) - 1), reduce4(sums, rows));
}

/* Short rows are brought in one after the other, because the prefetchers follow one short stream at twice the speed of four:
 * few tokens touch four rows before their tile, and many (two cuts) fetch the next four rows during it. */
AVX512_INLINE void rows_of(const char *weights, int64_t w_step, int rows, const char *x, int64_t x_step, int tokens,
                           int64_t k, float *out, const float_kind kind) {
    if (tokens == 1) {
        int r = 0;
        for (; r + TILE_ROWS <= rows; r += TILE_ROWS) stream_rows(weights + r * w_step, w_step, x, k, out + r, TILE_ROWS, kind);
        for (; r < rows; r++) stream_rows(weights + r * w_step, w_step, x, k, out + r, 1, kind);
        return;
    }
    int cuts = (tokens + CUT_TOKENS - 1) / CUT_TOKENS;
    for (int r = 0; r < rows;) {
        const char *w = weights + r * w_step;
        int short_rows = w_step < LONG_ROW, width = rows - r >= TILE_ROWS ? TILE_ROWS : 1;
        int bring_in = width == TILE_ROWS && short_rows;
        if (bring_in && cuts == 1) touch(w, TILE_ROWS * w_step);
        for (int cut = 0; cut < cuts; cut++) {
            int t = tokens * cut / cuts, count = tokens * (cut + 1) / cuts - t;
            const char *xt = x + t * x_step, *ahead = w + (4 + 2 * cut) * w_step;
            float *o = out + t * PANEL_ROWS + r;
            if (width == 1) {
                FOR_CUT_TOKENS(count, row_tile, w, w_step, xt, x_step, k, o, NULL, 1, kind)
            } else if (bring_in && cuts > 1) {
                FOR_CUT_TOKENS(count, row_tile, w, w_step, xt, x_step, k, o, ahead, TILE_ROWS, kind)
            } else {
                FOR_CUT_TOKENS(count, row_tile, w, w_step, xt, x_step, k, o, NULL, TILE_ROWS, kind)
            }
        }
        r += width;
    }
}

AVX512 static void rows_f32(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens,
                            int64_t k, float *out) {
    rows_of(w, w_stride * 4, rows, x, x_stride * 4, tokens, k, out, KIND_F32);
}

AVX512 static void rows_bf16(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens,
                             int64_t k, float *out) {
    rows_of(w, w_stride * 2, rows, x, x_stride * 4, tokens, k, out, KIND_BF16);
}

AVX512 static void rows_f16(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens,
                            int64_t k, float *out) {
    rows_of(w, w_stride * 2, rows, x, x_stride * 4, tokens, k, out, KIND_F16);
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
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, exp_f32(_mm512_sub_ps(_mm512_setzero_ps(), g))));
        _mm512_storeu_ps(gate + i, _mm512_mul_ps(silu, _mm512_loadu_ps(up + i)));
    }
}

#define TABLE(table, title)                                                                                  \
    const apus_kernels apus_kernels_##table = {                                                               \
        .name = title,                                                                                        \
        .quantise = apus_avx512_quantise,                                                                     \
        .panel = {[APUS_Q8_0] = apus_avx512_panel_q8_0, [APUS_Q4_0] = apus_avx512_panel_q4_0,                  \
                  [APUS_Q4_1] = apus_avx512_panel_q4_1, [APUS_Q4_K] = apus_avx512_panel_q4_k,                  \
                  [APUS_Q6_K] = apus_avx512_panel_q6_k},                                                       \
        .rows = {[APUS_F32] = rows_f32, [APUS_BF16] = rows_bf16, [APUS_F16] = rows_f16},                       \
        .swiglu = swiglu,                                                                                     \
        .packed = &apus_##table##_packed,                                                                     \
        .gemm = &apus_##table##_gemm,                                                                         \
    };

TABLE(avx512, "avx512")
TABLE(avx512bf16, "avx512bf16")

#endif
