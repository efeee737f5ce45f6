/* Row-wise kernels of training on the CPU: forward passes that keep what their backward passes need, and those.
 *
 * As in apus_elementwise.h: `rows` rows of `width` elements, strides in elements, arithmetic in float32, `pool` may be NULL.
 * Every result is the same for any number of workers: sums over rows are formed in blocks of a fixed number of rows, which
 * are then added in order. Functions that return int give 0, or -1 when out of memory.
 *
 * Where a function takes an apus_float_type, it is APUS_FLOAT_F32 or APUS_FLOAT_BF16 (rounded to nearest even). */
#ifndef APUS_TRAINING_H
#define APUS_TRAINING_H

#include <stdint.h>

#include "apus_elementwise.h"
#include "apus_pool.h"

/* inverse[row] = 1 / sqrt(mean(x^2) + eps); y = x * inverse * weight. Where `addend` is given, x is first replaced by
 * sum = x + addend, which is written to `sum` (and may be x or addend). y has contiguous rows. */
void apus_rms_norm_forward(apus_pool *pool, int64_t rows, int64_t width, const float *x, const float *addend, float *sum,
                           const float *weight, float eps, apus_float_type type, void *y, float *inverse);

/* dx = base + the gradient of x of y = x * inverse * weight, given dy; dweight += that of the weight. `base` may be NULL, and
 * may be dx. */
int apus_rms_norm_backward(apus_pool *pool, int64_t rows, int64_t width, const float *x, const float *weight,
                           const float *inverse, const float *dy, const float *base, float *dx, float *dweight);

/* y = silu(gate) * up, contiguous; rows of gate and up lie `stride` elements apart. */
void apus_swiglu_forward(apus_pool *pool, int64_t rows, int64_t width, const float *gate, const float *up, int64_t stride,
                         apus_float_type type, void *y);

/* The gradients of gate and up of y = silu(gate) * up, given dy, in rows `d_stride` elements apart. dgate may be gate and dup
 * may be up where type is f32 and the strides are the same. */
void apus_swiglu_backward(apus_pool *pool, int64_t rows, int64_t width, const float *gate, const float *up, int64_t stride,
                          const float *dy, apus_float_type type, void *dgate, void *dup, int64_t d_stride);

/* dtable[ids[i]] += dy[i] for rows i in order. ids lie in the table or are negative: then nothing is added. */
void apus_embedding_backward(apus_pool *pool, int64_t rows, int64_t width, const int32_t *ids, const float *dy,
                             float *dtable);

/* For each row of logits: log_probability = log softmax(logits)[target], and, where d is given, d = scale[row] *
 * (softmax(logits) - onehot(target)): the gradient of -scale[row] * log_probability. d may be logits where type is f32. A row
 * whose target is negative counts for nothing: log_probability 0, d 0. Targets are below width. */
void apus_cross_entropy(apus_pool *pool, int64_t rows, int64_t width, const float *logits, const int32_t *targets,
                        const float *scale, apus_float_type type, void *d, float *log_probability);

/* out[column] += the sum of x over rows. */
int apus_column_sums(apus_pool *pool, int64_t rows, int64_t width, apus_float_type type, const void *x, int64_t x_stride,
                     float *out);

/* The sum of squares, in float64; NaN or infinite exactly if an element is (or the sum overflows float64). */
double apus_sum_of_squares(apus_pool *pool, int64_t count, const float *x);

typedef struct {
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  float gradient_scale; /* factor on the gradient before anything else (clipping, accumulation) */
  float correction1, correction2; /* 1 - beta^step */
} apus_adamw_parameters;

/* One step of AdamW (Loshchilov, Hutter 2019): weights -= rate * (m / c1 / (sqrt(v / c2) + epsilon) + decay * weights).
 * `narrow`, where given, receives the weights in bf16. */
void apus_adamw(apus_pool *pool, int64_t count, const apus_adamw_parameters *parameters, const float *gradient, float *weights,
                float *first_moment, float *second_moment, uint16_t *narrow);

#endif
