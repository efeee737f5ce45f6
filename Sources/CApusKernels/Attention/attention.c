/* The driver of attention: cuts a batch into items, shares them among workers, merges what was split. */
#include "apus_attention.h"

#include <math.h>

#include "../Elementwise/elementwise_table.h"
#include "attention_internal.h"

/* Operations below which waking a worker costs more than it saves. */
enum { PARALLEL_OPERATIONS = 400000 };

#if defined(__x86_64__)
static int rounds_to_bf16(apus_cache_type type) { return type == APUS_CACHE_BF16 || type == APUS_CACHE_Q8_0; }
#endif

static const apus_attention_kernels *kernels_for(const apus_cache_layout *l) {
#if defined(__x86_64__)
  int level = apus_isa_level();
  int narrow = (!l->shared || rounds_to_bf16(l->shared_type)) && (!l->key || rounds_to_bf16(l->key_type)) &&
               (!l->value || rounds_to_bf16(l->value_type));
  if (level == ISA_AVX512_BF16 && narrow) return &apus_attention_avx512bf16;
  if (level >= ISA_AVX512) return &apus_attention_avx512;
  if (level == ISA_AVX2) return &apus_attention_avx2;
#endif
  (void)l;
  return &apus_attention_portable;
}

/* Packing the value part may write a whole vector past its end, which must not reach the next row. */
static int64_t padded_width(const apus_cache_layout *l) {
  return round_up(l->shared + round_up(l->value, MOST_LANES), MOST_LANES);
}

static int64_t scratch_bytes(const apus_cache_layout *l) {
  int64_t key = packed_key_width(l), padded = padded_width(l);
  int64_t floats = (key + MOST_LANES) + TILE_ROWS * key + BLOCK_TOKENS * key + (BLOCK_TOKENS * padded + 2 * MOST_LANES) +
                   2 * MICRO_ROWS * BLOCK_TOKENS + 2 * state_floats(TILE_ROWS, padded);
  return round_up(4 * floats + 8 * 64, 128);
}

/* Items of one (sequence, group, tile) that was split over spans. */
typedef struct {
  int64_t first, count;
} split_tile;

typedef struct {
  int64_t items, splits, partials, partial_rows, operations;
} plan_size;

/* Cuts the batch: a tile of TILE_ROWS rows is one item, or one per span where it is more than a quarter of a worker's
 * share of the work. Called with NULL to count, then with room to fill. Results do not depend on the cut. */
static plan_size plan(const apus_cache_layout *l, const apus_cache_batch *batch, const apus_attention_parameters *p,
                      int threads, apus_attention_item *items, split_tile *splits) {
  plan_size size = {0, 0, 0, 0, 0};
  int64_t heads = l->query_heads / l->groups, widths = l->shared + l->key + l->shared + l->value;
  for (int pass = 0; pass < 2; pass++) {
    for (int64_t s = 0; s < batch->sequences; s++) {
      int64_t length = batch->lengths[s], queries = batch->query_offsets[s + 1] - batch->query_offsets[s];
      int64_t rows = queries * heads;
      for (int64_t tile = (rows - 1) / TILE_ROWS; tile >= 0; tile--) {
        int64_t begin_row = tile * TILE_ROWS, end_row = begin_row + TILE_ROWS < rows ? begin_row + TILE_ROWS : rows;
        int64_t first = length - queries + begin_row / heads, last = length - queries + (end_row - 1) / heads;
        int64_t begin = p->window > 0 && first + 1 > p->window ? first + 1 - p->window : 0;
        int64_t end = p->causal ? last + 1 : length;
        /* Packing a token costs about as much as four rows. */
        int64_t operations = 2 * (end - begin) * (end_row - begin_row + 4) * widths;
        if (pass == 0) {
          size.operations += operations * l->groups;
          continue;
        }
        int64_t span_begin = begin / SPAN_TOKENS, span_end = (end + SPAN_TOKENS - 1) / SPAN_TOKENS;
        int split = span_end - span_begin > 1 && 4 * threads * operations > size.operations && threads > 1;
        for (int64_t group = 0; group < l->groups; group++) {
          int64_t pieces = split ? span_end - span_begin : 1;
          if (split) {
            if (splits) splits[size.splits] = (split_tile){size.items, pieces};
            size.splits++;
            if (end_row - begin_row > size.partial_rows) size.partial_rows = end_row - begin_row;
          }
          for (int64_t piece = 0; piece < pieces; piece++, size.items++) {
            if (!items) continue;
            items[size.items] = (apus_attention_item){
                .sequence = (int32_t)s, .group = (int32_t)group, .row_begin = begin_row, .row_end = end_row,
                .span_begin = split ? span_begin + piece : span_begin,
                .span_end = split ? span_begin + piece + 1 : span_end,
                .partial = split ? size.partials + piece : -1};
          }
          if (split) size.partials += pieces;
        }
      }
    }
  }
  return size;
}

/* Where things lie in the workspace. */
typedef struct {
  int64_t items, splits, partials, scratch, end;
} workspace_offsets;

static workspace_offsets offsets(const apus_cache_layout *l, const plan_size *size, int threads) {
  workspace_offsets at = {0, 0, 0, 0, 0};
  at.splits = round_up(size->items * (int64_t)sizeof(apus_attention_item), 64);
  at.partials = at.splits + round_up(size->splits * (int64_t)sizeof(split_tile), 64);
  at.scratch = at.partials + round_up(4 * size->partials * state_floats(size->partial_rows, padded_width(l)), 64);
  at.end = at.scratch + threads * scratch_bytes(l);
  return at;
}

static int workers(apus_pool *pool) { return pool ? apus_pool_threads(pool) : 1; }

size_t apus_attend_workspace(apus_pool *pool, const apus_cache_layout *layout, const apus_cache_batch *batch,
                             const apus_attention_parameters *parameters) {
  plan_size size = plan(layout, batch, parameters, workers(pool), NULL, NULL);
  return (size_t)offsets(layout, &size, workers(pool)).end;
}

typedef struct {
  apus_attention_job job;
  const apus_attention_kernels *kernels;
  const split_tile *splits;
} attend_context;

static void run_items(void *context, int64_t begin, int64_t end, int worker) {
  const attend_context *c = context;
  for (int64_t i = begin; i < end; i++)
    c->kernels->item(&c->job, &c->job.items[i], c->job.scratch + worker * c->job.scratch_bytes);
}

static void run_combine(void *context, int64_t begin, int64_t end, int worker) {
  const attend_context *c = context;
  (void)worker;
  for (int64_t i = begin; i < end; i++) c->kernels->combine(&c->job, &c->job.items[c->splits[i].first], c->splits[i].count);
}

void apus_attend(apus_pool *pool, const apus_cache_layout *layout, const apus_cache_batch *batch,
                 const apus_attention_parameters *parameters, const void *pages, const float *query,
                 int64_t query_token_stride, int64_t query_head_stride, apus_attention_rows output, float *log_sum_exp,
                 void *workspace) {
  int threads = workers(pool);
  plan_size size = plan(layout, batch, parameters, threads, NULL, NULL);
  workspace_offsets at = offsets(layout, &size, threads);
  char *base = workspace;
  apus_attention_item *items = (apus_attention_item *)(base + at.items);
  split_tile *splits = (split_tile *)(base + at.splits);
  plan(layout, batch, parameters, threads, items, splits);
  attend_context context = {
      .job = {.layout = layout,
              .batch = batch,
              .parameters = parameters,
              .pages = pages,
              .query = query,
              .query_token_stride = query_token_stride,
              .query_head_stride = query_head_stride,
              .output = output,
              .log_sum_exp = log_sum_exp,
              .heads_per_group = layout->query_heads / layout->groups,
              .padded_width = padded_width(layout),
              .items = items,
              .partials = (float *)(base + at.partials),
              .partial_floats = state_floats(size.partial_rows, padded_width(layout)),
              .partial_rows = size.partial_rows,
              .scratch = base + at.scratch,
              .scratch_bytes = scratch_bytes(layout)},
      .kernels = kernels_for(layout),
      .splits = splits};
  if (!pool || size.items < 2 || size.operations < PARALLEL_OPERATIONS) {
    run_items(&context, 0, size.items, 0);
    run_combine(&context, 0, size.splits, 0);
    return;
  }
  apus_pool_run(pool, size.items, 1, run_items, &context);
  if (size.partials * size.partial_rows * padded_width(layout) * 8 < PARALLEL_OPERATIONS)
    run_combine(&context, 0, size.splits, 0);
  else
    apus_pool_run(pool, size.splits, 1, run_combine, &context);
}

/* ---- merging two results ---- */

typedef struct {
  int64_t width, a_stride, b_stride;
  float *a, *a_lse;
  const float *b, *b_lse;
} merge_context;

static void merge_rows(void *context, int64_t begin, int64_t end, int worker) {
  const merge_context *c = context;
  (void)worker;
  for (int64_t row = begin; row < end; row++) {
    float x = c->a_lse[row], y = c->b_lse[row], most = x > y ? x : y;
    if (y == -INFINITY) continue;
    float keep = expf(x - most), take = expf(y - most), total = keep + take;
    float *a = c->a + row * c->a_stride;
    const float *b = c->b + row * c->b_stride;
    keep /= total;
    take /= total;
    for (int64_t i = 0; i < c->width; i++) a[i] = (keep == 0 ? 0 : keep * a[i]) + take * b[i];
    c->a_lse[row] = most + logf(total);
  }
}

void apus_attention_merge(apus_pool *pool, int64_t rows, int64_t width, float *a, int64_t a_stride, float *a_lse,
                          const float *b, int64_t b_stride, const float *b_lse) {
  merge_context context = {width, a_stride, b_stride, a, a_lse, b, b_lse};
  if (!pool || rows * width * 8 < PARALLEL_OPERATIONS)
    merge_rows(&context, 0, rows, 0);
  else
    apus_pool_run(pool, rows, 64, merge_rows, &context);
}
