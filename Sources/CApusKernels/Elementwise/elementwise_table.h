/* The row kernels of each instruction set: one table each, chosen once by apus_elementwise(). Each function does one row
 * (or a run of elements) and has no idea of pools and strides. */
#ifndef APUS_ELEMENTWISE_TABLE_H
#define APUS_ELEMENTWISE_TABLE_H

#include <stdint.h>

#include "../Dispatch/isa.h"

typedef struct {
  const char *name;
  void (*rms_norm)(int64_t width, const float *x, const float *weight, float weight_offset, float eps, float *y);
  void (*layer_norm)(int64_t width, const float *x, const float *weight, const float *bias, float eps, float *y);
  void (*add)(int64_t width, const float *a, const float *b, float *y);
  void (*scale_softcap)(int64_t width, float scale, float cap, const float *x, float *y);
  void (*silu_mul)(int64_t width, const float *gate, const float *up, float *y);
  void (*gelu)(int64_t width, int kind, const float *x, const float *up, float *y);
  void (*rope)(int64_t half, int style, const float *cosines, const float *sines, float *x);
  void (*softmax)(int64_t width, float scale, const float *x, float *y);
  void (*log_softmax)(int64_t width, const float *x, float *y);
  float (*log_sum_exp)(int64_t width, const float *x);
  int64_t (*argmax)(int64_t width, const float *x);
  void (*widen_bf16)(int64_t count, const uint16_t *x, float *y);
  void (*narrow_bf16)(int64_t count, const float *x, uint16_t *y);
  void (*widen_f16)(int64_t count, const uint16_t *x, float *y);
  void (*narrow_f16)(int64_t count, const float *x, uint16_t *y);
  void (*widen_f8e4m3)(int64_t count, const uint8_t *x, float *y);
  void (*narrow_f8e4m3)(int64_t count, const float *x, uint8_t *y);
  /* 32 values to 34 bytes: a scale (the largest magnitude / 127, rounded to f16), then the int8 nearest to x / scale. */
  void (*narrow_q8_0)(const float *x, void *block);
  int64_t (*non_finite_32)(int64_t count, const uint32_t *x);
  int64_t (*non_finite_16)(int64_t count, const uint16_t *x, uint16_t exponent);
} apus_elementwise_table;

extern const apus_elementwise_table apus_elementwise_portable;
#if defined(__x86_64__)
extern const apus_elementwise_table apus_elementwise_avx2;
extern const apus_elementwise_table apus_elementwise_avx512;
#endif

/* The table for a call of this thread. */
const apus_elementwise_table *apus_elementwise(void);

#endif
