/* Which instruction set the kernels called by this thread run on. */
#ifndef APUS_ISA_INTERNAL_H
#define APUS_ISA_INTERNAL_H
#include "../include/apus_isa.h"

/* 0 portable, 1 AVX2 (with FMA and F16C), 2 AVX-512 (F, BW, DQ, VL). A driver asks once per call, before it hands work to a pool, and
 * its workers keep to what it found. */
int apus_isa_level(void);

/* Whether the CPU also has AVX-512's VNNI and BF16. */
int apus_has_avx512_products(void);

#endif
