/* What the attention driver and the kernels of each instruction set share. */
#ifndef APUS_ATTENTION_INTERNAL_H
#define APUS_ATTENTION_INTERNAL_H

#include "apus_attention.h"

enum {
  BLOCK_TOKENS = 64,  /* keys that are packed and multiplied at once */
  SPAN_BLOCKS = 4,    /* blocks reduced by online softmax before spans are merged */
  SPAN_TOKENS = BLOCK_TOKENS * SPAN_BLOCKS,
  TILE_ROWS = 96,     /* most query rows (tokens x heads of a group) that share one packed block */
  MICRO_ROWS = 6,     /* query rows whose sums are held in registers */
  MOST_LANES = 16
};

/* Query rows [row_begin, row_end) of one group of one sequence (row = token * heads per group + head) over the spans
 * [span_begin, span_end). `partial` < 0: the item owns its rows' results; otherwise the index of its partial result. */
typedef struct {
  int32_t sequence, group;
  int64_t row_begin, row_end, span_begin, span_end, partial;
} apus_attention_item;

/* A tile's or a span's running state: sums [rows][padded width], maximum and denominator per row. */
typedef struct {
  float *sums, *most, *total;
} apus_attention_state;

typedef struct {
  const apus_cache_layout *layout;
  const apus_cache_batch *batch;
  const apus_attention_parameters *parameters;
  const char *pages;
  const float *query;
  int64_t query_token_stride, query_head_stride;
  apus_attention_rows output;
  float *log_sum_exp;
  int64_t heads_per_group, padded_width; /* of an output row */
  const apus_attention_item *items;
  float *partials; /* each: sums, most, total of TILE_ROWS rows at most */
  int64_t partial_floats, partial_rows;
  char *scratch;
  int64_t scratch_bytes;
} apus_attention_job;

typedef struct {
  /* One item; `scratch` is the worker's. */
  void (*item)(const apus_attention_job *job, const apus_attention_item *item, char *scratch);
  /* Merges the partial results first ..< first + count of one (sequence, group) and writes its rows. */
  void (*combine)(const apus_attention_job *job, const apus_attention_item *first, int64_t count);
} apus_attention_kernels;

extern const apus_attention_kernels apus_attention_portable;
#if defined(__x86_64__)
extern const apus_attention_kernels apus_attention_avx2, apus_attention_avx512, apus_attention_avx512bf16;
#endif

static inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/* Width of the packed key with each part rounded up to whole pairs. */
static inline int64_t packed_key_width(const apus_cache_layout *l) { return round_up(l->shared, 2) + round_up(l->key, 2); }

/* Floats in a state of `rows` rows. */
static inline int64_t state_floats(int64_t rows, int64_t padded_width) {
  return rows * padded_width + 2 * round_up(rows, MOST_LANES);
}

static inline apus_attention_state state_at(float *base, int64_t rows, int64_t padded_width) {
  float *most = base + rows * padded_width;
  return (apus_attention_state){base, most, most + round_up(rows, MOST_LANES)};
}

#endif
