/* Training row kernels for AVX2 with FMA. */
#if defined(__x86_64__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#define LANES 8
#define ISA avx2
#include "training_rows.h"
#pragma clang attribute pop
#endif
