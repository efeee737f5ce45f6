/* Rows that will be read or written soon are brought into the second cache a few lines at a time between products: rows of a
 * head are too short and too far apart for the hardware to foresee them. */

/* `rows` rows of `lines` cache lines each. */
typedef struct {
  const float *at;
  int64_t stride, rows, lines;
} row_stream;

enum { MOST_STREAMS = 6, LINE_FLOATS = 16, STEPS_OF_GROUP = BLOCK_KEYS / MICRO_ROWS };

typedef struct {
  row_stream streams[MOST_STREAMS];
  int count;
  int64_t lines, lines_per_step;
} row_fetch;

INLINE void add_stream(row_fetch *f, const float *at, int64_t stride, int64_t rows, int64_t width) {
  if (rows <= 0 || width <= 0) return;
  row_stream stream = {at, stride, rows, (width + LINE_FLOATS - 1) / LINE_FLOATS};
  f->streams[f->count++] = stream;
  f->lines += stream.rows * stream.lines;
}

/* Query rows [begin, end) of a KV head, or of what has their shape. Heads that lie far apart are left to themselves. */
INLINE void add_query_stream(row_fetch *f, const apus_training_job *job, const apus_training_item *item, const float *base,
                             int64_t token_stride, int64_t head_stride, int64_t begin, int64_t end, int64_t width) {
  if (job->group_size > 1 && head_stride > 2 * width) return;
  int64_t token = begin / job->group_size, last = (end - 1) / job->group_size;
  add_stream(f,
             base + (job->shape.starts[item->sequence] + token) * token_stride + item->kv_head * job->group_size * head_stride,
             token_stride, last - token + 1, (job->group_size - 1) * head_stride + width);
}

/* Keys and values of the tokens [begin, end). */
INLINE void add_key_streams(row_fetch *f, const apus_training_job *job, const apus_training_item *item, int64_t begin,
                            int64_t end) {
  const apus_training_input *own = &job->operands.key_own, *value = &job->operands.value;
  int64_t row = job->shape.starts[item->sequence] + begin;
  if (job->shape.key_own)
    add_stream(f, own->base + row * own->token_stride + item->kv_head * own->head_stride, own->token_stride, end - begin,
               job->shape.key_own);
  add_stream(f, value->base + row * value->token_stride + item->kv_head * value->head_stride, value->token_stride,
             end - begin, job->shape.value);
}

/* Spreads what was added over `steps` steps. */
INLINE void spread(row_fetch *f, int64_t steps) { f->lines_per_step = (f->lines + steps - 1) / steps; }

INLINE void fetch_step(row_fetch *f) {
  for (int64_t lines = f->lines_per_step; lines > 0 && f->count > 0;) {
    row_stream *s = &f->streams[f->count - 1];
    for (int64_t i = 0; i < s->lines; i++) __builtin_prefetch(s->at + i * LINE_FLOATS, 0, 2);
    lines -= s->lines;
    s->at += s->stride;
    if (--s->rows == 0) f->count--;
  }
}
