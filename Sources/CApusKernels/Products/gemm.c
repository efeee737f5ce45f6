/* General products: by packed tiles where the instruction set has kernels for them; otherwise brought to dot products with k
 * contiguous on both sides, operands that lie otherwise being transposed into scratch first. */
#include "gemm.h"

#include <stdlib.h>

#include "onednn.h"

enum { A_SLOT = 0, B_SLOT = 1, ROUNDED_A_SLOT = 2, ROUNDED_B_SLOT = 3, TRANSPOSE_BLOCK = 32 };

void *apus_gemm_memory(const gemm_job *job, int slot, int64_t bytes) {
    return job->nested ? aligned_alloc(64, ((size_t)bytes + 63) / 64 * 64)
                       : apus_pool_shared_scratch(job->pool, slot, (size_t)bytes);
}

void apus_gemm_free(const gemm_job *job, void *memory) {
    if (job->nested) free(memory);
}

static void store(const gemm_job *job, int64_t first, int64_t last, int64_t j, int columns, const float *sums) {
    for (int64_t i = first; i < last; i++, sums += PANEL_ROWS) {
        float *c = job->c + i * job->ldc + j;
        if (job->beta == 0)
            for (int s = 0; s < columns; s++) c[s] = job->alpha * sums[s];
        else
            for (int s = 0; s < columns; s++) c[s] = job->alpha * sums[s] + job->beta * c[s];
    }
}

static int64_t panels_of_columns(const gemm_job *job) { return (job->n + PANEL_ROWS - 1) / PANEL_ROWS; }

/* 12 rows by 16 columns of c at a time. */
static void row_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const gemm_job *job = context;
    const int64_t size = gemm_element_bytes(job->a.source), panels = panels_of_columns(job);
    apus_rows_kernel kernel = size == 4 ? job->kernels->rows[APUS_F32] : job->kernels->rows_bf16_pairs;
    for (int64_t item = begin; item < end; item++) {
        int64_t i = item / panels * TILE_TOKENS, j = item % panels * PANEL_ROWS;
        int columns = job->n - j < PANEL_ROWS ? (int)(job->n - j) : PANEL_ROWS;
        int rows = job->m - i < TILE_TOKENS ? (int)(job->m - i) : TILE_TOKENS;
        float sums[TILE_TOKENS * PANEL_ROWS];
        kernel(job->b.data + j * job->b.stride * size, job->b.stride, columns, job->a.data + i * job->a.stride * size,
               job->a.stride, rows, job->k, sums);
        store(job, i, i + rows, j, columns, sums);
    }
}

typedef struct {
    const char *source;
    char *target;
    int64_t rows, columns, stride, size;
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
                for (int64_t r = r0; r < r1; r++)
                    memcpy(job->target + (c * job->rows + r) * job->size, job->source + (r * job->stride + c) * job->size,
                           job->size == 4 ? 4 : 2);
        }
    }
}

typedef struct {
    const char *source;
    uint16_t *target;
    int64_t columns, stride;
} rounding_job;

static void rounding_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const rounding_job *job = context;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < job->columns; c++) {
            float value;
            memcpy(&value, job->source + (r * job->stride + c) * 4, 4);
            job->target[r * job->columns + c] = f32_to_bf16(value);
        }
}

/* Has the operand, stored [rows][columns], lie in scratch as bf16 if it is to be rounded, and transposed if `transposes`. */
static int arrange(const gemm_job *job, gemm_operand *operand, int64_t rows, int64_t columns, int transposes, int rounded_slot,
                   int slot, void **rounded, void **transposed) {
    if (operand->source == GEMM_F32_ROUNDED) {
        *rounded = apus_gemm_memory(job, rounded_slot, rows * columns * 2);
        if (!*rounded) return -1;
        rounding_job work = {operand->data, *rounded, columns, operand->stride};
        apus_pool_run(job->pool, rows, 16, rounding_items, &work);
        operand->data = *rounded;
        operand->stride = columns;
        operand->source = GEMM_BF16;
    }
    if (transposes) {
        const int64_t size = gemm_element_bytes(operand->source);
        *transposed = apus_gemm_memory(job, slot, rows * columns * size);
        if (!*transposed) return -1;
        transpose_job work = {operand->data, *transposed, rows, columns, operand->stride, size};
        apus_pool_run(job->pool, (columns + TRANSPOSE_BLOCK - 1) / TRANSPOSE_BLOCK, 1, transpose_items, &work);
        operand->data = *transposed;
        operand->stride = rows;
    }
    return 0;
}

static int run_rows(gemm_job *job) {
    void *memory[4] = {NULL};
    const int ta = job->a.transposed, tb = job->b.transposed;
    int result = arrange(job, &job->a, ta ? job->k : job->m, ta ? job->m : job->k, ta, ROUNDED_A_SLOT, A_SLOT, &memory[0],
                         &memory[1]);
    if (result == 0)
        result = arrange(job, &job->b, tb ? job->n : job->k, tb ? job->k : job->n, !tb, ROUNDED_B_SLOT, B_SLOT, &memory[2],
                         &memory[3]);
    if (result == 0)
        apus_pool_run(job->pool, (job->m + TILE_TOKENS - 1) / TILE_TOKENS * panels_of_columns(job), 4, row_items, job);
    for (int i = 0; i < 4; i++) apus_gemm_free(job, memory[i]);
    return result;
}

static void only_scale(const gemm_job *job) {
    const float zeros[PANEL_ROWS] = {0};
    for (int64_t i = 0; i < job->m; i++)
        for (int64_t j = 0; j < job->n; j += PANEL_ROWS)
            store(job, i, i + 1, j, job->n - j < PANEL_ROWS ? (int)(job->n - j) : PANEL_ROWS, zeros);
}

static int run_gemm(gemm_job *job) {
    if (job->m <= 0 || job->n <= 0) return 0;
    if (job->k <= 0) {
        only_scale(job);
        return 0;
    }
    apus_pool_entry entry = apus_pool_enter(job->pool);
    job->nested = apus_pool_is_nested(job->pool);
    int result = job->kernels->gemm ? apus_gemm_blocked(job) : run_rows(job);
    apus_pool_leave(job->pool, entry);
    return result;
}

int apus_gemm_f32(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (apus_onednn_serves(m, n, k))
        return apus_onednn_gemm(pool, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    gemm_job job = {.kernels = apus_active_kernels(), .pool = pool, .m = m, .n = n, .k = k, .alpha = alpha, .beta = beta,
                    .a = {(const char *)a, lda, trans_a, GEMM_F32}, .b = {(const char *)b, ldb, trans_b, GEMM_F32}, .c = c,
                    .ldc = ldc};
    return run_gemm(&job);
}

int apus_gemm_mixed(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                     apus_dtype a_dtype, const void *a, int64_t lda, apus_dtype b_dtype, const void *b, int64_t ldb, float beta,
                     float *c, int64_t ldc) {
    if ((a_dtype != APUS_F32 && a_dtype != APUS_BF16) || (b_dtype != APUS_F32 && b_dtype != APUS_BF16)) return -1;
    gemm_job job = {.kernels = apus_active_kernels(), .pool = pool, .m = m, .n = n, .k = k, .alpha = alpha, .beta = beta,
                    .a = {a, lda, trans_a, a_dtype == APUS_BF16 ? GEMM_BF16 : GEMM_F32_ROUNDED},
                    .b = {b, ldb, trans_b, b_dtype == APUS_BF16 ? GEMM_BF16 : GEMM_F32_ROUNDED}, .c = c, .ldc = ldc};
    return run_gemm(&job);
}

int apus_gemm_bf16(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    return apus_gemm_mixed(pool, trans_a, trans_b, m, n, k, alpha, APUS_BF16, a, lda, APUS_BF16, b, ldb, beta, c, ldc);
}
