/* Training attention for AVX-512 with BF16: products of bf16 pairs, sums in float32. */
#if defined(__x86_64__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#define LANES 16
#define COMPUTE_BF16 1
#define ISA avx512bf16
#include "training_attention_kernel.h"
#pragma clang attribute pop
#endif
