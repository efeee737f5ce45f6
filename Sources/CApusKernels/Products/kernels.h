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

/* out[t * 16 + row], row < rows <= 16: dot products of row-major weight rows with up to 12 rows of activations. Strides in
 * elements. */
typedef void (*apus_rows_kernel)(const void *w, int64_t w_stride, int rows, const void *x, int64_t x_stride, int tokens,
                                 int64_t k, float *out);

/* The same for any number of tokens of packed activations. `partial`: APUS_PARTIAL_FLOATS a token, written over. */
typedef void (*apus_packed_panel_kernel)(const void *w, int64_t w_stride, int rows, const void *x, int64_t tokens, int64_t k,
                                         float *partial, float *out);

/* Packs tokens [first, last) of x, row-major [token][k]. */
typedef void (*apus_pack_kernel)(const void *x, int64_t stride, int64_t first, int64_t last, int64_t k, void *out);

/* Float products of many tokens. Activations are packed into units of 64 bytes of k, cuts of PACKED_CUT tokens. */
enum { PACKED_CUT = 6, PACKED_UNIT = 64, APUS_PARTIAL_FLOATS = PANEL_ROWS * 16 };

typedef struct {
    apus_packed_panel_kernel panel[APUS_F16 + 1]; /* f32 activations */
    apus_packed_panel_kernel panel_bf16_pairs;    /* bf16 on both sides; or NULL: bf16 weights are widened */
    apus_pack_kernel pack_f32, pack_f32_as_bf16;
    void (*widen)(const void *bf16, int64_t count, float *out);
} apus_packed_kernels;

/* Bytes of packed activations of `tokens` tokens; `size` bytes an element. */
static inline int64_t apus_packed_bytes(int64_t tokens, int64_t k, int64_t size) {
    int64_t units = (k * size + PACKED_UNIT - 1) / PACKED_UNIT;
    return (tokens + PACKED_CUT - 1) / PACKED_CUT * PACKED_CUT * units * PACKED_UNIT;
}

/* What an operand of a general product is made of, and how it is multiplied: f32 as it is, bf16, or f32 rounded to bf16. */
typedef enum { GEMM_F32, GEMM_BF16, GEMM_F32_ROUNDED, GEMM_SOURCES } apus_gemm_source;

/* A tile is 6 rows by up to 64 columns of c. A unit is 4 bytes along k: one f32, or two bf16 where there are dots of bf16. */
enum { GEMM_ROWS = 6, GEMM_COLUMNS = 64, GEMM_UNIT_BYTES = 4 };

/* c[rows, columns] = alpha a b + beta c over `units` units. a: 6 rows, unit u of row r at r * a_row + u * a_unit (bytes).
 * b: [unit][columns rounded up to 16]. `units` lines from `fetch` on are brought into the second cache meanwhile. */
typedef struct {
    const char *a, *b, *fetch;
    int64_t a_row, a_unit, units;
    int rows, columns;
    float alpha, beta;
    float *c;
    int64_t ldc;
} apus_gemm_tile;

/* Packs `rows` rows of a and k elements: stored [row][k] into rows of whole vectors of units, `pitch` bytes apart; stored [k][row]
 * into strips [unit][6], `pitch` bytes apart, behind each of which 32 bytes are written over. Strides in elements. */
typedef void (*apus_gemm_pack_a)(const char *a, int64_t stride, int64_t rows, int64_t k, char *out, int64_t pitch);

/* Packs up to 64 columns of b for a tile; stored [k][column], or [column][k]. */
typedef void (*apus_gemm_pack_b)(const char *b, int64_t stride, int columns, int64_t k, char *out);

typedef struct {
    int64_t depth[GEMM_SOURCES]; /* elements in a unit */
    void (*tile[GEMM_SOURCES])(const apus_gemm_tile *tile);
    apus_gemm_pack_a a_rows[GEMM_SOURCES], a_columns[GEMM_SOURCES];
    apus_gemm_pack_b b_rows[GEMM_SOURCES], b_columns[GEMM_SOURCES];
} apus_gemm_kernels;

typedef struct {
    const char *name;
    /* Writes one token's place in the records of its tile. */
    void (*quantise)(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token);
    apus_panel_kernel panel[APUS_Q6_K + 1];
    apus_rows_kernel rows[APUS_F16 + 1]; /* f32 activations */
    /* gate[i] = silu(gate[i]) * up[i]; count is a multiple of 16. */
    void (*swiglu)(float *gate, const float *up, int64_t count);
    apus_rows_kernel rows_bf16_pairs;  /* bf16 on both sides; not needed beside `gemm` */
    const apus_packed_kernels *packed; /* or NULL: rows serve any number of tokens */
    const apus_gemm_kernels *gemm;     /* or NULL: rows serve general products */
} apus_kernels;

extern const apus_kernels apus_kernels_portable;
#if defined(__x86_64__)
extern const apus_kernels apus_kernels_avx2;
extern const apus_kernels apus_kernels_avx512, apus_kernels_avx512bf16;
#endif

/* The table for a call of this thread. */
const apus_kernels *apus_active_kernels(void);

#endif
