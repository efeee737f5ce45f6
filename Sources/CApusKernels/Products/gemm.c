/* General products, brought to dot products with k contiguous on both sides: a is packed, and a b that is not transposed is
 * transposed into scratch first. Without packed kernels a is taken as it lies, or transposed likewise. */
#include <stdatomic.h>
#include <stdlib.h>

#include "../Pool/pool_internal.h"
#include "kernels.h"
#include "onednn.h"

enum { GROUP_ROWS = 96, PACK_ROWS = 48, CHUNK_BYTES = 8 << 20, A_SLOT = 0, B_SLOT = 1, TRANSPOSE_BLOCK = 32 };

typedef struct {
    const apus_kernels *kernels;
    apus_pool *pool;
    int trans_a, trans_b;
    int64_t m, n, k, size; /* size: bytes of an element */
    float alpha, beta;
    const char *a, *b;
    int64_t lda, ldb, ldc;
    float *c;
    int64_t columns; /* panels of 16 columns of c */
    char *packed_a;  /* of the rows [chunk_begin, chunk_begin + chunk_rows) */
    int64_t chunk_begin, chunk_rows;
    _Atomic int failed;
} gemm_job;

static void store(const gemm_job *job, int64_t first, int64_t last, int64_t j, int columns, const float *sums) {
    for (int64_t i = first; i < last; i++, sums += PANEL_ROWS) {
        float *c = job->c + i * job->ldc + j;
        if (job->beta == 0)
            for (int s = 0; s < columns; s++) c[s] = job->alpha * sums[s];
        else
            for (int s = 0; s < columns; s++) c[s] = job->alpha * sums[s] + job->beta * c[s];
    }
}

/* An item is 16 columns of c by a group of its rows. */
static void packed_items(void *context, int64_t begin, int64_t end, int worker) {
    gemm_job *job = context;
    float *partial = apus_pool_product_scratch(job->pool, worker,
                                               sizeof(float) * (GROUP_ROWS + PACKED_CUT) * APUS_PARTIAL_FLOATS);
    if (!partial) {
        atomic_store_explicit(&job->failed, 1, memory_order_relaxed);
        return;
    }
    const apus_packed_kernels *packed = job->kernels->packed;
    apus_packed_panel_kernel kernel = job->size == 4 ? packed->panel[APUS_F32] : packed->panel_bf16_pairs;
    float sums[GROUP_ROWS * PANEL_ROWS];
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item / job->columns * GROUP_ROWS, j = item % job->columns * PANEL_ROWS;
        int64_t last = first + GROUP_ROWS < job->chunk_rows ? first + GROUP_ROWS : job->chunk_rows;
        int columns = job->n - j < PANEL_ROWS ? (int)(job->n - j) : PANEL_ROWS;
        kernel(job->b + j * job->ldb * job->size, job->ldb, columns, job->packed_a + apus_packed_bytes(first, job->k, job->size),
               last - first, job->k, partial, sums);
        store(job, job->chunk_begin + first, job->chunk_begin + last, j, columns, sums);
    }
}

static void pack_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    gemm_job *job = context;
    const apus_packed_kernels *packed = job->kernels->packed;
    apus_pack_kernel pack = job->size == 4 ? (job->trans_a ? packed->pack_columns_f32 : packed->pack_f32)
                                           : (job->trans_a ? packed->pack_columns_bf16 : packed->pack_bf16);
    const char *a = job->a + job->chunk_begin * (job->trans_a ? 1 : job->lda) * job->size;
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item * PACK_ROWS, last = first + PACK_ROWS < job->chunk_rows ? first + PACK_ROWS : job->chunk_rows;
        pack(a, job->lda, first, last, job->k, job->packed_a);
    }
}

typedef struct {
    const gemm_job *gemm;
    char *target;
    int64_t stride;
} columns_job;

static void columns_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const columns_job *job = context;
    const gemm_job *gemm = job->gemm;
    const apus_packed_kernels *packed = gemm->kernels->packed;
    apus_transpose_kernel kernel = gemm->size == 4 ? packed->rows_of_columns_f32 : packed->rows_of_columns_bf16;
    for (int64_t item = begin; item < end; item++) {
        int64_t j = item * PANEL_ROWS;
        kernel(gemm->b + j * gemm->size, gemm->ldb, gemm->n - j < PANEL_ROWS ? (int)(gemm->n - j) : PANEL_ROWS, gemm->k,
               job->target + j * job->stride * gemm->size, job->stride);
    }
}

/* Without packed kernels: 12 rows by 16 columns of c at a time. */
static void row_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const gemm_job *job = context;
    apus_rows_kernel kernel = job->size == 4 ? job->kernels->rows[APUS_F32] : job->kernels->rows_bf16_pairs;
    for (int64_t item = begin; item < end; item++) {
        int64_t i = item / job->columns * TILE_TOKENS, j = item % job->columns * PANEL_ROWS;
        int columns = job->n - j < PANEL_ROWS ? (int)(job->n - j) : PANEL_ROWS;
        int rows = job->m - i < TILE_TOKENS ? (int)(job->m - i) : TILE_TOKENS;
        float sums[TILE_TOKENS * PANEL_ROWS];
        kernel(job->b + j * job->ldb * job->size, job->ldb, columns, job->a + i * job->lda * job->size, job->lda, rows, job->k,
               sums);
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

static void *scratch_memory(apus_pool *pool, int nested, int slot, int64_t bytes) {
    return nested ? aligned_alloc(64, ((size_t)bytes + 63) / 64 * 64) : apus_pool_shared_scratch(pool, slot, (size_t)bytes);
}

/* Turns source[rows, columns] into target[columns, rows] and has the job use it. */
static void transpose(const gemm_job *job, const char **matrix, int64_t *stride, char *target, int64_t rows, int64_t columns) {
    transpose_job work = {*matrix, target, rows, columns, *stride, job->size};
    apus_pool_run(job->pool, (columns + TRANSPOSE_BLOCK - 1) / TRANSPOSE_BLOCK, 1, transpose_items, &work);
    *matrix = target;
    *stride = rows;
}

/* The stride of b's columns as rows: whole units, and one more, so that a power of two does not crowd the cache sets. */
static int64_t columns_stride(const gemm_job *job) {
    return ((job->k * job->size + PACKED_UNIT - 1) / PACKED_UNIT + 1) * PACKED_UNIT / job->size;
}

/* a goes through scratch in chunks of rows that stay in the last cache. */
static int64_t rows_of_chunk(const gemm_job *job) {
    int64_t rows = CHUNK_BYTES / (job->k * job->size) / GROUP_ROWS * GROUP_ROWS;
    if (rows < GROUP_ROWS) rows = GROUP_ROWS;
    return rows < job->m ? rows : job->m;
}

static int run_packed(gemm_job *job, char *a, char *b) {
    if (b) {
        columns_job columns = {job, b, columns_stride(job)};
        apus_pool_run(job->pool, job->columns, 1, columns_items, &columns);
        job->b = b;
        job->ldb = columns.stride;
    }
    job->packed_a = a;
    const int64_t chunk = rows_of_chunk(job);
    for (job->chunk_begin = 0; job->chunk_begin < job->m; job->chunk_begin += chunk) {
        int64_t left = job->m - job->chunk_begin;
        job->chunk_rows = left < chunk ? left : chunk;
        apus_pool_run(job->pool, (job->chunk_rows + PACK_ROWS - 1) / PACK_ROWS, 1, pack_items, job);
        int64_t groups = (job->chunk_rows + GROUP_ROWS - 1) / GROUP_ROWS;
        apus_pool_run(job->pool, groups * job->columns, 1, packed_items, job);
    }
    return atomic_load_explicit(&job->failed, memory_order_relaxed) ? -1 : 0;
}

static int run_rows(gemm_job *job, char *a, char *b) {
    if (a) transpose(job, &job->a, &job->lda, a, job->k, job->m);
    if (b) transpose(job, &job->b, &job->ldb, b, job->k, job->n);
    apus_pool_run(job->pool, (job->m + TILE_TOKENS - 1) / TILE_TOKENS * job->columns, 4, row_items, job);
    return 0;
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
    job->columns = (job->n + PANEL_ROWS - 1) / PANEL_ROWS;
    apus_pool_entry entry = apus_pool_enter(job->pool);
    const int nested = apus_pool_is_nested(job->pool), packed = job->kernels->packed != NULL;
    int64_t bytes_a = packed ? apus_packed_bytes(rows_of_chunk(job), job->k, job->size) : job->m * job->k * job->size;
    int64_t bytes_b = job->n * (packed ? columns_stride(job) : job->k) * job->size;
    const int need_a = packed || job->trans_a, need_b = !job->trans_b;
    char *a = need_a ? scratch_memory(job->pool, nested, A_SLOT, bytes_a) : NULL;
    char *b = need_b ? scratch_memory(job->pool, nested, B_SLOT, bytes_b) : NULL;
    int result = -1;
    if ((a || !need_a) && (b || !need_b)) result = packed ? run_packed(job, a, b) : run_rows(job, a, b);
    if (nested) {
        free(a);
        free(b);
    }
    apus_pool_leave(job->pool, entry);
    return result;
}

int apus_gemm_f32(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (apus_onednn_serves(m, n, k))
        return apus_onednn_gemm(pool, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    gemm_job job = {.kernels = apus_active_kernels(), .pool = pool, .trans_a = trans_a, .trans_b = trans_b, .m = m, .n = n,
                    .k = k, .size = 4, .alpha = alpha, .beta = beta, .a = (const char *)a, .b = (const char *)b, .lda = lda,
                    .ldb = ldb, .ldc = ldc, .c = c};
    return run_gemm(&job);
}

int apus_gemm_bf16(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    gemm_job job = {.kernels = apus_active_kernels(), .pool = pool, .trans_a = trans_a, .trans_b = trans_b, .m = m, .n = n,
                    .k = k, .size = 2, .alpha = alpha, .beta = beta, .a = (const char *)a, .b = (const char *)b, .lda = lda,
                    .ldb = ldb, .ldc = ldc, .c = c};
    return run_gemm(&job);
}
