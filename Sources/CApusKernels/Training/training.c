#include <stdlib.h>
#include <string.h>

#include "../Elementwise/elementwise_table.h"
#include "training_table.h"

static const apus_training_table *active(void) {
#if defined(__x86_64__)
  const int level = apus_isa_level();
  if (level >= ISA_AVX512) return &apus_training_rows_avx512;
  if (level == ISA_AVX2) return &apus_training_rows_avx2;
#endif
  return &apus_training_rows_portable;
}

/* Elements below which waking a worker costs more than it saves, and the least a worker takes at once. */
enum { PARALLEL_ELEMENTS = 32768, GRAIN_ELEMENTS = 8192 };

static void run(apus_pool *pool, int64_t count, int64_t elements_each, apus_range_fn body, void *job) {
  if (count <= 0) return;
  if (!pool || count == 1 || count * elements_each < PARALLEL_ELEMENTS) {
    body(job, 0, count, 0);
    return;
  }
  const int64_t grain = GRAIN_ELEMENTS / (elements_each > 0 ? elements_each : 1);
  apus_pool_run(pool, count, grain > 0 ? grain : 1, body, job);
}

typedef struct {
  const apus_training_table *table;
  int64_t rows, width, stride, d_stride;
  const float *x, *addend, *weight, *dy, *base, *scale, *inverse;
  float *sum, *result, *inverses, *partials;
  const void *source;
  void *y, *z;
  const int32_t *ids;
  const apus_adamw_parameters *adamw;
  float *first, *second;
  uint16_t *narrow;
  double *squares;
  float eps;
  int bf16;
} job;

#define ROW(pointer) ((pointer) + row * j->width)
#define TYPED_ROW(pointer) ((char *)(pointer) + row * j->width * (j->bf16 ? 2 : 4))

/* ---- RMSNorm ---- */

static void rms_norm_rows(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t row = begin; row < end; row++)
    j->inverses[row] = j->table->rms_norm(j->width, ROW(j->x), j->addend ? ROW(j->addend) : NULL, j->addend ? ROW(j->sum) : NULL,
                                          j->weight, j->eps, j->bf16, TYPED_ROW(j->y));
}

void apus_rms_norm_forward(apus_pool *pool, int64_t rows, int64_t width, const float *x, const float *addend, float *sum,
                           const float *weight, float eps, apus_float_type type, void *y, float *inverse) {
  job j = {.table = active(), .width = width, .x = x, .addend = addend, .sum = sum, .weight = weight, .eps = eps,
           .bf16 = type == APUS_FLOAT_BF16, .y = y, .inverses = inverse};
  run(pool, rows, width, rms_norm_rows, &j);
}

/* ---- sums over rows ---- */

/* Rows of a block: fixed, so that the order of a sum depends on the number of rows alone. */
enum { BLOCK_ROWS = 64 };

static int64_t blocks_of(int64_t rows) { return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

/* Runs `body` over the blocks with one zeroed row of partial sums each, and adds those to `out` in order. */
static int sum_blocks(apus_pool *pool, job *j, int64_t rows, apus_range_fn body, float *out) {
  if (rows <= 0) return 0;
  const int64_t blocks = blocks_of(rows);
  j->rows = rows;
  j->partials = calloc((size_t)(blocks * j->width), sizeof(float));
  if (!j->partials) return -1;
  run(pool, blocks, BLOCK_ROWS * j->width, body, j);
  for (int64_t block = 0; block < blocks; block++) j->table->accumulate(j->width, j->partials + block * j->width, out);
  free(j->partials);
  return 0;
}

#define BLOCKS(name, call)                                                                                   \
  static void name(void *context, int64_t begin, int64_t end, int worker) {                                  \
    const job *j = context;                                                                                  \
    (void)worker;                                                                                            \
    for (int64_t block = begin; block < end; block++) {                                                      \
      float *partial = j->partials + block * j->width;                                                       \
      const int64_t last = (block + 1) * BLOCK_ROWS < j->rows ? (block + 1) * BLOCK_ROWS : j->rows;          \
      for (int64_t row = block * BLOCK_ROWS; row < last; row++) { call; }                                    \
    }                                                                                                        \
  }

BLOCKS(rms_norm_backward_blocks,
       j->table->rms_norm_backward(j->width, ROW(j->x), j->weight, j->inverse[row], ROW(j->dy), j->base ? ROW(j->base) : NULL,
                                   ROW(j->result), partial))
int apus_rms_norm_backward(apus_pool *pool, int64_t rows, int64_t width, const float *x, const float *weight,
                           const float *inverse, const float *dy, const float *base, float *dx, float *dweight) {
  job j = {.table = active(), .width = width, .x = x, .weight = weight, .inverse = inverse, .dy = dy, .base = base, .result = dx};
  return sum_blocks(pool, &j, rows, rms_norm_backward_blocks, dweight);
}

BLOCKS(column_blocks, j->table->accumulate(j->width, (const float *)j->source + row * j->stride, partial))
BLOCKS(column_blocks_bf16, j->table->accumulate_bf16(j->width, (const uint16_t *)j->source + row * j->stride, partial))
int apus_column_sums(apus_pool *pool, int64_t rows, int64_t width, apus_float_type type, const void *x, int64_t x_stride,
                     float *out) {
  job j = {.table = active(), .width = width, .source = x, .stride = x_stride};
  return sum_blocks(pool, &j, rows, type == APUS_FLOAT_BF16 ? column_blocks_bf16 : column_blocks, out);
}

/* ---- SwiGLU ---- */

static void swiglu_rows(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t row = begin; row < end; row++)
    j->table->swiglu(j->width, j->x + row * j->stride, j->addend + row * j->stride, j->bf16, TYPED_ROW(j->y));
}

void apus_swiglu_forward(apus_pool *pool, int64_t rows, int64_t width, const float *gate, const float *up, int64_t stride,
                         apus_float_type type, void *y) {
  job j = {.table = active(), .width = width, .stride = stride, .x = gate, .addend = up, .bf16 = type == APUS_FLOAT_BF16,
           .y = y};
  run(pool, rows, width, swiglu_rows, &j);
}

static void swiglu_backward_rows(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t row = begin; row < end; row++) {
    const int64_t in = row * j->stride, out = row * j->d_stride * (j->bf16 ? 2 : 4);
    j->table->swiglu_backward(j->width, j->x + in, j->addend + in, ROW(j->dy), j->bf16, (char *)j->y + out, (char *)j->z + out);
  }
}

void apus_swiglu_backward(apus_pool *pool, int64_t rows, int64_t width, const float *gate, const float *up, int64_t stride,
                          const float *dy, apus_float_type type, void *dgate, void *dup, int64_t d_stride) {
  job j = {.table = active(), .width = width, .stride = stride, .d_stride = d_stride, .x = gate, .addend = up, .dy = dy,
           .bf16 = type == APUS_FLOAT_BF16, .y = dgate, .z = dup};
  run(pool, rows, width, swiglu_backward_rows, &j);
}

/* ---- embedding ---- */

/* A worker takes a stretch of columns through all rows, so that rows of one id are added in order without locks. */
enum { STRETCH = 64 };

static void embedding_stretches(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t stretch = begin; stretch < end; stretch++) {
    const int64_t first = stretch * STRETCH, count = j->width - first < STRETCH ? j->width - first : STRETCH;
    for (int64_t row = 0; row < j->rows; row++)
      if (j->ids[row] >= 0)
        j->table->accumulate(count, ROW(j->dy) + first, j->result + j->ids[row] * j->width + first);
  }
}

void apus_embedding_backward(apus_pool *pool, int64_t rows, int64_t width, const int32_t *ids, const float *dy,
                             float *dtable) {
  job j = {.table = active(), .rows = rows, .width = width, .ids = ids, .dy = dy, .result = dtable};
  run(pool, (width + STRETCH - 1) / STRETCH, rows * STRETCH, embedding_stretches, &j);
}

/* ---- cross-entropy ---- */

static void cross_entropy_rows(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t row = begin; row < end; row++) {
    void *d = j->y ? TYPED_ROW(j->y) : NULL;
    if (j->ids[row] < 0) {
      j->result[row] = 0;
      if (d) memset(d, 0, (size_t)(j->width * (j->bf16 ? 2 : 4)));
    } else {
      j->result[row] = j->table->cross_entropy(j->width, ROW(j->x), j->ids[row], d ? j->scale[row] : 0, j->bf16, d);
    }
  }
}

void apus_cross_entropy(apus_pool *pool, int64_t rows, int64_t width, const float *logits, const int32_t *targets,
                        const float *scale, apus_float_type type, void *d, float *log_probability) {
  job j = {.table = active(), .width = width, .x = logits, .ids = targets, .scale = scale, .bf16 = type == APUS_FLOAT_BF16,
           .y = d, .result = log_probability};
  run(pool, rows, width, cross_entropy_rows, &j);
}

/* ---- parameters ---- */

enum { PART = 1 << 14 };

static void square_parts(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t part = begin; part < end; part++) {
    const int64_t first = part * PART;
    j->squares[part] = j->table->sum_of_squares(j->rows - first < PART ? j->rows - first : PART, j->x + first);
  }
}

/* Parts of one call: their sums stand on the stack. */
enum { CALL_PARTS = 512 };

double apus_sum_of_squares(apus_pool *pool, int64_t count, const float *x) {
  double total = 0, squares[CALL_PARTS];
  for (int64_t start = 0; start < count; start += (int64_t)CALL_PARTS * PART) {
    const int64_t left = count - start;
    job j = {.table = active(), .x = x + start, .squares = squares,
             .rows = left < (int64_t)CALL_PARTS * PART ? left : (int64_t)CALL_PARTS * PART};
    const int64_t parts = (j.rows + PART - 1) / PART;
    run(pool, parts, PART, square_parts, &j);
    for (int64_t part = 0; part < parts; part++) total += squares[part];
  }
  return total;
}

static void adamw_parts(void *context, int64_t begin, int64_t end, int worker) {
  const job *j = context;
  (void)worker;
  for (int64_t part = begin; part < end; part++) {
    const int64_t first = part * PART, count = j->rows - first < PART ? j->rows - first : PART;
    j->table->adamw(count, j->adamw, j->x + first, j->sum + first, j->first + first, j->second + first,
                    j->narrow ? j->narrow + first : NULL);
  }
}

void apus_adamw(apus_pool *pool, int64_t count, const apus_adamw_parameters *parameters, const float *gradient, float *weights,
                float *first_moment, float *second_moment, uint16_t *narrow) {
  job j = {.table = active(), .rows = count, .adamw = parameters, .x = gradient, .sum = weights, .first = first_moment,
           .second = second_moment, .narrow = narrow};
  run(pool, (count + PART - 1) / PART, PART, adamw_parts, &j);
}
