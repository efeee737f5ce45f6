/* The table of inner loops that one instruction set provides, and the layouts they share. */
#ifndef APUS_KERNELS_TABLE_H
#define APUS_KERNELS_TABLE_H
#include "formats.h"

/* Most tokens that one call of a panel kernel takes: with 16 rows a lane each, their sums and one block of weights fill the
 * vector registers. */
enum { TILE_TOKENS = 12 };

/* Quantised activations. A tile of t <= 12 tokens is a sequence of records, one per 32 elements of k:
 *
 *   int8 q[t][32]; float d[t]; correction c[t]; correction c2[t]
 *
 * x = d q. The correction undoes what the packed quants are biased by, for the 32 elements (c) or, for Q6_K, for the first
 * and second 16 (c, c2): */
typedef enum {
    CORRECT_128,    /* int32 -128 sum(q): Q8_0 */
    CORRECT_8,      /* int32 -8 sum(q): Q4_0 */
    CORRECT_SUM,    /* float d sum(q), the factor of a minimum: Q4_1, Q4_K */
    CORRECT_32_HALF /* int32 -32 sum(q), by halves: Q6_K */
} apus_correction;
enum { CORRECTIONS = 4, TILE_TOKEN_BYTES = 32 + 3 * 4 };

static inline apus_correction apus_correction_of(apus_dtype dtype) {
    switch (dtype) {
    case APUS_Q8_0: return CORRECT_128;
    case APUS_Q4_0: return CORRECT_8;
    case APUS_Q6_K: return CORRECT_32_HALF;
    default: return CORRECT_SUM;
    }
}

/* Bytes of a tile of `tokens` tokens over `k` elements. */
static inline int64_t apus_tile_bytes(int64_t tokens, int64_t k) { return k / BLOCK * tokens * TILE_TOKEN_BYTES; }

/* out[t * 16 + row]: sums of `tokens` tokens of a tile with the 16 rows of a panel. */
typedef void (*apus_panel_kernel)(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);

/* out[t * 16 + row], row < rows <= 16: dot products of row-major weight rows with row-major activations. Strides in elements.
 * `streaming`: the weights come from memory, not from a cache. */
typedef void (*apus_rows_kernel)(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens,
                                 int64_t k, float *out, int streaming);

typedef struct {
    const char *name;
    /* Writes one token's place in the records of its tile. */
    void (*quantise)(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token);
    void (*to_bf16)(const float *x, int64_t count, uint16_t *out);
    apus_panel_kernel panel[APUS_Q6_K + 1];
    apus_rows_kernel rows_f32, rows_bf16, rows_f16; /* f32 activations */
    apus_rows_kernel rows_bf16_bf16;                /* bf16 activations */
    /* gate[i] = silu(gate[i]) * up[i]; count is a multiple of 16. */
    void (*swiglu)(float *gate, const float *up, int64_t count);
    int has_bf16_dot;                               /* rows_bf16_bf16 is faster than rows_bf16 */
} apus_kernels;

extern const apus_kernels apus_kernels_portable;
#if defined(__x86_64__)
extern const apus_kernels apus_kernels_avx2;
extern const apus_kernels apus_kernels_avx512;
#endif

/* The table in use. */
const apus_kernels *apus_active_kernels(void);

#endif
