/* Panels of quantised weights by int8 activations with AVX2: a vector holds 8 of the panel's 16 rows, so each half panel is
 * gone through for up to four tokens at a time. Without int8 dot products, vpmaddubsw sums pairs into int16; the widths of
 * the formats say how many of those may be added before they are widened. */
#include <math.h>

#include "avx2.h"
#if defined(__x86_64__)

enum { SUB_TOKENS = 4, HALF_ROWS = 8 };

AVX2_INLINE __m256 broadcast_f32(const uint8_t *p) {
    float f;
    memcpy(&f, p, 4);
    return _mm256_set1_ps(f);
}

AVX2_INLINE __m256i broadcast_i32(const uint8_t *p) {
    int32_t i;
    memcpy(&i, p, 4);
    return _mm256_set1_epi32(i);
}

AVX2_INLINE __m256i load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

AVX2_INLINE __m256 load_f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

AVX2_INLINE __m256 load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

AVX2_INLINE __m256 load_i8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

AVX2_INLINE __m256i low_nibbles(__m256i q) { return _mm256_and_si256(q, _mm256_set1_epi8(15)); }

AVX2_INLINE __m256i high_nibbles(__m256i q) { return low_nibbles(_mm256_srli_epi16(q, 4)); }

AVX2_INLINE void expand_nibbles(const uint8_t *q, __m256i *w) {
    UNROLL for (int v = 0; v < 4; v++) {
        w[v] = low_nibbles(load(q + v * 64));
        w[v + 4] = high_nibbles(load(q + v * 64));
    }
}

AVX2_INLINE __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

/* Four bits: 8 x 2 x 15 x 127 fits in int16. */
AVX2_INLINE __m256i dot_nibbles(const __m256i *w, const uint8_t *q) {
    __m256i sum = _mm256_maddubs_epi16(w[0], broadcast_i32(q));
    UNROLL for (int v = 1; v < 8; v++)
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[v], broadcast_i32(q + v * 4)));
    return widen(sum);
}

/* Six bits: 2 x 2 x 63 x 127 fits in int16. */
AVX2_INLINE __m256i dot_six_bits(const __m256i *w, const uint8_t *q) {
    __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], broadcast_i32(q)),
                                   _mm256_maddubs_epi16(w[1], broadcast_i32(q + 4)));
    __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], broadcast_i32(q + 8)),
                                    _mm256_maddubs_epi16(w[3], broadcast_i32(q + 12)));
    return _mm256_add_epi32(widen(low), widen(high));
}

/* Eight bits: the magnitudes of signed weights by activations with the weights' signs; 2 x 128 x 127 fits in int16. */
AVX2_INLINE __m256i dot_bytes(const __m256i *w, const uint8_t *q) {
    __m256i sum = _mm256_setzero_si256();
    UNROLL for (int v = 0; v < 8; v++)
        sum = _mm256_add_epi32(sum, widen(_mm256_maddubs_epi16(_mm256_abs_epi8(w[v]),
                                                               _mm256_sign_epi8(broadcast_i32(q + v * 4), w[v]))));
    return sum;
}

/* The parts of a record that belong to the tokens from `token` on. */
typedef struct {
    const uint8_t *q, *d, *c, *c2;
} record_parts;

AVX2_INLINE record_parts parts_of(const uint8_t *record, int tokens, int token) {
    const uint8_t *rest = record + tokens * 32 + token * 4;
    return (record_parts){record + token * 32, rest, rest + tokens * 4, rest + tokens * 8};
}

AVX2_INLINE __m256 add_scaled(__m256 sum, __m256i dot, __m256 scale, const uint8_t *d) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, broadcast_f32(d)), sum);
}

/* Each function below adds 8 rows x `count` tokens of a whole panel to `sums`. */

AVX2_INLINE void q8_0(const uint8_t *panel, int half, int64_t k, const uint8_t *record, int tokens, int token, __m256 *sums,
                      const int count) {
    for (int64_t b = k / BLOCK; b > 0; b--, panel += PANEL_Q8_0, record += tokens * TILE_TOKEN_BYTES) {
        record_parts x = parts_of(record, tokens, token);
        __m256 scale = load_f16(panel + half * 16);
        __m256i w[8];
        UNROLL for (int v = 0; v < 8; v++)
            w[v] = _mm256_xor_si256(load(panel + 32 + v * 64 + half * 32), _mm256_set1_epi8(-128));
        UNROLL for (int t = 0; t < count; t++)
            sums[t] = add_scaled(sums[t], dot_bytes(w, x.q + t * 32), scale, x.d + t * 4);
    }
}

AVX2_INLINE void q4_0(const uint8_t *panel, int half, int64_t k, const uint8_t *record, int tokens, int token, __m256 *sums,
                      const int count) {
    for (int64_t b = k / BLOCK; b > 0; b--, panel += PANEL_Q4_0, record += tokens * TILE_TOKEN_BYTES) {
        record_parts x = parts_of(record, tokens, token);
        __m256 scale = load_f16(panel + half * 16);
        __m256i w[8];
        expand_nibbles(panel + 32 + half * 32, w);
        UNROLL for (int t = 0; t < count; t++) {
            __m256i dot = _mm256_add_epi32(dot_nibbles(w, x.q + t * 32), broadcast_i32(x.c + t * 4));
            sums[t] = add_scaled(sums[t], dot, scale, x.d + t * 4);
        }
    }
}

AVX2_INLINE void q4_1(const uint8_t *panel, int half, int64_t k, const uint8_t *record, int tokens, int token, __m256 *sums,
                      const int count) {
    for (int64_t b = k / BLOCK; b > 0; b--, panel += PANEL_Q4_1, record += tokens * TILE_TOKEN_BYTES) {
        record_parts x = parts_of(record, tokens, token);
        __m256 scale = load_f16(panel + half * 16), min = load_f16(panel + 32 + half * 16);
        __m256i w[8];
        expand_nibbles(panel + 64 + half * 32, w);
        UNROLL for (int t = 0; t < count; t++) {
            sums[t] = add_scaled(sums[t], dot_nibbles(w, x.q + t * 32), scale, x.d + t * 4);
            sums[t] = _mm256_fmadd_ps(min, broadcast_f32(x.c + t * 4), sums[t]);
        }
    }
}

AVX2_INLINE void q4_k(const uint8_t *panel, int half, int64_t k, const uint8_t *record, int tokens, int token, __m256 *sums,
                      const int count) {
    for (int64_t b = 0; b < k / BLOCK; b++, record += tokens * TILE_TOKEN_BYTES) {
        const uint8_t *super = panel + b / 8 * PANEL_Q4_K, *pair = super + 64 + b % 8 / 2 * PANEL_Q4_K_PAIR;
        const uint8_t *scales = pair + (b & 1) * 16 + half * 8;
        record_parts x = parts_of(record, tokens, token);
        __m256 scale = _mm256_mul_ps(load_f16(super + half * 16), load_u8(scales));
        __m256 min = _mm256_mul_ps(load_f16(super + 32 + half * 16), load_u8(scales + 32));
        __m256i w[8];
        UNROLL for (int v = 0; v < 8; v++) {
            __m256i both = load(pair + 64 + v * 64 + half * 32);
            w[v] = b & 1 ? high_nibbles(both) : low_nibbles(both);
        }
        UNROLL for (int t = 0; t < count; t++) {
            sums[t] = add_scaled(sums[t], dot_nibbles(w, x.q + t * 32), scale, x.d + t * 4);
            sums[t] = _mm256_fnmadd_ps(min, broadcast_f32(x.c + t * 4), sums[t]);
        }
    }
}

AVX2_INLINE void q6_k(const uint8_t *panel, int half, int64_t k, const uint8_t *record, int tokens, int token, __m256 *sums,
                      const int count) {
    for (int64_t b = 0; b < k / BLOCK; b++, record += tokens * TILE_TOKEN_BYTES) {
        const uint8_t *super = panel + b / 8 * PANEL_Q6_K, *p = super + 32 + b % 8 * PANEL_Q6_K_BLOCK;
        record_parts x = parts_of(record, tokens, token);
        __m256 d = load_f16(super + half * 16);
        __m256 scale = _mm256_mul_ps(d, load_i8(p + half * 8)), scale2 = _mm256_mul_ps(d, load_i8(p + 16 + half * 8));
        __m256i w[8], mask = _mm256_set1_epi8(0x30);
        expand_nibbles(p + 32 + half * 32, w);
        UNROLL for (int u = 0; u < 2; u++) {
            __m256i high = load(p + 288 + u * 64 + half * 32);
            w[u * 4] = _mm256_or_si256(w[u * 4], _mm256_and_si256(_mm256_slli_epi16(high, 4), mask));
            w[u * 4 + 1] = _mm256_or_si256(w[u * 4 + 1], _mm256_and_si256(_mm256_slli_epi16(high, 2), mask));
            w[u * 4 + 2] = _mm256_or_si256(w[u * 4 + 2], _mm256_and_si256(high, mask));
            w[u * 4 + 3] = _mm256_or_si256(w[u * 4 + 3], _mm256_and_si256(_mm256_srli_epi16(high, 2), mask));
        }
        UNROLL for (int t = 0; t < count; t++) {
            __m256i dot = _mm256_add_epi32(dot_six_bits(w, x.q + t * 32), broadcast_i32(x.c + t * 4));
            __m256i dot2 = _mm256_add_epi32(dot_six_bits(w + 4, x.q + t * 32 + 16), broadcast_i32(x.c2 + t * 4));
            sums[t] = add_scaled(sums[t], dot, scale, x.d + t * 4);
            sums[t] = add_scaled(sums[t], dot2, scale2, x.d + t * 4);
        }
    }
}

/* Runs `name` for `count` tokens, a constant, so that their sums live in registers. */
#define PANEL_PART(name, count)                                                                                             \
    {                                                                                                                       \
        __m256 sums[count];                                                                                                 \
        UNROLL for (int t = 0; t < count; t++) sums[t] = _mm256_setzero_ps();                                               \
        name(panel, half, k, tile, tokens, token, sums, count);                                                             \
        UNROLL for (int t = 0; t < count; t++)                                                                              \
            _mm256_storeu_ps(out + (token + t) * PANEL_ROWS + half * HALF_ROWS, sums[t]);                                   \
    }

#define PANEL_KERNEL(name)                                                                                                  \
    AVX2 void apus_avx2_panel_##name(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {        \
        for (int half = 0; half < 2; half++)                                                                                \
            for (int token = 0; token < tokens; token += SUB_TOKENS) switch (tokens - token) {                              \
                case 1: PANEL_PART(name, 1) break;                                                                          \
                case 2: PANEL_PART(name, 2) break;                                                                          \
                case 3: PANEL_PART(name, 3) break;                                                                          \
                default: PANEL_PART(name, SUB_TOKENS) break;                                                                \
                }                                                                                                           \
    }
PANEL_KERNEL(q8_0)
PANEL_KERNEL(q4_0)
PANEL_KERNEL(q4_1)
PANEL_KERNEL(q4_k)
PANEL_KERNEL(q6_k)

AVX2_INLINE int32_t sum_i32(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

AVX2_INLINE float max_f32(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

AVX2 void apus_avx2_quantise(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int64_t b = k / BLOCK; b > 0; b--, x += BLOCK, tile += tokens * TILE_TOKEN_BYTES) {
        __m256 v[4], most = _mm256_setzero_ps();
        UNROLL for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            most = _mm256_max_ps(most, _mm256_and_ps(v[i], magnitude));
        }
        __m256 unordered = _mm256_or_ps(_mm256_cmp_ps(v[0], v[1], _CMP_UNORD_Q), _mm256_cmp_ps(v[2], v[3], _CMP_UNORD_Q));
        float largest = _mm256_movemask_ps(unordered) ? NAN : max_f32(most), d = largest / 127.0f;
        __m256 inverse = _mm256_set1_ps(largest > 0 ? 127.0f / largest : 0);
        __m256i q[4];
        UNROLL for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(tile + token * 32), bytes);
        int32_t low = sum_i32(_mm256_add_epi32(q[0], q[1])), high = sum_i32(_mm256_add_epi32(q[2], q[3]));
        int32_t c[2] = {0, 0};
        float product = d * (float)(low + high);
        switch (kind) {
        case CORRECT_128: c[0] = -128 * (low + high); break;
        case CORRECT_8: c[0] = -8 * (low + high); break;
        case CORRECT_SUM: memcpy(c, &product, 4); break;
        case CORRECT_32_HALF: c[0] = -32 * low, c[1] = -32 * high; break;
        }
        uint8_t *rest = tile + tokens * 32 + token * 4;
        memcpy(rest, &d, 4);
        memcpy(rest + tokens * 4, &c[0], 4);
        memcpy(rest + tokens * 8, &c[1], 4);
    }
}

#endif
