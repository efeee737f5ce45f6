/* Writing new tokens into the pages. */
#include <math.h>
#include <string.h>

#include "../Elementwise/elementwise_table.h"
#include "apus_attention.h"

enum { PARALLEL_ELEMENTS = 16384, GRAIN_TOKENS = 8 };

int64_t apus_cache_part_bytes(apus_cache_type type, int64_t width) {
  switch (type) {
    case APUS_CACHE_F32: return 4 * width;
    case APUS_CACHE_Q8_0: return (width + 31) / 32 * 34;
    default: return 2 * width;
  }
}

/* Scale: the largest magnitude over 127, rounded to f16; the integers are those of the rounded scale. */
static void quantize_block(const apus_elementwise_table *table, const float *x, int64_t count, char *block) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = fabsf(x[i]) > most || x[i] != x[i] ? fabsf(x[i]) : most;
  float scale = most / 127;
  uint16_t half;
  table->narrow_f16(1, &scale, &half);
  table->widen_f16(1, &half, &scale);
  memcpy(block, &half, 2);
  float inverse = scale > 0 ? 1 / scale : 0;
  int8_t *values = (int8_t *)block + 2;
  for (int64_t i = 0; i < 32; i++) {
    float scaled = i < count ? x[i] * inverse : 0;
    scaled = scaled > 127 ? 127 : scaled < -127 ? -127 : scaled;
    values[i] = scaled == scaled ? (int8_t)rintf(scaled) : 0;
  }
}

static void write_part(const apus_elementwise_table *table, apus_cache_type type, const float *x, int64_t width, char *to) {
  switch (type) {
    case APUS_CACHE_F32: memcpy(to, x, (size_t)width * 4); break;
    case APUS_CACHE_BF16: table->narrow_bf16(width, x, (uint16_t *)to); break;
    case APUS_CACHE_F16: table->narrow_f16(width, x, (uint16_t *)to); break;
    case APUS_CACHE_Q8_0:
      for (int64_t at = 0; at < width; at += 32)
        quantize_block(table, x + at, width - at < 32 ? width - at : 32, to + at / 32 * 34);
      break;
  }
}

typedef struct {
  const apus_elementwise_table *table;
  const apus_cache_layout *layout;
  const apus_cache_batch *batch;
  char *pages;
  apus_cache_rows shared, key, value;
} append_context;

static void append_token(const append_context *c, int64_t row, int64_t page, int64_t slot) {
  const apus_cache_layout *l = c->layout;
  char *base = c->pages + page * l->page_bytes;
  for (int64_t group = 0; group < l->groups; group++) {
    char *to = base + group * l->group_stride + slot * l->row_stride;
    if (l->shared)
      write_part(c->table, l->shared_type, c->shared.base + row * c->shared.token_stride + group * c->shared.group_stride,
                 l->shared, to);
    if (l->value)
      write_part(c->table, l->value_type, c->value.base + row * c->value.token_stride + group * c->value.group_stride,
                 l->value, to + l->value_offset);
    if (l->key && !l->key_once)
      write_part(c->table, l->key_type, c->key.base + row * c->key.token_stride + group * c->key.group_stride, l->key,
                 to + l->key_offset);
  }
  if (l->key && l->key_once)
    write_part(c->table, l->key_type, c->key.base + row * c->key.token_stride, l->key,
               base + l->once_offset + slot * l->once_stride);
}

static void append_rows(void *context, int64_t begin, int64_t end, int worker) {
  const append_context *c = context;
  const apus_cache_batch *b = c->batch;
  (void)worker;
  int64_t s = 0;
  for (int64_t row = begin; row < end; row++) {
    while (row >= b->query_offsets[s + 1]) s++;
    int64_t position = b->lengths[s] - (b->query_offsets[s + 1] - row);
    append_token(c, row, b->page_table[b->table_offsets[s] + position / c->layout->page_size],
                 position % c->layout->page_size);
  }
}

void apus_cache_append(apus_pool *pool, const apus_cache_layout *layout, const apus_cache_batch *batch, void *pages,
                       apus_cache_rows shared, apus_cache_rows key, apus_cache_rows value) {
  append_context context = {apus_elementwise(), layout, batch, pages, shared, key, value};
  int64_t rows = batch->query_offsets[batch->sequences];
  int64_t elements = rows * (layout->groups * (layout->shared + layout->value + layout->key));
  if (!pool || elements < PARALLEL_ELEMENTS)
    append_rows(&context, 0, rows, 0);
  else
    apus_pool_run(pool, rows, GRAIN_TOKENS, append_rows, &context);
}
