/* Loads and reductions that the AVX-512 float kernels share. */
#ifndef APUS_AVX512_FLOAT_H
#define APUS_AVX512_FLOAT_H
#include "avx512.h"
#if defined(__x86_64__)

/* A tile of 4 weight rows x 6 tokens keeps 24 vector sums beside its operands: 24 fused products for 10 loads. */
enum { TILE_ROWS = 4, CUT_TOKENS = 6 };

/* What a kernel multiplies: weights of a type by f32 activations, or bf16 by bf16 in pairs of k. Always a constant. */
typedef enum { KIND_F32, KIND_BF16, KIND_F16, KIND_BF16_PAIRS } float_kind;

AVX512_INLINE int weight_size(const float_kind kind) { return kind == KIND_F32 ? 4 : 2; }

/* Elements of k that a vector step takes. */
AVX512_INLINE int step_elements(const float_kind kind) { return kind == KIND_BF16_PAIRS ? 32 : 16; }

AVX512_INLINE __m512 widen_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* The weights of one step; `p` may be of any alignment. */
AVX512_INLINE __m512 load_weights(const char *p, const float_kind kind) {
    switch (kind) {
    case KIND_BF16: return widen_bf16(_mm256_loadu_si256((const __m256i *)p));
    case KIND_F16: return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
    default: return _mm512_loadu_ps(p);
    }
}

/* The first `count` weights of a step, and zeros. */
AVX512_INLINE __m512 load_weights_tail(const char *p, int64_t count, const float_kind kind) {
    uint32_t mask = (1u << count) - 1;
    switch (kind) {
    case KIND_F32: return _mm512_maskz_loadu_ps((__mmask16)mask, p);
    case KIND_BF16: return widen_bf16(_mm256_maskz_loadu_epi16((__mmask16)mask, p));
    case KIND_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)mask, p));
    default: return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p));
    }
}

AVX512_INLINE __m512 multiply_add(__m512 sum, __m512 w, __m512 x, const float_kind kind) {
    if (kind == KIND_BF16_PAIRS) return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
    return _mm512_fmadd_ps(w, x, sum);
}

/* The lane sums of each of up to four vectors. */
AVX512_INLINE __m128 reduce4(const __m512 *v, int count) {
    __m512 zero = _mm512_setzero_ps();
    __m512 a = v[0], b = count > 1 ? v[1] : zero, c = count > 2 ? v[2] : zero, d = count > 3 ? v[3] : zero;
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* out[t * 16 + row] of a tile. */
AVX512_INLINE void reduce_tile(__m512 sums[CUT_TOKENS][TILE_ROWS], float *out, int rows, int tokens) {
    UNROLL for (int t = 0; t < tokens; t++)
        _mm_mask_storeu_ps(out + t * PANEL_ROWS, (__mmask8)((1 << rows) - 1), reduce4(sums[t], rows));
}

/* Calls `kernel` with the number of tokens of a cut as a constant. */
#define FOR_CUT_TOKENS(tokens, kernel, ...)   \
    switch (tokens) {                         \
    case 1: kernel(__VA_ARGS__, 1); break;    \
    case 2: kernel(__VA_ARGS__, 2); break;    \
    case 3: kernel(__VA_ARGS__, 3); break;    \
    case 4: kernel(__VA_ARGS__, 4); break;    \
    case 5: kernel(__VA_ARGS__, 5); break;    \
    default: kernel(__VA_ARGS__, 6); break;   \
    }

#endif
#endif
