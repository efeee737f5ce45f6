/* The training form of attention on the CPU: causal attention over packed sequences with explicit keys and values, and its
 * gradient, in blocks of 64 queries x 64 keys (FlashAttention-2, arXiv 2307.08691), so that no matrix of scores is kept.
 *
 * A key consists of a part per KV head and, if wanted, a part that is kept once for all heads (the RoPE key of MLA, GLA and
 * GTA): query head h of KV head g = h / (heads / kv_heads) computes
 *
 *     score(i, j) = scale * (q_own(i, h) . k_own(j, g) + q_once(i, h) . k_once(j)),   j <= i, i - j < window,
 *
 * with q = [q_own | q_once]. Keys and values may differ in width. Rotation is not applied here.
 *
 * Reduction order depends on the shapes, the instruction set and the arithmetic alone: results are the same bit for bit for
 * any number of threads, and a sequence's outputs and query gradients do not depend on the other sequences.
 *
 * Memory, which the pool keeps for the next call: per thread at most 4 bytes x 384 x (key width + value width) + 40 KiB forward
 * and 4 bytes x 960 x (key width + value width) + 40 KiB backward, widths rounded up to 32; backward also the gradients that
 * several items add to: [kv_heads][tokens][key_once], and of sequences that are worth splitting (fewer than 16 sequences x KV
 * heads in a call) at most 4 x [kv_heads][tokens][key_own + key_once + value]. */
#ifndef APUS_TRAINING_ATTENTION_H
#define APUS_TRAINING_ATTENTION_H

#include <stdint.h>

#include "apus_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  /* Products and sums in float32. */
  APUS_TRAINING_F32 = 0,
  /* Queries, keys, values, probabilities and the gradients of outputs and scores are rounded to bf16 before products, whose
   * sums are float32, as is softmax. Without AVX512_BF16: as APUS_TRAINING_F32. */
  APUS_TRAINING_BF16 = 1
} apus_training_arithmetic;

typedef struct {
  int64_t heads, kv_heads;            /* kv_heads divides heads */
  int64_t key_own, key_once, value;   /* widths; either part of the key may be 0 */
  int64_t sequences;
  const int64_t *starts;              /* [sequences + 1]: sequence s has the rows starts[s] ..< starts[s + 1] */
  int64_t window;                     /* tokens a query sees, itself included; 0: all */
  float scale;
  apus_training_arithmetic arithmetic;
} apus_training_attention;

/* Rows [tokens][heads][width] of float32 that are read; strides in elements. */
typedef struct {
  const float *base;
  int64_t token_stride, head_stride;
} apus_training_input;

/* Rows that are written, or added to where `accumulate` is not 0. */
typedef struct {
  float *base;
  int64_t token_stride, head_stride;
  int32_t accumulate;
} apus_training_output;

typedef struct {
  apus_training_input query;    /* [tokens][heads][key_own + key_once] */
  apus_training_input key_own;  /* [tokens][kv_heads][key_own] */
  apus_training_input key_once; /* [tokens][key_once]; the head stride is not used */
  apus_training_input value;    /* [tokens][kv_heads][value] */
} apus_training_operands;

typedef struct {
  apus_training_output query, key_own, key_once, value; /* shapes as the operands' */
} apus_training_gradients;

/* output: [tokens][heads][value]; log_sum_exp: [tokens][heads], contiguous, natural logarithm. Returns 0, -1 when out of
 * memory, -2 when the sizes do not fit together (then nothing is written). */
int apus_training_attention_forward(apus_pool *pool, const apus_training_attention *shape,
                                    const apus_training_operands *operands, apus_training_output output,
                                    float *log_sum_exp);

/* Gradients from what forward returned and the gradient of its output. Nothing written may overlap what is read. Returns as
 * forward. */
int apus_training_attention_backward(apus_pool *pool, const apus_training_attention *shape,
                                     const apus_training_operands *operands, apus_training_input output,
                                     const float *log_sum_exp, apus_training_input d_output,
                                     const apus_training_gradients *gradients);

/* "avx512bf16", "avx512", "avx2" or "portable": the kernels that this thread's calls with `arithmetic` use. */
const char *apus_training_attention_isa(apus_training_arithmetic arithmetic);

#ifdef __cplusplus
}
#endif
#endif
