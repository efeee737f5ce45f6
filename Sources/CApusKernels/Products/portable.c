/* The inner loops in plain C: for any machine, and the twin that the fast ones are checked against. */
#include <math.h>

#include "kernels.h"

static void quantise(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token) {
    for (int64_t b = 0; b < k / BLOCK; b++, x += BLOCK, tile += tokens * TILE_TOKEN_BYTES) {
        float largest = 0, zero = 0;
        for (int i = 0; i < BLOCK; i++) {
            largest = fmaxf(largest, fabsf(x[i]));
            zero += x[i] - x[i];
        }
        largest += zero;
        float d = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0;
        int8_t *q = (int8_t *)tile + token * BLOCK;
        int32_t low = 0, high = 0;
        for (int i = 0; i < BLOCK; i++) {
            q[i] = largest < INFINITY ? (int8_t)lrintf(x[i] * inverse) : 0;
            if (i < 16) low += q[i];
            else high += q[i];
        }
        int32_t c[2] = {0, 0};
        float product = d * (float)(low + high);
        switch (kind) {
        case CORRECT_128: c[0] = -128 * (low + high); break;
        case CORRECT_8: c[0] = -8 * (low + high); break;
        case CORRECT_SUM: memcpy(c, &product, 4); break;
        case CORRECT_32_HALF: c[0] = -32 * low, c[1] = -32 * high; break;
        }
        uint8_t *rest = tile + tokens * BLOCK + token * 4;
        memcpy(rest, &d, 4);
        memcpy(rest + tokens * 4, &c[0], 4);
        memcpy(rest + tokens * 8, &c[1], 4);
    }
}

/* Where a token's parts of a record are. */
typedef struct {
    const int8_t *q;
    float d, sum;
    int32_t c, c2;
} token_block;

static inline token_block token_at(const uint8_t *record, int tokens, int token) {
    token_block t = {.q = (const int8_t *)record + token * BLOCK};
    const uint8_t *rest = record + tokens * BLOCK + token * 4;
    memcpy(&t.d, rest, 4);
    memcpy(&t.sum, rest + tokens * 4, 4);
    memcpy(&t.c, rest + tokens * 4, 4);
    memcpy(&t.c2, rest + tokens * 8, 4);
    return t;
}

static inline int32_t dot_nibbles(const uint8_t *q, int lane, int shift, int vectors, const int8_t *x) {
    int32_t sum = 0;
    for (int i = 0; i < 4 * vectors; i++) sum += (q[i / 4 * 64 + lane * 4 + i % 4] >> shift & 15) * x[i];
    return sum;
}

static void panel_q8_0(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {
    memset(out, 0, sizeof(float) * PANEL_ROWS * (size_t)tokens);
    for (int64_t b = 0; b < k / BLOCK; b++, panel += PANEL_Q8_0, tile += tokens * TILE_TOKEN_BYTES)
        for (int t = 0; t < tokens; t++) {
            token_block x = token_at(tile, tokens, t);
            for (int r = 0; r < PANEL_ROWS; r++) {
                int32_t dot = x.c;
                for (int i = 0; i < BLOCK; i++) dot += panel[32 + i / 4 * 64 + r * 4 + i % 4] * x.q[i];
                out[t * PANEL_ROWS + r] += f16_to_f32(load_u16(panel + r * 2)) * x.d * (float)dot;
            }
        }
}

static void panel_q4_0(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {
    memset(out, 0, sizeof(float) * PANEL_ROWS * (size_t)tokens);
    for (int64_t b = 0; b < k / BLOCK; b++, panel += PANEL_Q4_0, tile += tokens * TILE_TOKEN_BYTES)
        for (int t = 0; t < tokens; t++) {
            token_block x = token_at(tile, tokens, t);
            for (int r = 0; r < PANEL_ROWS; r++) {
                int32_t dot = x.c + dot_nibbles(panel + 32, r, 0, 4, x.q) + dot_nibbles(panel + 32, r, 4, 4, x.q + 16);
                out[t * PANEL_ROWS + r] += f16_to_f32(load_u16(panel + r * 2)) * x.d * (float)dot;
            }
        }
}

static void panel_q4_1(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {
    memset(out, 0, sizeof(float) * PANEL_ROWS * (size_t)tokens);
    for (int64_t b = 0; b < k / BLOCK; b++, panel += PANEL_Q4_1, tile += tokens * TILE_TOKEN_BYTES)
        for (int t = 0; t < tokens; t++) {
            token_block x = token_at(tile, tokens, t);
            for (int r = 0; r < PANEL_ROWS; r++) {
                int32_t dot = dot_nibbles(panel + 64, r, 0, 4, x.q) + dot_nibbles(panel + 64, r, 4, 4, x.q + 16);
                float *o = &out[t * PANEL_ROWS + r];
                *o += f16_to_f32(load_u16(panel + r * 2)) * x.d * (float)dot;
                *o += f16_to_f32(load_u16(panel + 32 + r * 2)) * x.sum;
            }
        }
}

static void panel_q4_k(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {
    memset(out, 0, sizeof(float) * PANEL_ROWS * (size_t)tokens);
    for (int64_t b = 0; b < k / BLOCK; b++, tile += tokens * TILE_TOKEN_BYTES) {
        const uint8_t *super = panel + b / 8 * PANEL_Q4_K, *pair = super + 64 + b % 8 / 2 * PANEL_Q4_K_PAIR;
        int odd = b & 1;
        for (int t = 0; t < tokens; t++) {
            token_block x = token_at(tile, tokens, t);
            for (int r = 0; r < PANEL_ROWS; r++) {
                float d = f16_to_f32(load_u16(super + r * 2)) * pair[odd * 16 + r];
                float m = f16_to_f32(load_u16(super + 32 + r * 2)) * pair[32 + odd * 16 + r];
                float *o = &out[t * PANEL_ROWS + r];
                *o += d * x.d * (float)dot_nibbles(pair + 64, r, odd * 4, 8, x.q);
                *o -= m * x.sum;
            }
        }
    }
}

static void panel_q6_k(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out) {
    memset(out, 0, sizeof(float) * PANEL_ROWS * (size_t)tokens);
    for (int64_t b = 0; b < k / BLOCK; b++, tile += tokens * TILE_TOKEN_BYTES) {
        const uint8_t *super = panel + b / 8 * PANEL_Q6_K, *p = super + 32 + b % 8 * PANEL_Q6_K_BLOCK;
        for (int t = 0; t < tokens; t++) {
            token_block x = token_at(tile, tokens, t);
            for (int r = 0; r < PANEL_ROWS; r++) {
                int32_t dot[2] = {x.c + dot_nibbles(p + 32, r, 0, 4, x.q), x.c2 + dot_nibbles(p + 32, r, 4, 4, x.q + 16)};
                for (int i = 0; i < 32; i++)
                    dot[i / 16] += (p[288 + i / 16 * 64 + r * 4 + i % 4] >> (i % 16 / 4 * 2) & 3) * 16 * x.q[i];
                float d = f16_to_f32(load_u16(super + r * 2));
                float *o = &out[t * PANEL_ROWS + r];
                *o += d * (int8_t)p[r] * x.d * (float)dot[0];
                *o += d * (int8_t)p[16 + r] * x.d * (float)dot[1];
            }
        }
    }
}

/* Eight running sums, so that a compiler may keep them in vector registers. */
#define ROWS_KERNEL(name, weight, activation)                                                                           \
    static void name(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens, int64_t k,  \
                     float *out) {                                                                                      \
        for (int t = 0; t < tokens; t++)                                                                                \
            for (int r = 0; r < rows; r++) {                                                                            \
                float sums[8] = {0};                                                                                    \
                int64_t i = 0;                                                                                          \
                for (; i + 8 <= k; i += 8)                                                                              \
                    for (int j = 0; j < 8; j++)                                                                         \
                        sums[j] += weight(w, r * w_stride + i + j) * activation(x, t * x_stride + i + j);               \
                for (int j = 0; i < k; i++, j++) sums[j] += weight(w, r * w_stride + i) * activation(x, t * x_stride + i); \
                out[t * PANEL_ROWS + r] = ((sums[0] + sums[4]) + (sums[2] + sums[6])) +                                 \
                                          ((sums[1] + sums[5]) + (sums[3] + sums[7]));                                  \
            }                                                                                                           \
    }

static inline float at_f32(const void *p, int64_t i) {
    float f;
    memcpy(&f, (const char *)p + i * 4, 4);
    return f;
}

static inline float at_bf16(const void *p, int64_t i) { return bf16_to_f32(load_u16((const char *)p + i * 2)); }

static inline float at_f16(const void *p, int64_t i) { return f16_to_f32(load_u16((const char *)p + i * 2)); }

ROWS_KERNEL(rows_f32, at_f32, at_f32)
ROWS_KERNEL(rows_bf16, at_bf16, at_f32)
ROWS_KERNEL(rows_f16, at_f16, at_f32)
ROWS_KERNEL(rows_bf16_pairs, at_bf16, at_bf16)

static void swiglu(float *gate, const float *up, int64_t count) {
    for (int64_t i = 0; i < count; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

const apus_kernels apus_kernels_portable = {
    .name = "portable",
    .quantise = quantise,
    .panel = {[APUS_Q8_0] = panel_q8_0, [APUS_Q4_0] = panel_q4_0, [APUS_Q4_1] = panel_q4_1, [APUS_Q4_K] = panel_q4_k,
              [APUS_Q6_K] = panel_q6_k},
    .rows = {[APUS_F32] = rows_f32, [APUS_BF16] = rows_bf16, [APUS_F16] = rows_f16},
    .swiglu = swiglu,
    .rows_bf16_pairs = rows_bf16_pairs,
};
