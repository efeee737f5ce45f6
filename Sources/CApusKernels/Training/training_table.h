/* The row kernels of training for each instruction set. Each function does one row, or a run of elements. */
#ifndef APUS_TRAINING_TABLE_H
#define APUS_TRAINING_TABLE_H

#include "apus_training.h"

typedef struct {
  /* sum NULL: x is taken as it is. bf16: y is uint16_t. Returns the inverse root. */
  float (*rms_norm)(int64_t width, const float *x, const float *addend, float *sum, const float *weight, float eps, int bf16,
                    void *y);
  void (*rms_norm_backward)(int64_t width, const float *x, const float *weight, float inverse, const float *dy,
                            const float *base, float *dx, float *dweight);
  void (*swiglu)(int64_t width, const float *gate, const float *up, int bf16, void *y);
  void (*swiglu_backward)(int64_t width, const float *gate, const float *up, const float *dy, int bf16, void *dgate,
                          void *dup);
  void (*accumulate)(int64_t width, const float *x, float *sum);
  void (*accumulate_bf16)(int64_t width, const uint16_t *x, float *sum);
  float (*cross_entropy)(int64_t width, const float *logits, int64_t target, float scale, int bf16, void *d);
  double (*sum_of_squares)(int64_t count, const float *x);
  void (*adamw)(int64_t count, const apus_adamw_parameters *parameters, const float *gradient, float *weights, float *m,
                float *v, uint16_t *narrow);
} apus_training_table;

extern const apus_training_table apus_training_rows_portable;
#if defined(__x86_64__)
extern const apus_training_table apus_training_rows_avx2;
extern const apus_training_table apus_training_rows_avx512;
#endif

#endif
