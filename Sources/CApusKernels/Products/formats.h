/* Number formats of weight files: 16-bit floats and GGUF's quantised blocks, and the panels they are repacked into.
 *
 * A panel holds 16 output rows. A lane of a 64-byte vector is a row; its 4 bytes are 4 consecutive elements of k, the shape
 * that the int8 dot-product instructions take. Nothing is rounded and the width is the file's. Per panel, blocks follow
 * each other along k:
 *
 *   Q4_0  d f16[16], q 4 x 64 bytes                      288 bytes per 32 elements
 *   Q4_1  d f16[16], m f16[16], q 4 x 64                 320 per 32
 *   Q8_0  d f16[16], q 8 x 64 (biased by 128)            544 per 32
 *   Q4_K  d f16[16], dmin f16[16], then 4 times          2368 per 256
 *         scale u8[2][16], min u8[2][16], q 8 x 64
 *   Q6_K  d f16[16], then 8 times                        3360 per 256
 *         scale i8[2][16], low 4 x 64, high 2 x 64
 *
 * Vector v of Q4_0, Q4_1 and Q6_K's low bits holds elements 4v..4v+3 of the block in its low nibbles and 16 + 4v.. in its
 * high nibbles; vector v of Q4_K elements 4v.. of the even sub-block in the low and of the odd one in the high nibbles;
 * bits 2j, 2j+1 of Q6_K's high vector u belong to elements 16u + 4j... */
#ifndef APUS_FORMATS_H
#define APUS_FORMATS_H
#include <stdint.h>
#include <string.h>

#include "../include/apus_linear.h"

enum { PANEL_ROWS = 16, BLOCK = 32, SUPER_BLOCK = 256 };

typedef struct __attribute__((packed)) {
    uint16_t d;
    uint8_t qs[16];
} block_q4_0;

typedef struct __attribute__((packed)) {
    uint16_t d, m;
    uint8_t qs[16];
} block_q4_1;

typedef struct __attribute__((packed)) {
    uint16_t d;
    int8_t qs[32];
} block_q8_0;

typedef struct __attribute__((packed)) {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
} block_q4_k;

typedef struct __attribute__((packed)) {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
} block_q6_k;

enum {
    PANEL_Q4_0 = 288,
    PANEL_Q4_1 = 320,
    PANEL_Q8_0 = 544,
    PANEL_Q4_K_PAIR = 576,
    PANEL_Q4_K = 64 + 4 * PANEL_Q4_K_PAIR,
    PANEL_Q6_K_BLOCK = 416,
    PANEL_Q6_K = 32 + 8 * PANEL_Q6_K_BLOCK
};

static inline int apus_is_quantised(apus_dtype dtype) { return dtype >= APUS_Q8_0; }

/* Bytes of one panel's block of apus_block_elements(dtype) along k. */
static inline int64_t apus_panel_block_bytes(apus_dtype dtype) {
    switch (dtype) {
    case APUS_Q8_0: return PANEL_Q8_0;
    case APUS_Q4_0: return PANEL_Q4_0;
    case APUS_Q4_1: return PANEL_Q4_1;
    case APUS_Q4_K: return PANEL_Q4_K;
    case APUS_Q6_K: return PANEL_Q6_K;
    default: return 0;
    }
}

static inline uint16_t load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static inline float float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t bits_from_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static inline float bf16_to_f32(uint16_t h) { return float_from_bits((uint32_t)h << 16); }

/* Rounds to nearest even; a NaN stays one. */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits = bits_from_float(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Moves exponent and mantissa into place and rescales by 2^112, which also normalises subnormals. */
static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x0f800000) return float_from_bits(sign | (rest + 0x70000000));
    return float_from_bits(sign | bits_from_float(float_from_bits(rest) * 0x1p112f));
}

/* The 6-bit scale and minimum of sub-block j of Q4_K. */
static inline void q4_k_scale(const uint8_t *s, int j, uint8_t *scale, uint8_t *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6 << 4));
        *min = (uint8_t)((s[j + 4] >> 4) | (s[j] >> 6 << 4));
    }
}

/* Quant 0..63 of element i of a Q6_K block. */
static inline int q6_k_quant(const block_q6_k *b, int i) {
    int half = i / 128, l = i % 32, part = i % 128 / 32;
    uint8_t low = b->ql[half * 64 + (part & 1) * 32 + l];
    low = part < 2 ? low & 15 : low >> 4;
    return low | ((b->qh[half * 32 + l] >> (2 * part)) & 3) << 4;
}

#endif
