/* The forward pass of an item: a tile of query rows against all the keys it sees, block by block. */

static void begin_group_forward(const apus_training_job *job, const apus_training_item *item, const row_group *g,
                                float *staging) {
  const apus_training_scratch *w = &job->scratch;
  const apus_training_attention *s = &job->shape;
  int64_t padded = whole(g->count, LANES);
  stage_queries(job, item, job->operands.query, g->first, g->count, padded, s->key_own + s->key_once, job->key_width,
                s->scale * LOG2_E, staging);
  pack_lanes(staging, padded, job->key_width, operands_at(g->at, w->query_lanes));
  for (int64_t i = 0; i < GROUP_ROWS; i += LANES) {
    store(g->at + w->most + i, splat(-__builtin_inff()));
    store(g->at + w->total + i, splat(0));
  }
}

static void pack_block_forward(const apus_training_job *job, const apus_training_item *item, const key_block *block,
                               float *scratch) {
  const apus_training_scratch *w = &job->scratch;
#if COMPUTE_BF16
  float *staging = scratch + w->staging;
  stage_keys(job, item, block->start, block->count, block->rows, staging);
  pack_rows(staging, block->rows, job->key_width, operands_at(scratch, w->key_rows));
  stage_values(job, item, block->start, block->count, block->rows, staging);
  pack_pairs(staging, block->rows, job->value_width, operands_at(scratch, w->value_pairs));
#else
  stage_keys(job, item, block->start, block->count, block->rows, scratch + w->key_rows);
  stage_values(job, item, block->start, block->count, block->rows, scratch + w->value_pairs);
#endif
}

/* Online softmax down one vector of lanes: scores become probabilities relative to the running maximum in `weights`, as the
 * product with the values reads them; returns the factor for what was summed before. */
INLINE vf soften_vector(const apus_training_job *job, const row_group *g, const key_block *block, int64_t vector, float *scores,
                        operand *weights) {
  const int64_t lane = vector * LANES;
  float *most_at = g->at + job->scratch.most + lane, *total_at = g->at + job->scratch.total + lane;
  scores += lane;
  weights += lane;
  int64_t from = 0, to = 0;
  if (lane < g->count) {
    vector_range seen = seen_keys(job, g, block, lane, LANES);
    from = seen.from * PER_OPERAND;
    to = seen.to * PER_OPERAND;
  }
  if (from >= to) {
    for (int64_t t = 0; t < block->rows; t += PER_OPERAND)
      store((float *)weights + t / PER_OPERAND * GROUP_ROWS, splat(0));
    return splat(1);
  }
  vf most = load(most_at), other = most;
  if (lane_begin(job, g, block->start + to - 1) > lane || lane_end(job, g, block->start + from) < lane + LANES) {
    const vi lanes = lane_numbers() + (int32_t)lane;
    for (int64_t t = from; t < to; t++) {
      int32_t begin = (int32_t)lane_begin(job, g, block->start + t), end = (int32_t)lane_end(job, g, block->start + t);
      vf s = choose((lanes >= begin) & (lanes < end), load(scores + t * GROUP_ROWS), splat(-__builtin_inff()));
      store(scores + t * GROUP_ROWS, s);
      most = vmax(s, most);
    }
  } else {
    int64_t t = from;
    for (; t + 2 <= to; t += 2) {
      most = vmax(load(scores + t * GROUP_ROWS), most);
      other = vmax(load(scores + (t + 1) * GROUP_ROWS), other);
    }
    if (t < to) most = vmax(load(scores + t * GROUP_ROWS), most);
    most = vmax(most, other);
  }
  vf bound = choose(most == splat(-__builtin_inff()), splat(0), most);
  vf rescale = vexp2_nonpositive(load(most_at) - bound, EXP2_TERMS), sum = splat(0), sum_odd = splat(0);
  store(most_at, most);
  for (int64_t t = 0; t < from; t += PER_OPERAND) store((float *)weights + t / PER_OPERAND * GROUP_ROWS, splat(0));
#if COMPUTE_BF16
  for (int64_t t = from; t < to; t += 2) {
    vf even = vexp2_nonpositive(load(scores + t * GROUP_ROWS) - bound, EXP2_TERMS);
    vf odd = vexp2_nonpositive(load(scores + (t + 1) * GROUP_ROWS) - bound, EXP2_TERMS);
    sum += even;
    sum_odd += odd;
    store((float *)weights + t / 2 * GROUP_ROWS, interleave(even, odd));
  }
#else
  for (int64_t t = from; t < to; t++) {
    vf p = vexp2_nonpositive(load(scores + t * GROUP_ROWS) - bound, EXP2_TERMS);
    sum += p;
    store(weights + t * GROUP_ROWS, p);
  }
#endif
  for (int64_t t = to; t < block->rows; t += PER_OPERAND) store((float *)weights + t / PER_OPERAND * GROUP_ROWS, splat(0));
  store(total_at, load(total_at) * rescale + (sum + sum_odd));
  return rescale;
}

/* One group against one block. `fresh`: the group's first. */
static void attend_block(const apus_training_job *job, const row_group *g, const key_block *block, int fresh, fetches *ahead,
                         float *scratch) {
  const apus_training_scratch *w = &job->scratch;
  float *scores = scratch + w->scores, *rescale = scratch + w->rescale;
  operand *weights = operands_at(scratch, w->weights);
  for (int64_t row = 0; row < block->rows; row += MICRO_ROWS) {
    int rows = (int)at_most(MICRO_ROWS, block->rows - row);
    fetch_step(&ahead->block);
    fetch_step(&ahead->tile);
    vector_range seen = seen_vectors(job, g, block->start + row, rows);
    if (seen.from < seen.to)
      multiply_scores(operands_at(scratch, w->key_rows), operands_at(g->at, w->query_lanes),
                      job->shape.key_own + job->shape.key_once, job->key_width, row, rows, seen, scores + row * GROUP_ROWS);
  }
  for (int64_t v = 0; v < GROUP_VECTORS; v++)
    store(rescale + v * LANES, soften_vector(job, g, block, v, scores, weights));
  for (int64_t lane = 0; lane < g->count; lane += MICRO_ROWS) {
    int rows = (int)at_most(MICRO_ROWS, whole(g->count, 2) - lane);
    vector_range seen = seen_keys(job, g, block, lane, rows);
    if (seen.from >= seen.to) {
      if (!fresh) continue;
      seen.to = seen.from = 0;
    }
    product p = {.depth = seen.to - seen.from,
                 .a = weights + seen.from * GROUP_ROWS + lane,
                 .a_stride = GROUP_ROWS,
                 .b = operands_at(scratch, w->value_pairs) + seen.from * job->value_width,
                 .b_stride = job->value_width,
                 .origin = fresh ? FROM_ZERO : FROM_RESCALED,
                 .rescale = rescale + lane,
                 .c = g->at + w->sums + lane * job->value_width,
                 .c_stride = job->value_width};
    multiply_by_columns(&p, rows, job->shape.value);
  }
}

/* Divides by the denominators and writes the group's rows. */
static void finish_group(const apus_training_job *job, const apus_training_item *item, const row_group *g) {
  const apus_training_scratch *w = &job->scratch;
  for (int64_t r = 0; r < g->count; r++) {
    int64_t row = g->first + r, token = job->shape.starts[item->sequence] + row / job->group_size;
    int64_t head = item->kv_head * job->group_size + row % job->group_size;
    float total = g->at[w->total + r];
    copy_scaled(g->at + w->sums + r * job->value_width, job->shape.value, 1 / total,
                job->output.base + token * job->output.token_stride + head * job->output.head_stride);
    job->log_sum_exp[token * job->shape.heads + head] = g->at[w->most + r] * LN_2 + logf(total);
  }
}

/* The queries of the next item, and the rows that this one will write. */
static row_fetch fetch_tile_forward(const apus_training_job *job, const apus_training_item *item, int64_t steps) {
  const apus_training_attention *s = &job->shape;
  const apus_training_input *q = &job->operands.query;
  row_fetch f = {.count = 0};
  add_query_stream(&f, job, item, job->output.base, job->output.token_stride, job->output.head_stride, item->row_begin,
                   item->row_end, s->value);
  if (item + 1 < job->items + job->item_count)
    add_query_stream(&f, job, item + 1, q->base, q->token_stride, q->head_stride, item[1].row_begin, item[1].row_end,
                     s->key_own + s->key_once);
  spread(&f, steps);
  return f;
}

static void forward_item(const apus_training_job *job, const apus_training_item *item, float *scratch) {
  row_group groups[TILE_GROUPS];
  int started[TILE_GROUPS] = {0};
  int count = cut_groups(job, item->row_begin, item->row_end, scratch, groups);
  for (int i = 0; i < count; i++) begin_group_forward(job, item, &groups[i], scratch + job->scratch.staging);
  int64_t begin = key_begin(job, &groups[0], 0), end = key_end(job, &groups[count - 1], groups[count - 1].count - 1);
  int64_t blocks = (end - begin) / BLOCK_KEYS + 1;
  fetches ahead = {.tile = fetch_tile_forward(job, item, (blocks + 1) / 2 * count * STEPS_OF_GROUP)};
  for (int64_t start = begin / BLOCK_KEYS * BLOCK_KEYS; start < end; start += BLOCK_KEYS) {
    key_block block = {start, at_most(BLOCK_KEYS, end - start), whole(at_most(BLOCK_KEYS, end - start), 2)};
    pack_block_forward(job, item, &block, scratch);
    int seeing = 0;
    for (int i = 0; i < count; i++) seeing += !sees_nothing(job, &groups[i], &block);
    ahead.block = (row_fetch){.count = 0};
    add_key_streams(&ahead.block, job, item, start + BLOCK_KEYS, at_most(start + 2 * BLOCK_KEYS, end));
    spread(&ahead.block, seeing * STEPS_OF_GROUP);
    for (int i = 0; i < count; i++) {
      if (sees_nothing(job, &groups[i], &block)) continue;
      attend_block(job, &groups[i], &block, !started[i], &ahead, scratch);
      started[i] = 1;
    }
  }
  for (int i = 0; i < count; i++) finish_group(job, item, &groups[i]);
}
