/* Writing new tokens into the pages. */
#include <string.h>

#include "../Elementwise/elementwise_table.h"
#include "attention_internal.h"

enum { PARALLEL_ELEMENTS = 16384, GRAIN_TOKENS = 8, NARROWED = 64 };

int64_t apus_cache_part_bytes(apus_cache_type type, int64_t width) {
  switch (type) {
    case APUS_CACHE_F32: return 4 * width;
    case APUS_CACHE_Q8_0: return (width + 31) / 32 * 34;
    default: return 2 * width;
  }
}

static void write_part(const apus_elementwise_table *table, apus_cache_type type, const float *x, int64_t width, char *to) {
  switch (type) {
    case APUS_CACHE_F32: memcpy(to, x, (size_t)width * 4); break;
    case APUS_CACHE_BF16: table->narrow_bf16(width, x, (uint16_t *)to); break;
    case APUS_CACHE_F16: table->narrow_f16(width, x, (uint16_t *)to); break;
    case APUS_CACHE_Q8_0:
      for (; width >= 32; width -= 32, x += 32, to += 34) table->narrow_q8_0(x, to);
      if (width > 0) {
        float last[32] = {0};
        memcpy(last, x, (size_t)width * 4);
        table->narrow_q8_0(last, to);
      }
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

/* Blocks: one row of keys goes to a column, pairs at a time. */
static void write_key_column(const append_context *c, const float *x, char *block, int64_t token) {
  int64_t width = c->layout->key;
  if (c->layout->key_type == APUS_CACHE_F32) {
    float *to = (float *)block + token;
    for (int64_t i = 0; i < width; i++) to[i * BLOCK_TOKENS] = x[i];
    return;
  }
  uint32_t *to = (uint32_t *)block + token;
  for (int64_t i = 0; i < width; i += NARROWED) {
    uint16_t narrow[NARROWED + 1];
    int64_t count = width - i < NARROWED ? width - i : NARROWED;
    c->table->narrow_bf16(count, x + i, narrow);
    narrow[count] = 0;
    for (int64_t k = 0; k < count; k += 2) to[(i + k) / 2 * BLOCK_TOKENS] = narrow[k] | (uint32_t)narrow[k + 1] << 16;
  }
}

/* A row of values; bf16 pairs hold the token at an even place and, where `next` is not NULL, the one after it, else zero.
 * `odd`: x is the second of its pair and the first is there already. */
static void write_value_row(const append_context *c, const float *x, const float *next, int odd, char *block, int64_t token) {
  int64_t width = c->layout->value, padded = (width + 15) / 16 * 16;
  if (c->layout->value_type == APUS_CACHE_F32) {
    memcpy((float *)block + token * padded, x, (size_t)width * 4);
    if (next) memcpy((float *)block + (token + 1) * padded, next, (size_t)width * 4);
    return;
  }
  uint32_t *to = (uint32_t *)block + token / 2 * padded;
  for (int64_t i = 0; i < width; i += NARROWED) {
    uint16_t first[NARROWED], second[NARROWED] = {0};
    int64_t count = width - i < NARROWED ? width - i : NARROWED;
    c->table->narrow_bf16(count, x + i, first);
    if (next) c->table->narrow_bf16(count, next + i, second);
    for (int64_t k = 0; k < count; k++)
      to[i + k] = odd ? (to[i + k] & 0xffff) | (uint32_t)first[k] << 16 : first[k] | (uint32_t)second[k] << 16;
  }
}

/* The token of `row`, and the next one with it where `both`. */
static void append_to_block(const append_context *c, int64_t row, int both, int64_t page, int64_t slot) {
  const apus_cache_layout *l = c->layout;
  for (int64_t group = 0; group < l->groups; group++) {
    char *block = c->pages + page * l->page_bytes + group * l->group_stride + slot / BLOCK_TOKENS * l->block_bytes;
    int64_t token = slot % BLOCK_TOKENS;
    const float *key = c->key.base + row * c->key.token_stride + group * c->key.group_stride;
    const float *value = c->value.base + row * c->value.token_stride + group * c->value.group_stride;
    write_key_column(c, key, block, token);
    if (both) write_key_column(c, key + c->key.token_stride, block, token + 1);
    write_value_row(c, value, both ? value + c->value.token_stride : NULL, token % 2, block + l->value_offset, token);
  }
}

static void append_rows(void *context, int64_t begin, int64_t end, int worker) {
  const append_context *c = context;
  const apus_cache_batch *b = c->batch;
  (void)worker;
  int64_t s = 0;
  for (int64_t row = begin; row < end; row++) {
    while (row >= b->query_offsets[s + 1]) s++;
    int64_t position = b->lengths[s] - (b->query_offsets[s + 1] - row);
    int64_t page = b->page_table[b->table_offsets[s] + position / c->layout->page_size];
    int64_t slot = position % c->layout->page_size;
    if (!c->layout->blocked) {
      append_token(c, row, page, slot);
    } else if (position % 2 == 0) {
      append_to_block(c, row, row + 1 < b->query_offsets[s + 1], page, slot);
    } else if (row == b->query_offsets[s]) {
      append_to_block(c, row, 0, page, slot); /* all other odd places are written with the even one before */
    }
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
