/* General products in blocks. b is packed once, by all workers, in blocks of k. An item of work is a block of rows by a range of
 * columns: its worker packs the rows of a, one block of k at a time, into memory that stays in its second cache, and multiplies
 * them by panel after panel of b, each of which passes through that cache once an item.
 *
 * An element is summed in an order that depends on k only. */
#include <stdatomic.h>
#include <stdlib.h>

#include "gemm.h"

/* A panel of 64 columns by a block of k is 88 KiB, a block of rows 264 KiB. */
enum { BLOCK_UNITS = 352, BLOCK_STRIPS = 32, LEAST_BLOCK_STRIPS = 4, ITEMS_PER_THREAD = 4, VECTOR_UNITS = 16, B_SLOT = 0 };

typedef struct {
    const gemm_job *gemm;
    char *packed_b;      /* [block of k][panel][unit][column] */
    int64_t units, depth; /* units of k, elements in a unit */
    int64_t blocks, block_units;
    int64_t panels, padded_columns;
    int64_t strips, row_blocks, column_cuts;
    _Atomic int failed;
} blocked_job;

static int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Units of block `block` of k, and elements. */
static int64_t units_of_block(const blocked_job *job, int64_t block) {
    return smaller(job->block_units, job->units - block * job->block_units);
}

static int64_t depth_of_block(const blocked_job *job, int64_t block) {
    return smaller(job->block_units * job->depth, job->gemm->k - block * job->block_units * job->depth);
}

static char *panel_of_b(const blocked_job *job, int64_t block, int64_t panel) {
    int64_t units = block * job->block_units * job->padded_columns + panel * GEMM_COLUMNS * units_of_block(job, block);
    return job->packed_b + units * GEMM_UNIT_BYTES;
}

static int columns_of_panel(const blocked_job *job, int64_t panel) {
    return (int)smaller(GEMM_COLUMNS, job->gemm->n - panel * GEMM_COLUMNS);
}

/* An item is one panel of one block of k. */
static void pack_b_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const blocked_job *job = context;
    const gemm_operand *b = &job->gemm->b;
    const apus_gemm_kernels *kernels = job->gemm->kernels->gemm;
    const apus_gemm_pack_b pack = b->transposed ? kernels->b_columns[b->source] : kernels->b_rows[b->source];
    for (int64_t item = begin; item < end; item++) {
        int64_t block = item / job->panels, panel = item % job->panels;
        int64_t i = block * job->block_units * job->depth, j = panel * GEMM_COLUMNS;
        int64_t element = b->transposed ? j * b->stride + i : i * b->stride + j;
        pack(b->data + element * gemm_element_bytes(b->source), b->stride, columns_of_panel(job, panel),
             depth_of_block(job, block), panel_of_b(job, block, panel));
    }
}

/* Bytes between rows of packed a, or between its strips of 6 rows where it is stored transposed. The extra line keeps rows of a
 * power of two apart in the cache sets, and takes what the last store of a strip writes over. */
static int64_t pitch_of_a(const blocked_job *job, int64_t units) {
    int64_t vectors = job->gemm->a.transposed ? ceiling(units * GEMM_ROWS, VECTOR_UNITS) : ceiling(units, VECTOR_UNITS);
    return (vectors + 1) * VECTOR_UNITS * GEMM_UNIT_BYTES;
}

static int64_t bytes_of_a(const blocked_job *job) {
    int64_t strips = ceiling(job->strips, job->row_blocks);
    return strips * (job->gemm->a.transposed ? 1 : GEMM_ROWS) * pitch_of_a(job, job->block_units);
}

static void pack_a(const blocked_job *job, int64_t first, int64_t rows, int64_t block, char *out) {
    const gemm_operand *a = &job->gemm->a;
    const apus_gemm_kernels *kernels = job->gemm->kernels->gemm;
    const int64_t i = block * job->block_units * job->depth, pitch = pitch_of_a(job, units_of_block(job, block));
    const int64_t element = a->transposed ? i * a->stride + first : first * a->stride + i;
    (a->transposed ? kernels->a_columns : kernels->a_rows)[a->source](a->data + element * gemm_element_bytes(a->source), a->stride,
                                                                      rows, depth_of_block(job, block), out, pitch);
    const int64_t missing = ceiling(rows, GEMM_ROWS) * GEMM_ROWS - rows;
    if (!a->transposed) memset(out + rows * pitch, 0, (size_t)(missing * pitch));
}

static void multiply(const blocked_job *job, int64_t first, int64_t rows, int64_t block, int64_t panel, const char *a) {
    const gemm_job *gemm = job->gemm;
    const int transposed = gemm->a.transposed;
    const int64_t units = units_of_block(job, block), pitch = pitch_of_a(job, units);
    apus_gemm_tile tile = {.a_row = transposed ? GEMM_UNIT_BYTES : pitch, .units = units,
                           .a_unit = transposed ? GEMM_ROWS * GEMM_UNIT_BYTES : GEMM_UNIT_BYTES,
                           .b = panel_of_b(job, block, panel), .columns = columns_of_panel(job, panel), .alpha = gemm->alpha,
                           .beta = block == 0 ? gemm->beta : 1, .ldc = gemm->ldc};
    /* The panel that comes next is fetched a line a unit, so within four tiles: another core may have written it. */
    const char *next = tile.b + units * ceiling(tile.columns, VECTOR_UNITS) * VECTOR_UNITS * GEMM_UNIT_BYTES;
    for (int64_t r = 0; r < rows; r += GEMM_ROWS) {
        tile.a = a + (transposed ? r / GEMM_ROWS : r) * pitch;
        tile.rows = (int)smaller(GEMM_ROWS, rows - r);
        tile.fetch = next + r / GEMM_ROWS % 4 * units * 64;
        tile.c = gemm->c + (first + r) * gemm->ldc + panel * GEMM_COLUMNS;
        gemm->kernels->gemm->tile[gemm->a.source](&tile);
    }
}

static void product_items(void *context, int64_t begin, int64_t end, int worker) {
    blocked_job *job = context;
    char *a = apus_pool_product_scratch(job->gemm->pool, worker, (size_t)bytes_of_a(job));
    if (!a) {
        atomic_store_explicit(&job->failed, 1, memory_order_relaxed);
        return;
    }
    for (int64_t item = begin; item < end; item++) {
        int64_t row_block = item / job->column_cuts, cut = item % job->column_cuts;
        int64_t first = job->strips * row_block / job->row_blocks * GEMM_ROWS;
        int64_t rows = smaller(job->strips * (row_block + 1) / job->row_blocks * GEMM_ROWS, job->gemm->m) - first;
        int64_t first_panel = job->panels * cut / job->column_cuts, last_panel = job->panels * (cut + 1) / job->column_cuts;
        for (int64_t block = 0; block < job->blocks; block++) {
            pack_a(job, first, rows, block, a);
            for (int64_t panel = first_panel; panel < last_panel; panel++) multiply(job, first, rows, block, panel, a);
        }
    }
}

/* Enough items that workers end together: smaller blocks of rows first, then ranges of columns, for which a is packed again. */
static void cut(blocked_job *job) {
    const int64_t wanted = ITEMS_PER_THREAD * apus_pool_threads(job->gemm->pool);
    job->strips = ceiling(job->gemm->m, GEMM_ROWS);
    job->row_blocks = ceiling(job->strips, BLOCK_STRIPS);
    if (job->row_blocks < wanted) job->row_blocks = smaller(wanted, ceiling(job->strips, LEAST_BLOCK_STRIPS));
    job->column_cuts = smaller(job->panels, ceiling(wanted, job->row_blocks));
}

int apus_gemm_blocked(const gemm_job *gemm) {
    const int64_t depth = gemm->kernels->gemm->depth[gemm->a.source], units = ceiling(gemm->k, depth);
    blocked_job job = {.gemm = gemm, .units = units, .depth = depth, .blocks = ceiling(units, BLOCK_UNITS),
                       .panels = ceiling(gemm->n, GEMM_COLUMNS),
                       .padded_columns = ceiling(gemm->n, VECTOR_UNITS) * VECTOR_UNITS};
    job.block_units = ceiling(ceiling(units, job.blocks), VECTOR_UNITS) * VECTOR_UNITS;
    job.blocks = ceiling(units, job.block_units);
    cut(&job);
    job.packed_b = apus_gemm_memory(gemm, B_SLOT, job.padded_columns * units * GEMM_UNIT_BYTES);
    if (!job.packed_b) return -1;
    apus_pool_run(gemm->pool, job.blocks * job.panels, 1, pack_b_items, &job);
    apus_pool_run(gemm->pool, job.row_blocks * job.column_cuts, 1, product_items, &job);
    apus_gemm_free(gemm, job.packed_b);
    return atomic_load_explicit(&job.failed, memory_order_relaxed) ? -1 : 0;
}
