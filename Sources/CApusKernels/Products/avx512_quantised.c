/* Panels of quantised weights by int8 activations: vpdpbusd takes four k at a time, a lane is an output row, and the sums of
 * up to 12 tokens stay in registers beside one expanded block of weights (8 vectors). Per 32 elements and token: 8 dot
 * products, a conversion, a multiplication of the two scales, and one fused product (two where the format has minima). */
#include <math.h>

#include "avx512.h"
#if defined(__x86_64__)

AVX512_INLINE __m512 broadcast_f32(const uint8_t *p) {
    float f;
    memcpy(&f, p, 4);
    return _mm512_set1_ps(f);
}

AVX512_INLINE __m512i broadcast_i32(const uint8_t *p) {
    int32_t i;
    memcpy(&i, p, 4);
    return _mm512_set1_epi32(i);
}

AVX512_INLINE __m512 load_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

AVX512_INLINE __m512 load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

AVX512_INLINE __m512 load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

AVX512_INLINE __m512i low_nibbles(__m512i q) { return _mm512_and_si512(q, _mm512_set1_epi8(15)); }

AVX512_INLINE __m512i high_nibbles(__m512i q) { return low_nibbles(_mm512_srli_epi16(q, 4)); }

/* Few tokens run at the speed of memory, and the hardware fetches best alone; more of them work on each block for so long
 * that it lags behind. */
enum { FETCH_TOKENS = 5, FETCH_AHEAD = 6144 };

AVX512_INLINE void fetch_ahead(const uint8_t *panel, const int bytes, const int tokens) {
    if (tokens >= FETCH_TOKENS) {
        UNROLL for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)panel + FETCH_AHEAD + i, _MM_HINT_T0);
    }
}

/* One block of four-bit weights as eight vectors. */
AVX512_INLINE void expand_nibbles(const uint8_t *q, __m512i *w) {
    UNROLL for (int v = 0; v < 4; v++) {
        __m512i both = _mm512_loadu_si512(q + v * 64);
        w[v] = low_nibbles(both);
        w[v + 4] = high_nibbles(both);
    }
}

AVX512_INLINE __m512i dot_vectors(__m512i sum, const __m512i *w, int count, const uint8_t *q) {
    UNROLL for (int v = 0; v < count; v++) sum = _mm512_dpbusd_epi32(sum, w[v], broadcast_i32(q + v * 4));
    return sum;
}

/* sums += scale * d * (w . q + c) */
AVX512_INLINE void add_biased_block(const uint8_t *record, const __m512i *w, __m512 scale, __m512 *sums, int tokens) {
    const uint8_t *d = record + tokens * 32, *c = d + tokens * 4;
    UNROLL for (int t = 0; t < tokens; t++) {
        __m512i dot = dot_vectors(broadcast_i32(c + t * 4), w, 8, record + t * 32);
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, broadcast_f32(d + t * 4)), sums[t]);
    }
}

/* sums += scale * d * (w . q) + min * c */
AVX512_INLINE void add_minimum_block(const uint8_t *record, const __m512i *w, __m512 scale, __m512 min, __m512 *sums,
                                     int tokens) {
    const uint8_t *d = record + tokens * 32, *c = d + tokens * 4;
    UNROLL for (int t = 0; t < tokens; t++) {
        __m512i dot = dot_vectors(_mm512_setzero_si512(), w, 8, record + t * 32);
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, broadcast_f32(d + t * 4)), sums[t]);
        sums[t] = _mm512_fmadd_ps(min, broadcast_f32(c + t * 4), sums[t]);
    }
}

AVX512_INLINE void clear(__m512 *sums, int tokens) {
    UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_setzero_ps();
}

AVX512_INLINE void store(float *out, const __m512 *sums, int tokens) {
    UNROLL for (int t = 0; t < tokens; t++) _mm512_storeu_ps(out + t * PANEL_ROWS, sums[t]);
}

AVX512_INLINE void q8_0(const uint8_t *panel, int64_t k, const uint8_t *record, float *out, const int tokens) {
    __m512 sums[TILE_TOKENS];
    clear(sums, tokens);
    for (int64_t b = k / BLOCK; b > 0; b--, panel += PANEL_Q8_0, record += tokens * TILE_TOKEN_BYTES) {
        fetch_ahead(panel, PANEL_Q8_0, tokens);
        __m512i w[8];
        UNROLL for (int v = 0; v < 8; v++) w[v] = _mm512_loadu_si512(panel + 32 + v * 64);
        add_biased_block(record, w, load_f16(panel), sums, tokens);
    }
    store(out, sums, tokens);
}

AVX512_INLINE void q4_0(const uint8_t *panel, int64_t k, const uint8_t *record, float *out, const int tokens) {
    __m512 sums[TILE_TOKENS];
    clear(sums, tokens);
    for (int64_t b = k / BLOCK; b > 0; b--, panel += PANEL_Q4_0, record += tokens * TILE_TOKEN_BYTES) {
        fetch_ahead(panel, PANEL_Q4_0, tokens);
        __m512i w[8];
        expand_nibbles(panel + 32, w);
        add_biased_block(record, w, load_f16(panel), sums, tokens);
    }
    store(out, sums, tokens);
}

AVX512_INLINE void q4_1(const uint8_t *panel, int64_t k, const uint8_t *record, float *out, const int tokens) {
    __m512 sums[TILE_TOKENS];
    clear(sums, tokens);
    for (int64_t b = k / BLOCK; b > 0; b--, panel += PANEL_Q4_1, record += tokens * TILE_TOKEN_BYTES) {
        fetch_ahead(panel, PANEL_Q4_1, tokens);
        __m512i w[8];
        expand_nibbles(panel + 64, w);
        add_minimum_block(record, w, load_f16(panel), load_f16(panel + 32), sums, tokens);
    }
    store(out, sums, tokens);
}

AVX512_INLINE void q4_k(const uint8_t *panel, int64_t k, const uint8_t *record, float *out, const int tokens) {
    __m512 sums[TILE_TOKENS];
    clear(sums, tokens);
    for (int64_t b = k / SUPER_BLOCK; b > 0; b--) {
        const uint8_t *pair = panel + 64;
        for (int j = 0; j < 4; j++, pair += PANEL_Q4_K_PAIR, record += 2 * tokens * TILE_TOKEN_BYTES) {
            fetch_ahead(pair, PANEL_Q4_K_PAIR, tokens);
            __m512 d = load_f16(panel), negative_min = _mm512_sub_ps(_mm512_setzero_ps(), load_f16(panel + 32));
            __m512i w[8];
            UNROLL for (int v = 0; v < 8; v++) w[v] = low_nibbles(_mm512_loadu_si512(pair + 64 + v * 64));
            add_minimum_block(record, w, _mm512_mul_ps(d, load_u8(pair)), _mm512_mul_ps(negative_min, load_u8(pair + 32)),
                              sums, tokens);
            UNROLL for (int v = 0; v < 8; v++) w[v] = high_nibbles(_mm512_loadu_si512(pair + 64 + v * 64));
            add_minimum_block(record + tokens * TILE_TOKEN_BYTES, w, _mm512_mul_ps(d, load_u8(pair + 16)),
                              _mm512_mul_ps(negative_min, load_u8(pair + 48)), sums, tokens);
        }
        panel += PANEL_Q4_K;
    }
    store(out, sums, tokens);
}

/* Adds bits 2j, 2j+1 of `high`, moved to bits 4 and 5 by the caller, to four low bits. */
AVX512_INLINE __m512i join_bits(__m512i low, __m512i high) {
    return _mm512_ternarylogic_epi32(high, _mm512_set1_epi8(0x30), low, 0xea);
}

AVX512_INLINE void q6_k(const uint8_t *panel, int64_t k, const uint8_t *record, float *out, const int tokens) {
    __m512 sums[TILE_TOKENS];
    clear(sums, tokens);
    for (int64_t b = k / SUPER_BLOCK; b > 0; b--) {
        const uint8_t *p = panel + 32;
        for (int j = 0; j < 8; j++, p += PANEL_Q6_K_BLOCK, record += tokens * TILE_TOKEN_BYTES) {
            fetch_ahead(p, PANEL_Q6_K_BLOCK, tokens);
            __m512 d = load_f16(panel);
            __m512 scale = _mm512_mul_ps(d, load_i8(p)), scale2 = _mm512_mul_ps(d, load_i8(p + 16));
            __m512i w[8];
            expand_nibbles(p + 32, w);
            UNROLL for (int half = 0; half < 2; half++) {
                __m512i high = _mm512_loadu_si512(p + 288 + half * 64);
                w[half * 4] = join_bits(w[half * 4], _mm512_slli_epi16(high, 4));
                w[half * 4 + 1] = join_bits(w[half * 4 + 1], _mm512_slli_epi16(high, 2));
                w[half * 4 + 2] = join_bits(w[half * 4 + 2], high);
                w[half * 4 + 3] = join_bits(w[half * 4 + 3], _mm512_srli_epi16(high, 2));
            }
            const uint8_t *dt = record + tokens * 32, *c = dt + tokens * 4, *c2 = c + tokens * 4;
            UNROLL for (int t = 0; t < tokens; t++) {
                __m512 x = broadcast_f32(dt + t * 4);
                __m512i dot = dot_vectors(broadcast_i32(c + t * 4), w, 4, record + t * 32);
                __m512i dot2 = dot_vectors(broadcast_i32(c2 + t * 4), w + 4, 4, record + t * 32 + 16);
                sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, x), sums[t]);
                sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot2), _mm512_mul_ps(scale2, x), sums[t]);
            }
        }
        panel += PANEL_Q6_K;
    }
    store(out, sums, tokens);
}

#define PANEL_KERNEL(name)                                                                                                  \
    AVX512 void apus_avx512_panel_##name(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {    \
        FOR_TOKENS(tokens, name, panel, k, tile, out)                                                                       \
    }
PANEL_KERNEL(q8_0)
PANEL_KERNEL(q4_0)
PANEL_KERNEL(q4_1)
PANEL_KERNEL(q4_k)
PANEL_KERNEL(q6_k)

AVX512 void apus_avx512_quantise(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token) {
    for (int64_t b = k / BLOCK; b > 0; b--, x += BLOCK, tile += tokens * TILE_TOKEN_BYTES) {
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
        float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        if (_mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q)) largest = NAN;
        float d = largest / 127.0f;
        __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0);
        __m512i q_low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        __m512i q_high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        _mm_storeu_si128((__m128i *)(tile + token * 32), _mm512_cvtepi32_epi8(q_low));
        _mm_storeu_si128((__m128i *)(tile + token * 32 + 16), _mm512_cvtepi32_epi8(q_high));
        int32_t c[2] = {0, 0};
        if (kind == CORRECT_32_HALF) {
            c[0] = -32 * _mm512_reduce_add_epi32(q_low);
            c[1] = -32 * _mm512_reduce_add_epi32(q_high);
        } else {
            int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q_low, q_high));
            float product = d * (float)sum;
            if (kind == CORRECT_SUM) memcpy(c, &product, 4);
            else c[0] = (kind == CORRECT_8 ? -8 : -128) * sum;
        }
        uint8_t *rest = tile + tokens * 32 + token * 4;
        memcpy(rest, &d, 4);
        memcpy(rest + tokens * 4, &c[0], 4);
        memcpy(rest + tokens * 8, &c[1], 4);
    }
}

#endif
