/* The driver of training attention: cuts sequences into items, shares them among workers, sums what several items add to. */
#include "apus_training_attention.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "../Elementwise/elementwise_table.h"
#include "../Pool/pool_internal.h"
#include "training_attention_internal.h"

enum {
  /* Operations below which waking a worker costs more than it saves. */
  PARALLEL_OPERATIONS = 400000,
  /* Backward: a sequence's KV head is cut where it is more than a sixteenth of the work, into four pieces at most, none
   * shorter than two groups. */
  WANTED_ITEMS = 16,
  MOST_PIECES = 4,
  LEAST_PIECE_TOKENS = 128,
  SUMMED_TOKENS = 64
};

static const apus_training_kernels *kernels_for(apus_training_arithmetic arithmetic) {
#if defined(__x86_64__)
  int level = apus_isa_level();
  if (level == ISA_AVX512_BF16 && arithmetic == APUS_TRAINING_BF16) return &apus_training_avx512bf16;
  if (level >= ISA_AVX512) return &apus_training_avx512;
  if (level == ISA_AVX2) return &apus_training_avx2;
#endif
  (void)arithmetic;
  return &apus_training_portable;
}

const char *apus_training_attention_isa(apus_training_arithmetic arithmetic) { return kernels_for(arithmetic)->name; }

static int sizes_fit(const apus_training_attention *s) {
  if (s->heads <= 0 || s->kv_heads <= 0 || s->heads % s->kv_heads || s->key_own < 0 || s->key_once < 0 ||
      s->key_own + s->key_once <= 0 || s->value <= 0 || s->sequences < 0 || s->window < 0)
    return 0;
  for (int64_t i = 0; i < s->sequences; i++)
    if (s->starts[i] < 0 || s->starts[i + 1] < s->starts[i]) return 0;
  return 1;
}

static apus_training_job job_of(const apus_training_attention *shape, const apus_training_operands *operands) {
  apus_training_job job = {.shape = *shape,
                           .operands = *operands,
                           .group_size = shape->heads / shape->kv_heads,
                           .key_width = whole(shape->key_own + shape->key_once, WIDTH_MULTIPLE),
                           .value_width = whole(shape->value, WIDTH_MULTIPLE),
                           .window = 1};
  for (int64_t i = 0; i < shape->sequences; i++)
    job.window = at_least(job.window, shape->starts[i + 1] - shape->starts[i]);
  if (shape->window) job.window = at_most(job.window, shape->window);
  return job;
}

static int64_t take(int64_t *at, int64_t floats) {
  int64_t start = *at;
  *at += whole(floats, 16);
  return start;
}

/* Float32 operands serve both products from one copy; pairs along the row and along the column are two. */
static apus_training_scratch lay_out(const apus_training_job *job, int backward, int pairs) {
  apus_training_scratch w = {0};
  int64_t key = job->key_width, value = job->value_width, per = pairs ? 2 : 1, at = 0;
  w.query_lanes = take(&at, GROUP_ROWS * key / per);
  w.sums = take(&at, GROUP_ROWS * (backward ? key : value));
  if (backward) {
    w.query_rows = take(&at, GROUP_ROWS * key / per);
    w.d_output_lanes = take(&at, GROUP_ROWS * value / per);
    w.d_output_rows = take(&at, GROUP_ROWS * value / per);
    w.bound = take(&at, GROUP_ROWS);
    w.delta = take(&at, GROUP_ROWS);
  } else {
    w.most = take(&at, GROUP_ROWS);
    w.total = take(&at, GROUP_ROWS);
  }
  w.group = at;
  at *= TILE_GROUPS;
  w.staging = take(&at, GROUP_ROWS * at_least(key, value));
  w.key_rows = take(&at, BLOCK_KEYS * key / per);
  w.value_rows = w.value_pairs = take(&at, BLOCK_KEYS * value / per);
  w.weights = take(&at, BLOCK_KEYS * GROUP_ROWS / per);
  if (backward) {
    w.key_pairs = pairs ? take(&at, BLOCK_KEYS * key / per) : w.key_rows;
    w.d_key = take(&at, BLOCK_KEYS * key);
    w.d_value = take(&at, BLOCK_KEYS * value);
    w.scores = take(&at, MICRO_ROWS * GROUP_ROWS);
    w.slopes = take(&at, MICRO_ROWS * GROUP_ROWS);
    w.d_scores = take(&at, BLOCK_KEYS * GROUP_ROWS / per);
    w.d_score_pairs = pairs ? take(&at, BLOCK_KEYS * GROUP_ROWS / per) : w.d_scores;
  } else {
    w.scores = take(&at, BLOCK_KEYS * GROUP_ROWS);
    w.rescale = take(&at, GROUP_ROWS);
  }
  w.total_floats = at;
  return w;
}

/* Scores that queries [begin, end) of a sequence compute. */
static int64_t score_count(const apus_training_job *job, int64_t begin, int64_t end) {
  int64_t full = at_most(at_least(begin, job->window), end); /* queries from here on see a whole window */
  return (begin + 1 + full) * (full - begin) / 2 + (end - full) * job->window;
}

static int64_t length_of(const apus_training_job *job, int64_t sequence) {
  return job->shape.starts[sequence + 1] - job->shape.starts[sequence];
}

static int64_t total_scores(const apus_training_job *job) {
  int64_t sum = 0;
  for (int64_t s = 0; s < job->shape.sequences; s++) sum += score_count(job, 0, length_of(job, s));
  return sum * job->shape.heads;
}

/* Memory of a call: the pool's, or inside a run, where the pool's is in use, our own. */
static void *call_memory(apus_pool *pool, size_t bytes, int nested) {
  return nested ? aligned_alloc(64, (bytes + 63) / 64 * 64) : apus_pool_shared_scratch(pool, 0, bytes);
}

typedef struct {
  apus_training_job job;
  apus_pool *pool;
  void (*run)(const apus_training_job *job, const apus_training_item *item, float *scratch);
  atomic_int failed;
} run_context;

static void run_items(void *context, int64_t begin, int64_t end, int worker) {
  run_context *c = context;
  float *scratch = apus_pool_scratch(c->pool, worker, sizeof(float) * (size_t)c->job.scratch.total_floats);
  if (!scratch) {
    atomic_store_explicit(&c->failed, 1, memory_order_relaxed);
    return;
  }
  for (int64_t i = begin; i < end; i++) c->run(&c->job, &c->job.items[i], scratch);
}

/* ---- forward ---- */

/* Tiles, the later ones of a sequence (which see more keys) first. Called with NULL to count. */
static int64_t plan_forward(const apus_training_job *job, apus_training_item *items) {
  int64_t count = 0;
  for (int64_t s = 0; s < job->shape.sequences; s++) {
    int64_t rows = length_of(job, s) * job->group_size;
    for (int64_t head = 0; head < job->shape.kv_heads; head++)
      for (int64_t tile = (rows - 1 + TILE_ROWS) / TILE_ROWS - 1; tile >= 0; tile--, count++)
        if (items)
          items[count] = (apus_training_item){.sequence = s,
                                              .kv_head = head,
                                              .row_begin = tile * TILE_ROWS,
                                              .row_end = at_most(rows, (tile + 1) * TILE_ROWS)};
  }
  return count;
}

int apus_training_attention_forward(apus_pool *pool, const apus_training_attention *shape,
                                    const apus_training_operands *operands, apus_training_output output,
                                    float *log_sum_exp) {
  if (!sizes_fit(shape)) return -2;
  const apus_training_kernels *kernels = kernels_for(shape->arithmetic);
  run_context context = {.job = job_of(shape, operands), .pool = pool, .run = kernels->forward};
  apus_training_job *job = &context.job;
  job->output = output;
  job->log_sum_exp = log_sum_exp;
  job->scratch = lay_out(job, 0, kernels->pairs);
  int64_t count = plan_forward(job, NULL);
  apus_pool_entry entry = apus_pool_enter(pool);
  int nested = apus_pool_is_nested(pool), result = 0;
  apus_training_item *items = call_memory(pool, sizeof *items * (size_t)at_least(count, 1), nested);
  if (items) {
    plan_forward(job, items);
    job->items = items;
    job->item_count = count;
    int64_t operations = total_scores(job) * 2 * (job->key_width + job->value_width);
    apus_pool_run(pool, count, operations < PARALLEL_OPERATIONS ? count : 1, run_items, &context);
  }
  if (!items || atomic_load_explicit(&context.failed, memory_order_relaxed)) result = -1;
  if (nested) free(items);
  apus_pool_leave(pool, entry);
  return result;
}

/* ---- backward ---- */

/* The items of sequence s are first_item[s] ..< first_item[s + 1], the same number for every KV head. */
typedef struct {
  int64_t items, floats;
} backward_size;

/* The rows of a sequence in a gradient; a part of no width has none. */
static apus_gradient_rows gradient_rows(const apus_training_output *gradient, int64_t start, int64_t head, int64_t width) {
  if (width == 0) return (apus_gradient_rows){0};
  return (apus_gradient_rows){gradient->base + start * gradient->token_stride + head * gradient->head_stride,
                              gradient->token_stride, 0, gradient->accumulate};
}

/* Cuts sequences into pieces of about the same work, by sizes alone, so that sums are formed in the same order whatever the
 * number of threads. Gradients that more than one item adds to are summed in rows of their own, from `partials` on. Called
 * with NULL to count. */
static backward_size plan_backward(const apus_training_job *job, int64_t total, apus_training_item *items, int64_t *first_item,
                                   float *partials) {
  const apus_training_attention *s = &job->shape;
  const apus_training_gradients *g = &job->gradients;
  backward_size size = {0, 0};
  for (int64_t sequence = 0; sequence < s->sequences; sequence++) {
    int64_t length = length_of(job, sequence), start = s->starts[sequence];
    int64_t scores = score_count(job, 0, length), wanted = 1;
    if (first_item) first_item[sequence] = size.items;
    if (length == 0) continue;
    if (total > 0) wanted = (WANTED_ITEMS * scores * job->group_size + total - 1) / total;
    int64_t pieces = at_least(1, at_most(at_most(wanted, MOST_PIECES), length / LEAST_PIECE_TOKENS));
    int split = pieces > 1, sums_once = s->key_once && (split || s->kv_heads > 1);
    for (int64_t head = 0; head < s->kv_heads; head++) {
      int64_t begin = 0;
      for (int64_t piece = 0; piece < pieces; piece++, size.items++) {
        int64_t end = begin;
        if (piece + 1 == pieces) end = length;
        while (end < length && score_count(job, 0, end) * pieces < scores * (piece + 1)) end += BLOCK_KEYS;
        end = at_most(end, length);
        int64_t seen = at_least(0, begin + 1 - job->window), tokens = end - seen;
        int64_t floats = tokens * ((split ? s->key_own + s->value : 0) + (sums_once ? s->key_once : 0));
        if (items)
          items[size.items] = (apus_training_item){
              .sequence = sequence,
              .kv_head = head,
              .row_begin = begin * job->group_size,
              .row_end = end * job->group_size,
              .key_begin = seen,
              .key_end = end,
              .own = gradient_rows(&g->key_own, start, head, s->key_own),
              .once = gradient_rows(&g->key_once, start, 0, s->key_once),
              .value = gradient_rows(&g->value, start, head, s->value)};
        if (items && floats) {
          float *at = partials + size.floats;
          if (split) {
            items[size.items].own = (apus_gradient_rows){at, s->key_own, seen, 0};
            items[size.items].value = (apus_gradient_rows){at + tokens * s->key_own, s->value, seen, 0};
            at += tokens * (s->key_own + s->value);
          }
          if (sums_once) items[size.items].once = (apus_gradient_rows){at, s->key_once, seen, 0};
        }
        size.floats += floats;
        begin = end;
      }
    }
  }
  if (first_item) first_item[s->sequences] = size.items;
  return size;
}

typedef struct {
  const apus_training_job *job;
  const int64_t *first_item;
} sum_context;

/* out = (out, where it accumulates) + the items' rows of a token, in their order. */
static void sum_rows(const apus_training_item *items, int64_t count, size_t rows_offset, int64_t token, int64_t width,
                     int accumulate, float *out) {
  for (int64_t i = 0; i < count; i++) {
    if (token < items[i].key_begin || token >= items[i].key_end) continue;
    const apus_gradient_rows *rows = (const apus_gradient_rows *)((const char *)&items[i] + rows_offset);
    const float *from = rows->base + (token - rows->first) * rows->stride;
    if (accumulate)
      for (int64_t c = 0; c < width; c++) out[c] += from[c];
    else
      for (int64_t c = 0; c < width; c++) out[c] = from[c];
    accumulate = 1;
  }
}

static void sum_partials(void *context, int64_t begin, int64_t end, int worker) {
  const sum_context *c = context;
  const apus_training_job *job = c->job;
  const apus_training_attention *s = &job->shape;
  const apus_training_gradients *g = &job->gradients;
  int64_t sequence = 0;
  (void)worker;
  for (int64_t row = begin + s->starts[0]; row < end + s->starts[0]; row++) {
    while (s->starts[sequence + 1] <= row) sequence++;
    const apus_training_item *items = job->items + c->first_item[sequence];
    int64_t count = c->first_item[sequence + 1] - c->first_item[sequence], pieces = count / s->kv_heads;
    int64_t token = row - s->starts[sequence];
    if (s->key_once && count > 1)
      sum_rows(items, count, offsetof(apus_training_item, once), token, s->key_once, g->key_once.accumulate,
               g->key_once.base + row * g->key_once.token_stride);
    if (pieces == 1) continue;
    for (int64_t head = 0; head < s->kv_heads; head++) {
      if (s->key_own)
        sum_rows(items + head * pieces, pieces, offsetof(apus_training_item, own), token, s->key_own, g->key_own.accumulate,
                 g->key_own.base + row * g->key_own.token_stride + head * g->key_own.head_stride);
      sum_rows(items + head * pieces, pieces, offsetof(apus_training_item, value), token, s->value, g->value.accumulate,
               g->value.base + row * g->value.token_stride + head * g->value.head_stride);
    }
  }
}

int apus_training_attention_backward(apus_pool *pool, const apus_training_attention *shape,
                                     const apus_training_operands *operands, apus_training_input output,
                                     const float *log_sum_exp, apus_training_input d_output,
                                     const apus_training_gradients *gradients) {
  if (!sizes_fit(shape)) return -2;
  const apus_training_kernels *kernels = kernels_for(shape->arithmetic);
  run_context context = {.job = job_of(shape, operands), .pool = pool, .run = kernels->backward};
  apus_training_job *job = &context.job;
  job->saved_output = output;
  job->saved_log_sum_exp = log_sum_exp;
  job->d_output = d_output;
  job->gradients = *gradients;
  job->scratch = lay_out(job, 1, kernels->pairs);
  int64_t total = total_scores(job);
  backward_size size = plan_backward(job, total, NULL, NULL, NULL);
  int64_t items_bytes = whole(size.items * (int64_t)sizeof(apus_training_item), 64);
  int64_t first_bytes = whole((shape->sequences + 1) * (int64_t)sizeof(int64_t), 64);
  apus_pool_entry entry = apus_pool_enter(pool);
  int nested = apus_pool_is_nested(pool), result = 0;
  char *memory = call_memory(pool, (size_t)(items_bytes + first_bytes + size.floats * (int64_t)sizeof(float)), nested);
  if (memory) {
    apus_training_item *items = (apus_training_item *)memory;
    int64_t *first_item = (int64_t *)(memory + items_bytes);
    plan_backward(job, total, items, first_item, (float *)(memory + items_bytes + first_bytes));
    job->items = items;
    job->item_count = size.items;
    int inline_run = total * 5 * (job->key_width + job->value_width) < PARALLEL_OPERATIONS;
    apus_pool_run(pool, size.items, inline_run ? size.items : 1, run_items, &context);
    if (size.floats > 0) {
      int64_t rows = shape->starts[shape->sequences] - shape->starts[0];
      sum_context sums = {job, first_item};
      apus_pool_run(pool, rows, inline_run ? rows : SUMMED_TOKENS, sum_partials, &sums);
    }
  }
  if (!memory || atomic_load_explicit(&context.failed, memory_order_relaxed)) result = -1;
  if (nested) free(memory);
  apus_pool_leave(pool, entry);
  return result;
}
