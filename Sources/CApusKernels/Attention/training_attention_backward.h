/* The backward pass of an item: tile by tile of its query rows, block by block of the keys that the tile sees. */

/* Packs a group's queries and output gradients; takes its log-sum-exp in powers of two, and per row delta = output . gradient,
 * the gradient rounded as in dP, so that the terms of a row of dS still add up to zero. */
static void begin_group_backward(const apus_training_job *job, const apus_training_item *item, const row_group *g,
                                 float *scratch) {
  const apus_training_scratch *w = &job->scratch;
  const apus_training_attention *s = &job->shape;
  int64_t padded = whole(g->count, LANES), key = s->key_own + s->key_once;
#if COMPUTE_BF16
  float *queries = scratch + w->staging, *gradients = queries;
#else
  float *queries = g->at + w->query_rows, *gradients = g->at + w->d_output_rows;
  (void)scratch;
#endif
  stage_queries(job, item, job->operands.query, g->first, g->count, padded, key, job->key_width, s->scale * LOG2_E, queries);
  pack_lanes(queries, padded, job->key_width, operands_at(g->at, w->query_lanes));
#if COMPUTE_BF16
  pack_pairs(queries, padded, job->key_width, operands_at(g->at, w->query_rows));
#endif
  stage_queries(job, item, job->d_output, g->first, g->count, padded, s->value, job->value_width, 1, gradients);
  pack_lanes(gradients, padded, job->value_width, operands_at(g->at, w->d_output_lanes));
#if COMPUTE_BF16
  pack_pairs(gradients, padded, job->value_width, operands_at(g->at, w->d_output_rows));
#endif
  float *bound = g->at + w->bound, *delta = g->at + w->delta;
  clear(bound, GROUP_ROWS);
  clear(delta, GROUP_ROWS);
  clear(g->at + w->sums, GROUP_ROWS * job->key_width);
  for (int64_t r = 0; r < g->count; r++) {
    int64_t row = g->first + r, token = s->starts[item->sequence] + row / job->group_size;
    int64_t head = item->kv_head * job->group_size + row % job->group_size;
    const float *output =
        job->saved_output.base + token * job->saved_output.token_stride + head * job->saved_output.head_stride;
    const float *gradient = gradients + r * job->value_width;
    vf sum = splat(0);
    int64_t i = 0;
    for (; i + LANES <= s->value; i += LANES) sum += load(output + i) * rounded(load(gradient + i));
    if (i < s->value) sum += load_tail(output + i, s->value - i, 0) * rounded(load(gradient + i));
    delta[r] = sum_lanes(sum);
    bound[r] = job->saved_log_sum_exp[token * s->heads + head] * LOG2_E;
  }
}

static void pack_block_backward(const apus_training_job *job, const apus_training_item *item, const key_block *block,
                                float *scratch) {
  const apus_training_scratch *w = &job->scratch;
#if COMPUTE_BF16
  float *staging = scratch + w->staging;
  stage_keys(job, item, block->start, block->count, block->rows, staging);
  pack_rows(staging, block->rows, job->key_width, operands_at(scratch, w->key_rows));
  pack_pairs(staging, block->rows, job->key_width, operands_at(scratch, w->key_pairs));
  stage_values(job, item, block->start, block->count, block->rows, staging);
  pack_rows(staging, block->rows, job->value_width, operands_at(scratch, w->value_rows));
#else
  stage_keys(job, item, block->start, block->count, block->rows, scratch + w->key_rows);
  stage_values(job, item, block->start, block->count, block->rows, scratch + w->value_rows);
#endif
}

/* P and dS of one vector of lanes for one key; zeros where `seen` does not hold the vector. */
typedef struct {
  vf weight, d_score;
} score_gradient;

INLINE score_gradient gradient_of(const apus_training_job *job, const row_group *g, int64_t key, int64_t vector,
                                  vector_range seen, const float *scores, const float *slopes) {
  const int64_t lane = vector * LANES;
  score_gradient result = {splat(0), splat(0)};
  if (vector < seen.from || vector >= seen.to) return result;
  const float *bound = g->at + job->scratch.bound + lane, *delta = g->at + job->scratch.delta + lane;
  result.weight = vexp2_nonpositive(load(scores + lane) - load(bound), EXP2_TERMS);
  result.d_score = result.weight * (load(slopes + lane) - load(delta));
  int64_t begin = lane_begin(job, g, key), end = lane_end(job, g, key);
  if (begin > lane || end < lane + LANES) {
    const vi lanes = lane_numbers() + (int32_t)lane;
    vi visible = (lanes >= (int32_t)begin) & (lanes < (int32_t)end);
    result.weight = choose(visible, result.weight, splat(0));
    result.d_score = choose(visible, result.d_score, splat(0));
  }
  return result;
}

/* P and dS of the keys [row, row + rows) of a block, all lanes of the group, from scores and dP; dS once with pairs along
 * the queries and once with pairs along the keys. */
INLINE void score_gradients(const apus_training_job *job, const row_group *g, const key_block *block, int64_t row, int rows,
                            vector_range seen, float *scratch) {
  const apus_training_scratch *w = &job->scratch;
  const float *scores = scratch + w->scores, *slopes = scratch + w->slopes;
  float *weights = scratch + w->weights, *d_scores = scratch + w->d_scores;
  for (int64_t t = 0; t < rows; t += PER_OPERAND)
    for (int64_t v = 0; v < GROUP_VECTORS; v += PER_OPERAND) {
      score_gradient at[PER_OPERAND][PER_OPERAND];
#pragma clang loop unroll(full)
      for (int i = 0; i < PER_OPERAND; i++)
#pragma clang loop unroll(full)
        for (int j = 0; j < PER_OPERAND; j++)
          at[i][j] = gradient_of(job, g, block->start + row + t + i, v + j, seen, scores + (t + i) * GROUP_ROWS,
                                 slopes + (t + i) * GROUP_ROWS);
#if COMPUTE_BF16
      float *pairs = scratch + w->d_score_pairs + (row + t) / 2 * GROUP_ROWS + v * LANES;
#pragma clang loop unroll(full)
      for (int i = 0; i < 2; i++) {
        int64_t place = ((row + t + i) * GROUP_ROWS + v * LANES) / 2;
        store(weights + place, narrow(at[i][0].weight, at[i][1].weight));
        store(d_scores + place, narrow(at[i][0].d_score, at[i][1].d_score));
        store(pairs + i * LANES, interleave(at[0][i].d_score, at[1][i].d_score));
      }
#else
      store(weights + (row + t) * GROUP_ROWS + v * LANES, at[0][0].weight);
      store(d_scores + (row + t) * GROUP_ROWS + v * LANES, at[0][0].d_score);
#endif
    }
}

/* Adds one group's part to a block's dK and dV and to the group's dQ. `fresh`: the block's first group. */
static void differentiate_block(const apus_training_job *job, const row_group *g, const key_block *block, int fresh,
                                fetches *ahead, float *scratch) {
  const apus_training_scratch *w = &job->scratch;
  const int64_t key = job->shape.key_own + job->shape.key_once, value = job->shape.value, lane_operands = GROUP_ROWS / PER_OPERAND;
  for (int64_t row = 0; row < block->rows; row += MICRO_ROWS) {
    int rows = (int)at_most(MICRO_ROWS, block->rows - row);
    vector_range seen = seen_vectors(job, g, block->start + row, rows);
    if (seen.from < seen.to) {
      multiply_scores(operands_at(scratch, w->key_rows), operands_at(g->at, w->query_lanes), key, job->key_width, row, rows,
                      seen, scratch + w->scores);
      multiply_scores(operands_at(scratch, w->value_rows), operands_at(g->at, w->d_output_lanes), value, job->value_width, row,
                      rows, seen, scratch + w->slopes);
    }
    fetch_step(&ahead->block);
    score_gradients(job, g, block, row, rows, seen, scratch);
    fetch_step(&ahead->tile);
    int64_t from = lane_begin(job, g, block->start + row) / PER_OPERAND;
    int64_t to = (lane_end(job, g, block->start + row + rows - 1) + PER_OPERAND - 1) / PER_OPERAND;
    if (from >= to) {
      if (!fresh) continue;
      from = to = 0;
    }
    product p = {.depth = to - from,
                 .a = operands_at(scratch, w->weights) + row * lane_operands + from,
                 .a_stride = lane_operands,
                 .b = operands_at(g->at, w->d_output_rows) + from * job->value_width,
                 .b_stride = job->value_width,
                 .origin = fresh ? FROM_ZERO : FROM_SUMS,
                 .c = scratch + w->d_value + row * job->value_width,
                 .c_stride = job->value_width};
    multiply_by_rows(&p, rows, value);
    p.a = operands_at(scratch, w->d_scores) + row * lane_operands + from;
    p.b = operands_at(g->at, w->query_rows) + from * job->key_width;
    p.b_stride = p.c_stride = job->key_width;
    p.c = scratch + w->d_key + row * job->key_width;
    multiply_by_rows(&p, rows, key);
  }
  for (int64_t lane = 0; lane < g->count; lane += MICRO_ROWS) {
    int rows = (int)at_most(MICRO_ROWS, whole(g->count, 2) - lane);
    vector_range seen = seen_keys(job, g, block, lane, rows);
    if (seen.from >= seen.to) continue;
    product p = {.depth = seen.to - seen.from,
                 .a = operands_at(scratch, w->d_score_pairs) + seen.from * GROUP_ROWS + lane,
                 .a_stride = GROUP_ROWS,
                 .b = operands_at(scratch, w->key_pairs) + seen.from * job->key_width,
                 .b_stride = job->key_width,
                 .origin = FROM_SUMS,
                 .c = g->at + w->sums + lane * job->key_width,
                 .c_stride = job->key_width};
    multiply_by_columns(&p, rows, key);
  }
}

/* to = from * factor, or += it. */
INLINE void put(const float *from, int64_t width, float factor, int add, float *to) {
  int64_t i = 0;
  if (!add) {
    copy_scaled(from, width, factor, to);
    return;
  }
  for (; i + LANES <= width; i += LANES) store(to + i, load(to + i) + load(from + i) * factor);
  for (; i < width; i++) to[i] += from[i] * factor;
}

INLINE void put_row(const apus_gradient_rows *rows, const float *from, int64_t width, float factor, int64_t token, int fresh) {
  put(from, width, factor, !fresh || rows->accumulate, rows->base + (token - rows->first) * rows->stride);
}

/* Writes or adds a block's dK and dV. The first tile of an item that sees a token is the one that has its query rows (or the
 * item's first tile), so that one writes where the others add. */
static void finish_block(const apus_training_job *job, const apus_training_item *item, const key_block *block, int64_t begin,
                         int64_t tile_begin, const float *scratch) {
  const apus_training_attention *s = &job->shape;
  for (int64_t t = at_least(0, begin - block->start); t < block->count; t++) {
    int64_t token = block->start + t;
    int fresh = tile_begin == item->row_begin || token * job->group_size >= tile_begin;
    const float *d_key = scratch + job->scratch.d_key + t * job->key_width;
    if (s->key_own) put_row(&item->own, d_key, s->key_own, LN_2, token, fresh);
    if (s->key_once) put_row(&item->once, d_key + s->key_own, s->key_once, LN_2, token, fresh);
    put_row(&item->value, scratch + job->scratch.d_value + t * job->value_width, s->value, 1, token, fresh);
  }
}

static void finish_group_backward(const apus_training_job *job, const apus_training_item *item, const row_group *g) {
  const apus_training_output *out = &job->gradients.query;
  for (int64_t r = 0; r < g->count; r++) {
    int64_t row = g->first + r, token = job->shape.starts[item->sequence] + row / job->group_size;
    int64_t head = item->kv_head * job->group_size + row % job->group_size;
    put(g->at + job->scratch.sums + r * job->key_width, job->shape.key_own + job->shape.key_once, job->shape.scale,
        out->accumulate, out->base + token * out->token_stride + head * out->head_stride);
  }
}

/* Where the item's keys from `token` on will be written. */
INLINE void add_gradient_stream(row_fetch *f, const apus_gradient_rows *rows, int64_t token, int64_t count, int64_t width) {
  if (width) add_stream(f, rows->base + (token - rows->first) * rows->stride, rows->stride, count, width);
}

/* Rows of the tile that comes after the one at `tile`, and those that this one will write. */
static row_fetch fetch_tile(const apus_training_job *job, const apus_training_item *item, int64_t tile, int64_t end,
                            int64_t steps) {
  const apus_training_attention *s = &job->shape;
  const apus_training_output *out = &job->gradients.query;
  row_fetch f = {.count = 0};
  add_query_stream(&f, job, item, out->base, out->token_stride, out->head_stride, tile, end, s->key_own + s->key_once);
  const apus_training_item *next = item;
  int64_t next_tile = end;
  if (end == item->row_end) {
    next++;
    if (next == job->items + job->item_count) next = NULL;
    if (next) next_tile = next->row_begin;
  }
  if (next) {
    int64_t next_end = at_most(next_tile + TILE_ROWS, next->row_end);
    const apus_training_input *q = &job->operands.query, *o = &job->saved_output, *d = &job->d_output;
    add_query_stream(&f, job, next, o->base, o->token_stride, o->head_stride, next_tile, next_end, s->value);
    add_query_stream(&f, job, next, d->base, d->token_stride, d->head_stride, next_tile, next_end, s->value);
    add_query_stream(&f, job, next, q->base, q->token_stride, q->head_stride, next_tile, next_end, s->key_own + s->key_once);
  }
  spread(&f, steps);
  return f;
}

/* The block after this one (at the end of an item, the next item's first), and the gradients of this one. */
static row_fetch fetch_block(const apus_training_job *job, const apus_training_item *item, const key_block *block, int64_t end,
                             int last_tile, int groups) {
  row_fetch f = {.count = 0};
  int64_t next = block->start + BLOCK_KEYS;
  if (next < end)
    add_key_streams(&f, job, item, next, at_most(next + BLOCK_KEYS, end));
  else if (last_tile && item + 1 < job->items + job->item_count)
    add_key_streams(&f, job, item + 1, item[1].key_begin, at_most(item[1].key_begin + BLOCK_KEYS, item[1].key_end));
  int64_t begin = at_least(block->start, item->key_begin), count = block->start + block->count - begin;
  add_gradient_stream(&f, &item->own, begin, count, job->shape.key_own);
  add_gradient_stream(&f, &item->value, begin, count, job->shape.value);
  spread(&f, groups * STEPS_OF_GROUP);
  return f;
}

static void backward_item(const apus_training_job *job, const apus_training_item *item, float *scratch) {
  for (int64_t tile = item->row_begin; tile < item->row_end; tile += TILE_ROWS) {
    row_group groups[TILE_GROUPS];
    int64_t tile_end = at_most(tile + TILE_ROWS, item->row_end);
    int count = cut_groups(job, tile, tile_end, scratch, groups);
    for (int i = 0; i < count; i++) begin_group_backward(job, item, &groups[i], scratch);
    int64_t begin = key_begin(job, &groups[0], 0), end = key_end(job, &groups[count - 1], groups[count - 1].count - 1);
    int64_t blocks = (end - begin) / BLOCK_KEYS + 1;
    fetches ahead = {.tile = fetch_tile(job, item, tile, tile_end, (blocks + 1) / 2 * count * STEPS_OF_GROUP)};
    for (int64_t start = begin / BLOCK_KEYS * BLOCK_KEYS; start < end; start += BLOCK_KEYS) {
      key_block block = {start, at_most(BLOCK_KEYS, end - start), whole(at_most(BLOCK_KEYS, end - start), 2)};
      pack_block_backward(job, item, &block, scratch);
      int seeing = 0, fresh = 1;
      for (int i = 0; i < count; i++) seeing += !sees_nothing(job, &groups[i], &block);
      ahead.block = fetch_block(job, item, &block, end, tile_end == item->row_end, seeing);
      for (int i = 0; i < count; i++) {
        if (sees_nothing(job, &groups[i], &block)) continue;
        differentiate_block(job, &groups[i], &block, fresh, &ahead, scratch);
        fresh = 0;
      }
      finish_block(job, item, &block, begin, tile, scratch);
    }
    for (int i = 0; i < count; i++) finish_group_backward(job, item, &groups[i]);
  }
}
