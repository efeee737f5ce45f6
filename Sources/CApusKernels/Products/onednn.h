/* oneDNN's float32 product, loaded at run time. */
#ifndef APUS_ONEDNN_H
#define APUS_ONEDNN_H
#include <stdint.h>

#include "apus_pool.h"

/* Whether oneDNN is loaded, in use, and worth calling for c[m, n] = op(a)[m, k] op(b)[k, n]. */
int apus_onednn_serves(int64_t m, int64_t n, int64_t k);

/* The product, cut over the pool; arguments as of apus_gemm_f32. Returns 0, or -1 when a call failed: c is then undefined where
 * beta is 0, and otherwise unusable too. Precondition: apus_onednn_serves said yes. */
int apus_onednn_gemm(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
#endif
