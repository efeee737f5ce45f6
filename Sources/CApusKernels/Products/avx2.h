/* What the AVX2 kernels share. */
#ifndef APUS_AVX2_H
#define APUS_AVX2_H
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE static inline __attribute__((always_inline)) AVX2
#define UNROLL _Pragma("clang loop unroll(full)")

void apus_avx2_panel_q8_0(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx2_panel_q4_0(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx2_panel_q4_1(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx2_panel_q4_k(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx2_panel_q6_k(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx2_quantise(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token);

#endif
#endif
