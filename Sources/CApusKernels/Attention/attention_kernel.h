/* The attention of one item, compiled once per instruction set: the including file sets LANES, COMPUTE_BF16, ISA and the
 * target attribute.
 *
 * Per block of 64 tokens: keys are packed transposed and values packed once for all rows of the tile; then, six rows at a
 * time, scores = q K (rows x 64, sums in registers), online softmax, sums = sums * rescale + p V. Both products are the
 * same routine. An element of either is summed along the reduced axis in order, whatever rows stand beside it. */
#include <math.h>

#include "../Elementwise/vector_math.h"
#include "attention_internal.h"

#if COMPUTE_BF16
typedef uint32_t operand; /* a pair of bf16 */
#define PER_OPERAND 2
#else
typedef float operand;
#define PER_OPERAND 1
#endif
/* Tokens that softmax takes at once. */
#define SCORE_STEP (LANES * PER_OPERAND)

#include "attention_pack.h"

#if LANES == 16
#define WIDE 4
#else
#define WIDE 2
#endif

/* c[rows][vectors * LANES] = c * rescale + a[rows][depth] b[depth][..], or a b alone where rescale is NULL. */
INLINE void multiply_panel(int rows, int vectors, int64_t depth, const operand *a, int64_t a_stride, const operand *b,
                           int64_t b_stride, const float *rescale, float *c, int64_t c_stride) {
  vf sums[MICRO_ROWS][WIDE];
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++)
      sums[r][v] = rescale ? load(c + r * c_stride + v * LANES) * rescale[r] : splat(0);
  for (int64_t k = 0; k < depth; k++) {
    vf column[WIDE];
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) column[v] = load((const float *)(b + k * b_stride) + v * LANES);
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
#if COMPUTE_BF16
      __m512bh pair = (__m512bh)_mm512_set1_epi32((int)a[r * a_stride + k]);
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sums[r][v] = (vf)_mm512_dpbf16_ps((__m512)sums[r][v], pair, (__m512bh)column[v]);
#else
      vf factor = splat(a[r * a_stride + k]);
#pragma clang loop unroll(full)
      for (int v = 0; v < vectors; v++) sums[r][v] += factor * column[v];
#endif
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < vectors; v++) store(c + r * c_stride + v * LANES, sums[r][v]);
}

INLINE void multiply_rows(int rows, int64_t width, int64_t depth, const operand *a, int64_t a_stride, const operand *b,
                          int64_t b_stride, const float *rescale, float *c, int64_t c_stride) {
  int64_t n = 0;
  for (; n + WIDE * LANES <= width; n += WIDE * LANES)
    multiply_panel(rows, WIDE, depth, a, a_stride, b + n, b_stride, rescale, c + n, c_stride);
  for (; n < width; n += LANES) multiply_panel(rows, 1, depth, a, a_stride, b + n, b_stride, rescale, c + n, c_stride);
}

static void multiply(int rows, int64_t width, int64_t depth, const operand *a, int64_t a_stride, const operand *b,
                     int64_t b_stride, const float *rescale, float *c, int64_t c_stride) {
#define CASE(n) \
  case n: multiply_rows(n, width, depth, a, a_stride, b, b_stride, rescale, c, c_stride); break;
  switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) default: CASE(6) }
#undef CASE
}

/* Tokens that a query row sees: [begin, end). */
typedef struct {
  int64_t begin, end;
} visible_range;

INLINE visible_range visible_to(const apus_attention_job *job, int64_t length, int64_t queries, int64_t row) {
  int64_t position = length - queries + row / job->heads_per_group;
  int64_t window = job->parameters->window;
  visible_range range = {window > 0 && position + 1 > window ? position + 1 - window : 0,
                         job->parameters->causal ? position + 1 : length};
  return range;
}

/* Online softmax of `rows` score rows over the tokens [low, high) of a block (multiples of SCORE_STEP); a row sees
 * [begin, end) of the block. Leaves probabilities in `weights`, factors for the sums so far in `rescale`. */
static void soften(const apus_attention_job *job, int rows, int64_t low, int64_t high, const visible_range *visible,
                   const float *scores, operand *weights, float *most, float *total, float *rescale) {
  float cap = job->parameters->softcap;
  float bound[MICRO_ROWS], change[LANES < MICRO_ROWS ? 2 * LANES : LANES];
  vf values[MICRO_ROWS][BLOCK_TOKENS / LANES];
  memset(change, 0, sizeof change);
  for (int r = 0; r < rows; r++) {
    vf largest = splat(-__builtin_inff());
    int whole = visible[r].begin <= low && visible[r].end >= high;
    for (int64_t t = low; t < high; t += LANES) {
      vf s = load(scores + r * BLOCK_TOKENS + t);
      if (cap != 0) s = vtanh(s * (1.0f / cap)) * cap;
      if (!whole) {
        vi at = lane_numbers() + (int32_t)t;
        s = choose((at >= (int32_t)visible[r].begin) & (at < (int32_t)visible[r].end), s, splat(-__builtin_inff()));
      }
      values[r][t / LANES] = s;
      largest = vmax(s, largest);
    }
    float peak = max_lanes(largest);
    peak = peak > most[r] ? peak : most[r];
    bound[r] = peak == -__builtin_inff() ? 0 : peak;
    change[r] = most[r] - bound[r];
    most[r] = peak;
  }
  for (int at = 0; at < rows; at += LANES) store(change + at, vexp_nonpositive(load(change + at)));
  for (int r = 0; r < rows; r++) {
    vf sum = {0};
#if COMPUTE_BF16
    for (int64_t t = low; t < high; t += 2 * LANES) {
      vf a = vexp_nonpositive(values[r][t / LANES] - bound[r]);
      vf b = vexp_nonpositive(values[r][t / LANES + 1] - bound[r]);
      sum += a + b;
      _mm512_storeu_si512(weights + (r * BLOCK_TOKENS + t) / 2, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
#else
    for (int64_t t = low; t < high; t += LANES) {
      vf a = vexp_nonpositive(values[r][t / LANES] - bound[r]);
      sum += a;
      store(weights + r * BLOCK_TOKENS + t, a);
    }
#endif
    rescale[r] = change[r];
    total[r] = total[r] * change[r] + sum_lanes(sum);
  }
}

/* to := to merged with from, row by row; both keep sums relative to their own maximum. */
static void merge(int64_t rows, int64_t width, apus_attention_state to, apus_attention_state from) {
  for (int64_t r0 = 0; r0 < rows; r0 += LANES) {
    vf a = load(to.most + r0), b = load(from.most + r0);
    vf most = vmax(a, b);
    vf bound = choose(most == splat(-__builtin_inff()), splat(0), most);
    float keep[LANES], take[LANES];
    store(keep, vexp_nonpositive(a - bound));
    store(take, vexp_nonpositive(b - bound));
    store(to.most + r0, most);
    store(to.total + r0, load(to.total + r0) * load(keep) + load(from.total + r0) * load(take));
    for (int64_t r = r0; r < rows && r < r0 + LANES; r++)
      for (int64_t at = 0; at < width; at += LANES) {
        float *sum = to.sums + r * width + at;
        store(sum, load(sum) * keep[r - r0] + load(from.sums + r * width + at) * take[r - r0]);
      }
  }
}

static void clear(int64_t rows, int64_t width, apus_attention_state state) {
  for (int64_t i = 0; i < rows * width; i += LANES) store(state.sums + i, splat(0));
  for (int64_t r = 0; r < rows; r += LANES) {
    store(state.most + r, splat(-__builtin_inff()));
    store(state.total + r, splat(0));
  }
}

/* Divides by the denominator, to which the sink of the head is added, and writes rows [row_begin, ...) of the group. */
static void finish(const apus_attention_job *job, int64_t sequence, int64_t group, int64_t row_begin, int64_t rows,
                   apus_attention_state state) {
  const apus_cache_layout *l = job->layout;
  int64_t width = l->shared + l->value;
  for (int64_t r = 0; r < rows; r++) {
    int64_t row = row_begin + r;
    int64_t token = job->batch->query_offsets[sequence] + row / job->heads_per_group;
    int64_t head = group * job->heads_per_group + row % job->heads_per_group;
    float most = state.most[r], total = state.total[r], factor = 1;
    if (job->parameters->sinks) {
      float sink = job->parameters->sinks[head], bound = sink > most ? sink : most;
      if (bound != -__builtin_inff()) {
        factor = expf(most - bound);
        total = total * factor + expf(sink - bound);
        most = bound;
      }
    }
    factor = total == 0 ? 0 : factor / total;
    const float *sums = state.sums + r * job->padded_width;
    float *output = job->output.base + token * job->output.token_stride + head * job->output.head_stride;
    int64_t at = 0;
    for (; at + LANES <= width; at += LANES) store(output + at, load(sums + at) * factor);
    for (; at < width; at++) output[at] = sums[at] * factor;
    job->log_sum_exp[token * l->query_heads + head] = most + logf(total);
  }
}

/* Where a worker keeps what an item needs. */
typedef struct {
  operand *queries, *keys, *values, *weights;
  float *scores, *query;
  apus_attention_state span, tile;
} workspace;

INLINE void *take(char **at, int64_t bytes) {
  char *start = *at;
  *at += round_up(bytes, 64);
  return start;
}

/* Mirrored by apus_attend_workspace, which allows for float32 operands and a vector of slack. */
static workspace cut(const apus_attention_job *job, char *scratch) {
  int64_t key = packed_key_width(job->layout), padded = job->padded_width;
  workspace w;
  w.query = take(&scratch, 4 * (key + MOST_LANES));
  w.queries = take(&scratch, 4 * TILE_ROWS * key);
  w.keys = take(&scratch, 4 * BLOCK_TOKENS * key);
  w.values = take(&scratch, 4 * (BLOCK_TOKENS * padded + 2 * MOST_LANES));
  w.scores = take(&scratch, 4 * MICRO_ROWS * BLOCK_TOKENS);
  w.weights = take(&scratch, 4 * MICRO_ROWS * BLOCK_TOKENS);
  w.span = state_at(take(&scratch, 4 * state_floats(TILE_ROWS, padded)), TILE_ROWS, padded);
  w.tile = state_at(take(&scratch, 4 * state_floats(TILE_ROWS, padded)), TILE_ROWS, padded);
  return w;
}

/* Queries times the scale, in the order of the packed key. Returns operands per row. */
static int64_t pack_queries(const apus_attention_job *job, const apus_attention_item *item, workspace *w) {
  const apus_cache_layout *l = job->layout;
#if COMPUTE_BF16
  int64_t width = packed_key_width(l), second = round_up(l->shared, 2);
#else
  int64_t width = l->shared + l->key, second = l->shared;
#endif
  float scale = job->parameters->scale;
  for (int64_t row = item->row_begin; row < item->row_end; row++) {
    int64_t token = job->batch->query_offsets[item->sequence] + row / job->heads_per_group;
    int64_t head = item->group * job->heads_per_group + row % job->heads_per_group;
    const float *query = job->query + token * job->query_token_stride + head * job->query_head_stride;
    operand *packed = w->queries + (row - item->row_begin) * (width / PER_OPERAND);
#if COMPUTE_BF16
    if (l->shared % 2) w->query[l->shared] = 0;
    for (int64_t i = 0; i < l->shared; i++) w->query[i] = query[i] * scale;
    for (int64_t i = 0; i < l->key; i++) w->query[second + i] = query[l->shared + i] * scale;
    if (l->key % 2) w->query[second + l->key] = 0;
    for (int64_t at = 0; at < width; at += 16) {
      __m256i rounded = (__m256i)_mm512_cvtneps_pbh(load(w->query + at));
      if (width - at >= 16) {
        _mm256_storeu_si256((__m256i *)((uint16_t *)packed + at), rounded);
      } else {
        uint16_t lanes[16];
        _mm256_storeu_si256((__m256i *)lanes, rounded);
        memcpy((uint16_t *)packed + at, lanes, 2 * (size_t)(width - at));
      }
    }
#else
    for (int64_t i = 0; i < second + l->key; i++) packed[i] = query[i] * scale;
#endif
  }
  return width / PER_OPERAND;
}

/* Addresses of one block's rows: of the group, and of the keys kept once. */
typedef struct {
  const char *group[BLOCK_TOKENS], *once[BLOCK_TOKENS];
} block_rows;

/* The block that starts at token `start`; tokens from `length` on repeat the last one (their weights are zero). */
static void find_rows(const apus_attention_job *job, const apus_attention_item *item, int64_t start, int64_t length,
                      block_rows *rows) {
  const apus_cache_layout *l = job->layout;
  const int32_t *table = job->batch->page_table + job->batch->table_offsets[item->sequence];
  int64_t page = start / l->page_size, slot = start % l->page_size;
  int64_t count = length - start < BLOCK_TOKENS ? length - start : BLOCK_TOKENS;
  int64_t row_stride = l->row_stride, once_stride = l->once_stride;
  for (int64_t t = 0; t < count; page++, slot = 0) {
    const char *base = job->pages + table[page] * l->page_bytes;
    const char *group = base + item->group * l->group_stride + slot * row_stride;
    const char *once = base + l->once_offset + slot * once_stride;
    int64_t run = l->page_size - slot < count - t ? l->page_size - slot : count - t;
    for (int64_t i = 0; i < run; i++, t++) {
      rows->group[t] = group + i * row_stride;
      rows->once[t] = once + i * once_stride;
    }
  }
  for (int64_t t = count; t < BLOCK_TOKENS; t++) {
    rows->group[t] = rows->group[count - 1];
    rows->once[t] = rows->once[count - 1];
  }
}

/* Reads a byte of every line of the block, in order: transposing would hide the stream from the hardware's prefetchers. */
static void touch_rows(const apus_cache_layout *l, const block_rows *rows) {
  for (int t = 0; t < BLOCK_TOKENS; t++) {
    for (int64_t at = 0; at < l->row_stride; at += 64) (void)*(const volatile char *)(rows->group[t] + at);
    for (int64_t at = 0; at < l->once_stride; at += 64) (void)*(const volatile char *)(rows->once[t] + at);
  }
}

static void pack_block_values(const apus_cache_layout *l, const block_rows *rows, int64_t padded, operand *values) {
  if (l->shared) pack_values(l->shared_type, rows->group, 0, l->shared, values, padded);
  if (l->value) pack_values(l->value_type, rows->group, l->value_offset, l->value, values + l->shared, padded);
}

static void pack_block_keys(const apus_cache_layout *l, const block_rows *rows, operand *keys) {
  if (l->shared) pack_keys(l->shared_type, rows->group, 0, l->shared, keys);
  keys += (l->shared + PER_OPERAND - 1) / PER_OPERAND * BLOCK_TOKENS;
  if (l->key && l->key_once) pack_keys(l->key_type, rows->once, 0, l->key, keys);
  if (l->key && !l->key_once) pack_keys(l->key_type, rows->group, l->key_offset, l->key, keys);
}

/* What the products read of one block. */
typedef struct {
  const operand *keys, *values;
} block_operands;

/* A block kept as the products read it: where it lies, or its pairs split where the products want float32. */
static block_operands find_block(const apus_attention_job *job, const apus_attention_item *item, int64_t start,
                                 workspace *w) {
  const apus_cache_layout *l = job->layout;
  const int32_t *table = job->batch->page_table + job->batch->table_offsets[item->sequence];
  const char *block = job->pages + table[start / l->page_size] * l->page_bytes + item->group * l->group_stride +
                      start % l->page_size / BLOCK_TOKENS * l->block_bytes;
  block_operands found = {(const operand *)block, (const operand *)(block + l->value_offset)};
#if !COMPUTE_BF16
  if (l->key_type == APUS_CACHE_BF16) {
    split_pairs(block, (l->key + 1) / 2, BLOCK_TOKENS, w->keys);
    split_pairs(block + l->value_offset, BLOCK_TOKENS / 2, job->padded_width, w->values);
    found = (block_operands){w->keys, w->values};
  }
#endif
  (void)w;
  return found;
}

/* A block kept as rows, packed. */
static block_operands pack_block(const apus_attention_job *job, const apus_attention_item *item, int64_t start,
                                 int64_t length, workspace *w) {
  block_rows rows;
  find_rows(job, item, start, length, &rows);
  touch_rows(job->layout, &rows);
  pack_block_values(job->layout, &rows, job->padded_width, w->values);
  pack_block_keys(job->layout, &rows, w->keys);
  return (block_operands){w->keys, w->values};
}

/* Rows [first, first + rows) of the item against the block at `start`. */
static void attend_rows(const apus_attention_job *job, const apus_attention_item *item, int64_t start, int64_t length,
                        int64_t queries, int64_t depth, int64_t first, int rows, block_operands block, workspace *w,
                        apus_attention_state span) {
  visible_range visible[MICRO_ROWS];
  int64_t low = BLOCK_TOKENS, high = 0;
  for (int r = 0; r < rows; r++) {
    visible_range range = visible_to(job, length, queries, item->row_begin + first + r);
    range.begin = range.begin > start ? range.begin - start : 0;
    range.end = range.end < start + BLOCK_TOKENS ? range.end - start : BLOCK_TOKENS;
    visible[r] = range;
    if (range.begin >= range.end) continue;
    low = range.begin < low ? range.begin : low;
    high = range.end > high ? range.end : high;
  }
  if (low >= high) return;
  int64_t from = low / SCORE_STEP * SCORE_STEP, to = round_up(high, SCORE_STEP);
  float rescale[MICRO_ROWS];
  multiply(rows, to - from, depth, w->queries + first * depth, depth, block.keys + from, BLOCK_TOKENS, NULL,
           w->scores + from, BLOCK_TOKENS);
  soften(job, rows, from, to, visible, w->scores, w->weights, span.most + first, span.total + first, rescale);
  int64_t k = low / PER_OPERAND, end = (high + PER_OPERAND - 1) / PER_OPERAND;
  multiply(rows, job->padded_width, end - k, w->weights + k, BLOCK_TOKENS / PER_OPERAND,
           block.values + k * job->padded_width, job->padded_width, rescale, span.sums + first * job->padded_width,
           job->padded_width);
}

static void attend_item(const apus_attention_job *job, const apus_attention_item *item, char *scratch) {
  workspace w = cut(job, scratch);
  int64_t length = job->batch->lengths[item->sequence], rows = item->row_end - item->row_begin;
  int64_t queries = job->batch->query_offsets[item->sequence + 1] - job->batch->query_offsets[item->sequence];
  int64_t depth = pack_queries(job, item, &w), padded = job->padded_width;
  apus_attention_state span = w.span, tile = w.tile;
  if (item->partial >= 0)
    span = state_at(job->partials + item->partial * job->partial_floats, job->partial_rows, padded);
  int64_t begin = visible_to(job, length, queries, item->row_begin).begin;
  int64_t end = visible_to(job, length, queries, item->row_end - 1).end;
  int started = 0;
  for (int64_t s = item->span_begin; s < item->span_end; s++) {
    int64_t span_begin = s * SPAN_TOKENS, span_end = span_begin + SPAN_TOKENS;
    if (item->partial < 0 && (span_end <= begin || span_begin >= end)) continue;
    clear(rows, padded, span);
    for (int64_t start = span_begin; start < span_end; start += BLOCK_TOKENS) {
      if (start + BLOCK_TOKENS <= begin || start >= end) continue;
      block_operands block = job->layout->blocked ? find_block(job, item, start, &w)
                                                  : pack_block(job, item, start, length, &w);
      for (int64_t first = 0; first < rows; first += MICRO_ROWS) {
        int count = rows - first < MICRO_ROWS ? (int)(rows - first) : MICRO_ROWS;
        attend_rows(job, item, start, length, queries, depth, first, count, block, &w, span);
      }
    }
    if (item->partial >= 0) continue;
    if (started) {
      merge(rows, padded, tile, span);
    } else {
      apus_attention_state other = tile;
      tile = span;
      span = other;
      started = 1;
    }
  }
  if (item->partial < 0) finish(job, item->sequence, item->group, item->row_begin, rows, tile);
}

static void combine(const apus_attention_job *job, const apus_attention_item *first, int64_t count) {
  int64_t rows = first->row_end - first->row_begin, padded = job->padded_width;
  apus_attention_state tile =
      state_at(job->partials + first->partial * job->partial_floats, job->partial_rows, padded);
  for (int64_t i = 1; i < count; i++)
    merge(rows, padded, tile,
          state_at(job->partials + (first->partial + i) * job->partial_floats, job->partial_rows, padded));
  finish(job, first->sequence, first->group, first->row_begin, rows, tile);
}

#define JOINED_OF(a, b) a##b
#define JOINED(a, b) JOINED_OF(a, b)

const apus_attention_kernels JOINED(apus_attention_, ISA) = {.item = attend_item, .combine = combine};
