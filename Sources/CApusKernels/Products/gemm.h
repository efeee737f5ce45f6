/* What the ways to run a general product share. */
#ifndef APUS_GEMM_H
#define APUS_GEMM_H
#include "../Pool/pool_internal.h"
#include "kernels.h"

typedef struct {
    const char *data;
    int64_t stride; /* elements */
    int transposed;
    apus_gemm_source source;
} gemm_operand;

typedef struct {
    const apus_kernels *kernels;
    apus_pool *pool;
    int64_t m, n, k;
    float alpha, beta;
    gemm_operand a, b;
    float *c;
    int64_t ldc;
    int nested; /* called inside a run of the pool, whose shared scratch is then in use */
} gemm_job;

static inline int64_t gemm_element_bytes(apus_gemm_source source) { return source == GEMM_BF16 ? 2 : 4; }

/* Memory that all workers read until gemm_free: the pool's or, in a nested product, our own. NULL when out of memory. */
void *apus_gemm_memory(const gemm_job *job, int slot, int64_t bytes);
void apus_gemm_free(const gemm_job *job, void *memory);

/* The product by packed tiles; kernels->gemm is there, m, n and k are positive. Returns 0, or -1 when out of memory. */
int apus_gemm_blocked(const gemm_job *job);

#endif
