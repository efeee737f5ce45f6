/* Which instruction set the kernels called by this thread run on. */
#ifndef APUS_ISA_INTERNAL_H
#define APUS_ISA_INTERNAL_H
#include "../include/apus_isa.h"

/* AVX2 comes with FMA and F16C; AVX-512 is F, BW, DQ and VL; ISA_AVX512_BF16 adds BF16 and VNNI. */
enum { ISA_PORTABLE, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16 };

/* One of these. A driver asks once per call, before it hands work to a pool, and its workers keep to what it found. */
int apus_isa_level(void);

/* Whether the CPU has ISA_AVX512_BF16, whose other instructions the products of AVX512 use too. */
int apus_has_avx512_products(void);

#endif
