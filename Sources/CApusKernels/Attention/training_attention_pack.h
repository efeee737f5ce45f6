/* Rows of queries, keys, values and gradients as the products read them. All are first staged as float32 rows that are
 * scaled and filled with zeros up to a multiple of WIDTH_MULTIPLE. */

/* to[i] = from[i] * factor. */
INLINE void copy_scaled(const float *from, int64_t width, float factor, float *to) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) store(to + i, load(from + i) * factor);
  for (; i < width; i++) to[i] = from[i] * factor;
}

INLINE void clear(float *at, int64_t count) { memset(at, 0, sizeof(float) * (size_t)count); }

/* The rows [first, first + count) of a sequence's queries of one KV head (row = token * group size + head), or of what has
 * their shape; then zeros up to `padded` rows. */
static void stage_queries(const apus_training_job *job, const apus_training_item *item, apus_training_input rows, int64_t first,
                          int64_t count, int64_t padded, int64_t width, int64_t stride, float factor, float *to) {
  const float *base = rows.base + job->shape.starts[item->sequence] * rows.token_stride +
                      item->kv_head * job->group_size * rows.head_stride;
  int64_t token = first / job->group_size, head = first % job->group_size;
  for (int64_t r = 0; r < count; r++, to += stride) {
    copy_scaled(base + token * rows.token_stride + head * rows.head_stride, width, factor, to);
    clear(to + width, stride - width);
    if (++head == job->group_size) {
      head = 0;
      token++;
    }
  }
  clear(to, (padded - count) * stride);
}

/* Columns [column, column + width) of `count` rows of keys or values from token `first` of the sequence on. */
static void stage_part(const apus_training_job *job, const apus_training_item *item, apus_training_input rows, int64_t head,
                       int64_t first, int64_t count, int64_t column, int64_t width, int64_t stride, float *to) {
  const float *from = rows.base + (job->shape.starts[item->sequence] + first) * rows.token_stride + head * rows.head_stride;
  for (int64_t t = 0; t < count; t++, from += rows.token_stride) copy_scaled(from, width, 1, to + t * stride + column);
}

static void clear_around(int64_t count, int64_t padded, int64_t width, int64_t stride, float *to) {
  if (width < stride)
    for (int64_t t = 0; t < count; t++) clear(to + t * stride + width, stride - width);
  clear(to + count * stride, (padded - count) * stride);
}

/* Tokens [first, first + count) of a sequence: keys as [own | once]. */
static void stage_keys(const apus_training_job *job, const apus_training_item *item, int64_t first, int64_t count,
                       int64_t padded, float *to) {
  const apus_training_attention *s = &job->shape;
  int64_t stride = job->key_width;
  if (s->key_own) stage_part(job, item, job->operands.key_own, item->kv_head, first, count, 0, s->key_own, stride, to);
  if (s->key_once) stage_part(job, item, job->operands.key_once, 0, first, count, s->key_own, s->key_once, stride, to);
  clear_around(count, padded, s->key_own + s->key_once, stride, to);
}

static void stage_values(const apus_training_job *job, const apus_training_item *item, int64_t first, int64_t count,
                         int64_t padded, float *to) {
  stage_part(job, item, job->operands.value, item->kv_head, first, count, 0, job->shape.value, job->value_width, to);
  clear_around(count, padded, job->shape.value, job->value_width, to);
}

#if COMPUTE_BF16

/* The pairs (low[i], high[i]) of bf16. */
INLINE vf interleave(vf low, vf high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                                         4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vf)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
}

/* low's 16 elements, then high's, as bf16. */
INLINE vf narrow(vf low, vf high) { return (vf)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

/* v as products see it. */
INLINE vf rounded(vf v) { return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)), 16); }

/* [row][width / 2] of pairs along the row. */
static void pack_rows(const float *staged, int64_t rows, int64_t width, operand *to) {
  for (int64_t i = 0; i < rows * width; i += 2 * LANES)
    store((float *)to + i / 2, narrow(load(staged + i), load(staged + i + LANES)));
}

/* [row / 2][width] of pairs of rows. */
static void pack_pairs(const float *staged, int64_t rows, int64_t width, operand *to) {
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t i = 0; i < width; i += LANES)
      store((float *)to + r / 2 * width + i,
            interleave(load(staged + r * width + i), load(staged + (r + 1) * width + i)));
}

/* [width / 2][GROUP_ROWS] of pairs along the row, for whole vectors of rows. */
static void pack_lanes(const float *staged, int64_t rows, int64_t width, operand *to) {
  for (int64_t r = 0; r < rows; r += LANES)
    for (int64_t i = 0; i < width; i += 2 * LANES) {
      vf tile[LANES];
#pragma clang loop unroll(full)
      for (int j = 0; j < LANES; j++) {
        const float *row = staged + (r + j) * width + i;
        tile[j] = narrow(load(row), load(row + LANES));
      }
      transpose(tile);
#pragma clang loop unroll(full)
      for (int j = 0; j < LANES; j++) store((float *)to + (i / 2 + j) * GROUP_ROWS + r, tile[j]);
    }
}

#else

INLINE vf rounded(vf v) { return v; }

/* [width][GROUP_ROWS], for whole vectors of rows. */
static void pack_lanes(const float *staged, int64_t rows, int64_t width, operand *to) {
  for (int64_t r = 0; r < rows; r += LANES)
    for (int64_t i = 0; i < width; i += LANES) {
      vf tile[LANES];
#pragma clang loop unroll(full)
      for (int j = 0; j < LANES; j++) tile[j] = load(staged + (r + j) * width + i);
      transpose(tile);
#pragma clang loop unroll(full)
      for (int j = 0; j < LANES; j++) store(to + (i + j) * GROUP_ROWS + r, tile[j]);
    }
}

#endif
