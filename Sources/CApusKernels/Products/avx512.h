/* What the AVX-512 kernels share. */
#ifndef APUS_AVX512_H
#define APUS_AVX512_H
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#define AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")))
#define AVX512_INLINE static inline __attribute__((always_inline)) AVX512
#define UNROLL _Pragma("clang loop unroll(full)")

/* How far ahead of its use a stream of weights is fetched into the second cache. The hardware does so too, but not across the
 * end of a page: this is what hides its page walk. */
enum { STREAM_AHEAD = 2048 };

/* Calls `kernel` with the token count as a constant, so that its sums live in registers. */
#define FOR_TOKENS(tokens, kernel, ...)        \
    switch (tokens) {                          \
    case 1: kernel(__VA_ARGS__, 1); break;     \
    case 2: kernel(__VA_ARGS__, 2); break;     \
    case 3: kernel(__VA_ARGS__, 3); break;     \
    case 4: kernel(__VA_ARGS__, 4); break;     \
    case 5: kernel(__VA_ARGS__, 5); break;     \
    case 6: kernel(__VA_ARGS__, 6); break;     \
    case 7: kernel(__VA_ARGS__, 7); break;     \
    case 8: kernel(__VA_ARGS__, 8); break;     \
    case 9: kernel(__VA_ARGS__, 9); break;     \
    case 10: kernel(__VA_ARGS__, 10); break;   \
    case 11: kernel(__VA_ARGS__, 11); break;   \
    case 12: kernel(__VA_ARGS__, 12); break;   \
    }

void apus_avx512_panel_q8_0(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx512_panel_q4_0(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx512_panel_q4_1(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx512_panel_q4_k(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx512_panel_q6_k(const uint8_t *panel, int64_t k, const uint8_t *tile, int tokens, float *out);
void apus_avx512_quantise(const float *x, int64_t k, apus_correction kind, uint8_t *tile, int tokens, int token);
extern const apus_packed_kernels apus_avx512_packed, apus_avx512bf16_packed;
extern const apus_gemm_kernels apus_avx512_gemm, apus_avx512bf16_gemm;

#endif
#endif
