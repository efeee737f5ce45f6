/* General products, brought to dot products of rows: both operands with k contiguous, transposed into scratch if need be. */
#include <stdlib.h>

#include "../Pool/pool_internal.h"
#include "kernels.h"

enum { TILE_COLUMNS = PANEL_ROWS, TRANSPOSE_BLOCK = 32, A_SLOT = 0, B_SLOT = 1 };

typedef struct {
    apus_rows_kernel rows;
    int64_t m, n, k, element;
    float alpha, beta;
    const char *a, *b;
    int64_t lda, ldb, ldc;
    float *c;
    int64_t row_tiles;
} gemm_job;

static void gemm_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const gemm_job *job = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t j = item / job->row_tiles * TILE_COLUMNS;
        int64_t i = item % job->row_tiles * TILE_TOKENS;
        int columns = job->n - j < TILE_COLUMNS ? (int)(job->n - j) : TILE_COLUMNS;
        int rows = job->m - i < TILE_TOKENS ? (int)(job->m - i) : TILE_TOKENS;
        float sums[TILE_TOKENS * TILE_COLUMNS];
        job->rows(job->b + j * job->ldb * job->element, job->ldb, columns, job->a + i * job->lda * job->element, job->lda,
                  rows, job->k, sums, 0);
        for (int r = 0; r < rows; r++) {
            float *c = job->c + (i + r) * job->ldc + j;
            for (int s = 0; s < columns; s++) {
                float value = job->alpha * sums[r * PANEL_ROWS + s];
                c[s] = job->beta == 0 ? value : value + job->beta * c[s];
            }
        }
    }
}

typedef struct {
    const char *source;
    char *target;
    int64_t rows, columns, source_stride, element;
} transpose_job;

/* target[column][row] = source[row][column], for stretches of 32 columns. */
static void transpose_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const transpose_job *job = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item * TRANSPOSE_BLOCK, last = first + TRANSPOSE_BLOCK;
        if (last > job->columns) last = job->columns;
        for (int64_t r0 = 0; r0 < job->rows; r0 += TRANSPOSE_BLOCK) {
            int64_t r1 = r0 + TRANSPOSE_BLOCK < job->rows ? r0 + TRANSPOSE_BLOCK : job->rows;
            for (int64_t c = first; c < last; c++)
                for (int64_t r = r0; r < r1; r++) {
                    if (job->element == 4)
                        ((uint32_t *)job->target)[c * job->rows + r] =
                            ((const uint32_t *)job->source)[r * job->source_stride + c];
                    else
                        ((uint16_t *)job->target)[c * job->rows + r] =
                            ((const uint16_t *)job->source)[r * job->source_stride + c];
                }
        }
    }
}

/* A copy of source[rows, columns] as [columns, rows]; NULL when out of memory. */
static char *transposed(apus_pool *pool, int nested, int slot, const void *source, int64_t rows, int64_t columns,
                        int64_t stride, int64_t element) {
    size_t bytes = (size_t)(rows * columns * element);
    char *target = nested ? aligned_alloc(64, (bytes + 63) / 64 * 64) : apus_pool_shared_scratch(pool, slot, bytes);
    if (!target) return NULL;
    transpose_job job = {source, target, rows, columns, stride, element};
    apus_pool_run(pool, (columns + TRANSPOSE_BLOCK - 1) / TRANSPOSE_BLOCK, 1, transpose_items, &job);
    return target;
}

static int gemm(apus_pool *pool, apus_rows_kernel rows, int64_t element, int trans_a, int trans_b, int64_t m, int64_t n,
                int64_t k, float alpha, const void *a, int64_t lda, const void *b, int64_t ldb, float beta, float *c,
                int64_t ldc) {
    if (m <= 0 || n <= 0) return 0;
    apus_pool_entry entry = apus_pool_enter(pool);
    int nested = apus_pool_is_nested(pool), result = -1;
    char *copied_a = trans_a ? transposed(pool, nested, A_SLOT, a, k, m, lda, element) : NULL;
    char *copied_b = trans_b ? NULL : transposed(pool, nested, B_SLOT, b, k, n, ldb, element);
    if ((!trans_a || copied_a) && (trans_b || copied_b)) {
        gemm_job job = {rows, m, n, k, element, alpha, beta, copied_a ? copied_a : a, copied_b ? copied_b : b,
                        copied_a ? k : lda, copied_b ? k : ldb, ldc, c, (m + TILE_TOKENS - 1) / TILE_TOKENS};
        int64_t columns = (n + TILE_COLUMNS - 1) / TILE_COLUMNS;
        apus_pool_run(pool, job.row_tiles * columns, 4, gemm_items, &job);
        result = 0;
    }
    if (nested) {
        free(copied_a);
        free(copied_b);
    }
    apus_pool_leave(pool, entry);
    return result;
}

int apus_gemm_f32(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    return gemm(pool, apus_active_kernels()->rows_f32, 4, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

int apus_gemm_bf16(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    return gemm(pool, apus_active_kernels()->rows_bf16_bf16, 2, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
                ldc);
}
