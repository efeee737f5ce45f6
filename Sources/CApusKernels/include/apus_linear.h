/* Matrix products of the CPU: linear layers over float and block-quantised weights, and general products.
 *
 * Orders of summation. An element of the result of apus_linear and apus_linear_swiglu is summed in an order that depends
 * on k, the weight's dtype and the instruction set only: not on m, n, the number of threads, nor on how the work is cut. A
 * token's result is the same in any batch (batch-invariant), with one exception: in default precision, where the CPU multiplies by
 * bf16 dots ("avx512bf16" of apus_isa.h), bf16 weights take f32 activations up to 128 tokens and bf16 activations from 129 on;
 * APUS_PRECISION_F32 lifts it. */
#ifndef APUS_LINEAR_H
#define APUS_LINEAR_H
#include "apus_isa.h"
#include "apus_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    APUS_F32 = 0,
    APUS_BF16,
    APUS_F16,
    APUS_Q8_0,
    APUS_Q4_0,
    APUS_Q4_1,
    APUS_Q4_K,
    APUS_Q6_K
} apus_dtype;

/* How activations enter a product. DEFAULT: f32 and f16 weights take f32; bf16 weights take f32 up to 128 tokens and, by bf16
 * dots, bf16 (relative error of a product about 2^-9) for more; quantised weights take int8 with one f32 scale per 32 elements (about
 * 4e-3). F32: activations are never rounded (below 1e-6). Sums are f32. */
typedef enum { APUS_PRECISION_DEFAULT = 0, APUS_PRECISION_F32 = 1 } apus_precision;

/* The most tokens of a linear layer whose activations enter the product as they are. */
int64_t apus_linear_exact_tokens(apus_precision precision, apus_dtype dtype);

/* A weight [n, k], row-major in its file, prepared for products. */
typedef struct apus_weight apus_weight;

/* Elements in a block of a dtype (1, 32 or 256) and bytes of a block. */
int64_t apus_block_elements(apus_dtype dtype);
int64_t apus_block_bytes(apus_dtype dtype);

/* Prepares a weight. `data`: n contiguous rows of k elements in file format (GGUF blocks for the quantised types), of any
 * alignment. f32, bf16 and f16 borrow `data`, which must outlive the weight; the quantised types are copied into panels
 * of 16 rows at their file width. NULL when out of memory, or when k is not a multiple of the block. */
apus_weight *apus_weight_create(apus_pool *pool, apus_dtype dtype, const void *data, int64_t n, int64_t k);

/* The same, but f32, bf16 and f16 are copied too, into memory that the kernel may back with huge pages: products of few
 * tokens, which run at the speed of memory, are 1.15 to 1.3 times as fast as from a mapped file's 4 KiB pages. `data` is not
 * needed afterwards. */
apus_weight *apus_weight_create_copy(apus_pool *pool, apus_dtype dtype, const void *data, int64_t n, int64_t k);
void apus_weight_destroy(apus_weight *weight);

/* Bytes the weight owns (0 when it borrows). */
size_t apus_weight_owned_bytes(const apus_weight *weight);

/* Writes row `row` expanded to f32, exactly. Returns 0, or -1 when the row is out of range. */
int apus_weight_row(const apus_weight *weight, int64_t row, float *out);

/* out[m, n] (row stride out_stride) is set to, or with `accumulate` increased by, x W^T + bias (bias may be NULL). */
typedef struct {
    const apus_weight *weight;
    float *out;
    int64_t out_stride;
    const float *bias;
    int accumulate;
} apus_linear_output;

/* Products of one x[m, k] (row stride x_stride, in elements) with several weights in one fork-join (query, key, value).
 * The outputs must not overlap x nor each other. Returns 0, or -1 when out of memory or when the weights differ in k. */
int apus_linear(apus_pool *pool, apus_precision precision, const float *x, int64_t m, int64_t x_stride,
                const apus_linear_output *outputs, int count);

/* out[m, n] = silu(x gate^T) * (x up^T). Returns 0, or -1 when out of memory or when the weights differ in shape. */
int apus_linear_swiglu(apus_pool *pool, apus_precision precision, const float *x, int64_t m, int64_t x_stride,
                       const apus_weight *gate, const apus_weight *up, float *out, int64_t out_stride);

/* Expands `count` elements (a multiple of the block) of file format to f32. */
void apus_dequantize(apus_dtype dtype, const void *blocks, int64_t count, float *out);

/* c[m, n] = alpha op(a) op(b) + beta c, row-major, leading dimensions in elements; op(a) is [m, k], op(b) is [k, n], and
 * trans_x says that x is stored transposed. c is not read when beta is 0. Returns 0, or -1 when out of memory. */
int apus_gemm_f32(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* The same on bf16 inputs (bit patterns), summed in f32. */
int apus_gemm_bf16(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* The same on operands that are each APUS_BF16 or APUS_F32; the latter are rounded to bf16 (to nearest even) while they are packed,
 * without a pass of its own. Also -1 for another dtype. */
int apus_gemm_mixed(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                    apus_dtype a_dtype, const void *a, int64_t lda, apus_dtype b_dtype, const void *b, int64_t ldb, float beta,
                    float *c, int64_t ldc);

/* "loaded: version ...", or why oneDNN is not in use. It serves large products of apus_gemm_f32, whose order of summation then
 * depends on the shape; linear layers keep their own products. */
const char *apus_onednn_status(void);

/* Chooses "onednn" (the default where it is installed) or "own" for large general products. Returns 0, or -1 when oneDNN is not
 * there. */
int apus_select_products(const char *name);

#ifdef __cplusplus
}
#endif
#endif
