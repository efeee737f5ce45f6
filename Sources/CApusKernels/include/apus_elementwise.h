/* Row-wise and element-wise kernels on the CPU.
 *
 * Every function takes `rows` rows of `width` elements; row r of x starts at x + r * x_stride (strides in elements, so a
 * slice of a fused product needs no copy). Outputs may be the inputs themselves. `pool` shares the rows among workers and
 * may be NULL: then the caller does all. A row's result depends on that row alone, never on the number of rows or workers.
 *
 * Arithmetic is float32; reductions run over 16 or more partial sums. Error bounds are stated as |error| relative to the
 * exact result of the same inputs, with u = 2^-24; exp, tanh, erf inside are within 2 u relative (erf: absolute).
 */
#ifndef APUS_ELEMENTWISE_H
#define APUS_ELEMENTWISE_H

#include <stdint.h>

#include "apus_pool.h"

/* y = x / sqrt(mean(x^2) + eps) * (weight + weight_offset); weight NULL: all ones and no offset. Error <= 12 u. */
void apus_rms_norm_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                       const float *weight, float weight_offset, float eps, float *y, int64_t y_stride);

/* residual += x, then y = RMSNorm(residual): the two steps between sublayers in one pass over memory. */
void apus_add_rms_norm_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                           float *residual, int64_t residual_stride, const float *weight, float weight_offset,
                           float eps, float *y, int64_t y_stride);

/* y = (x - mean) / sqrt(variance + eps) * weight + bias; weight and bias may be NULL. With weights of at most 4, absolute
 * error <= 24 u max(4, |y|, |x| / sqrt(variance + eps)): what a mean far larger than the deviation costs. */
void apus_layer_norm_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                         const float *weight, const float *bias, float eps, float *y, int64_t y_stride);

/* y = a + b, rounded once. */
void apus_add_f32(apus_pool *pool, int64_t rows, int64_t width, const float *a, int64_t a_stride, const float *b,
                  int64_t b_stride, float *y, int64_t y_stride);

/* y = cap * tanh(scale * x / cap), or scale * x where cap is 0. Error <= 6 u. */
void apus_scale_softcap_f32(apus_pool *pool, int64_t rows, int64_t width, float scale, float cap, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride);

/* y = silu(gate) * up, silu(v) = v / (1 + exp(-v)). Error <= 8 u. */
void apus_silu_mul_f32(apus_pool *pool, int64_t rows, int64_t width, const float *gate, int64_t gate_stride,
                       const float *up, int64_t up_stride, float *y, int64_t y_stride);

typedef enum { APUS_GELU_ERF = 0, APUS_GELU_TANH = 1 } apus_gelu_kind;

/* y = gelu(x), times `up` where that is not NULL. Absolute error <= 4 u max(1, |x|) (times |up|). */
void apus_gelu_f32(apus_pool *pool, int64_t rows, int64_t width, apus_gelu_kind kind, const float *x, int64_t x_stride,
                   const float *up, int64_t up_stride, float *y, int64_t y_stride);

/* Where the two members of a rotated pair lie: i and i + rotary/2 (GPT-NeoX, Hugging Face), or 2i and 2i + 1 (GPT-J,
 * Meta's own files). */
typedef enum { APUS_ROPE_HALF_SPLIT = 0, APUS_ROPE_INTERLEAVED = 1 } apus_rope_style;

/* Fills cos_rows and sin_rows [tokens][rotary_width / 2] with attention_factor * cos, sin(positions[t] *
 * inverse_frequencies[i]), computed in float64 and rounded once. */
void apus_rope_tables(int64_t tokens, const int64_t *positions, int64_t rotary_width, const double *inverse_frequencies,
                      double attention_factor, float *cos_rows, float *sin_rows);

/* Rotates the first rotary_width elements of each head of x [tokens][heads][...] in place; token t's head h starts at
 * x + t * token_stride + h * head_stride, its tables at row t of cos_rows and sin_rows. rotary_width is even. Error <= 3 u
 * of the pair's norm. */
void apus_rope_f32(apus_pool *pool, int64_t tokens, int64_t heads, int64_t rotary_width, apus_rope_style style,
                   const float *cos_rows, const float *sin_rows, float *x, int64_t token_stride, int64_t head_stride);

/* y = softmax(scale * x), scale > 0. Error <= (8 + scale (max x - min x) + sqrt(width) / 4) u. A row of which
 * every entry is -infinity gives zeros. */
void apus_softmax_f32(apus_pool *pool, int64_t rows, int64_t width, float scale, const float *x, int64_t x_stride,
                      float *y, int64_t y_stride);

/* y = x - log(sum(exp(x))). Absolute error <= 8 u max(1, |x|max). */
void apus_log_softmax_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride, float *y,
                          int64_t y_stride);

/* result[row] = log(sum(exp(x[row]))). Absolute error <= 8 u max(1, |x|max). */
void apus_log_sum_exp_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride, float *result);

/* result[row] = the first index of the largest element, or -1 where the row holds a NaN or is empty. */
void apus_argmax_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride, int64_t *result);

typedef enum { APUS_FLOAT_F32 = 0, APUS_FLOAT_BF16 = 1, APUS_FLOAT_F16 = 2, APUS_FLOAT_F8E4M3 = 3 } apus_float_type;

/* Converts rows between two float types, one of which is APUS_FLOAT_F32. Narrowing rounds to nearest even; NaN stays NaN. f16
 * overflows to infinity. f8e4m3 has no infinity: it saturates at 448. */
void apus_convert(apus_pool *pool, int64_t rows, int64_t width, apus_float_type from, const void *x, int64_t x_stride,
                  apus_float_type to, void *y, int64_t y_stride);

/* The index of the first NaN or infinity among `count` elements, or -1. */
int64_t apus_find_non_finite(apus_pool *pool, int64_t count, apus_float_type type, const void *x);

#endif
