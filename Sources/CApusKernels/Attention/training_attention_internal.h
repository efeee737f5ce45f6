/* What the driver of training attention and the kernels of each instruction set share. */
#ifndef APUS_TRAINING_ATTENTION_INTERNAL_H
#define APUS_TRAINING_ATTENTION_INTERNAL_H

#include <stddef.h>

#include "apus_training_attention.h"

enum {
  GROUP_ROWS = 64,   /* query rows that lie in the lanes of one matrix of scores */
  BLOCK_KEYS = 64,   /* keys of that matrix */
  TILE_GROUPS = 4,   /* groups that share one packed block of keys */
  TILE_ROWS = GROUP_ROWS * TILE_GROUPS,
  MICRO_ROWS = 6,    /* rows whose sums are held in registers */
  WIDTH_MULTIPLE = 32
};

/* Rows of gradients of keys or values [first ...), counted from the start of a sequence. */
typedef struct {
  float *base;
  int64_t stride, first;
  int32_t accumulate;
} apus_gradient_rows;

/* Query rows [row_begin, row_end) of one KV head of one sequence: row = token * heads per KV head + head. In the backward
 * pass, [key_begin, key_end) are the tokens they see, and the gradients of those are written to or summed in the rows given. */
typedef struct {
  int64_t sequence, kv_head, row_begin, row_end, key_begin, key_end;
  apus_gradient_rows own, once, value;
} apus_training_item;

/* Where a worker's scratch keeps what an item needs, in floats. A group's part is repeated TILE_GROUPS times. */
typedef struct {
  int64_t query_lanes, query_rows, d_output_lanes, d_output_rows; /* a group's operands */
  int64_t sums, most, total, bound, delta;                        /* a group's results and its numbers per row */
  int64_t group;                                                  /* floats of a group */
  int64_t key_rows, key_pairs, value_rows, value_pairs, staging;  /* a block's operands */
  int64_t d_key, d_value, scores, slopes, weights, d_scores, d_score_pairs, rescale;
  int64_t total_floats;
} apus_training_scratch;

typedef struct {
  apus_training_attention shape;
  apus_training_operands operands;
  apus_training_output output;
  float *log_sum_exp;
  apus_training_input saved_output, d_output;
  const float *saved_log_sum_exp;
  apus_training_gradients gradients;
  int64_t group_size;              /* query heads of a KV head */
  int64_t key_width, value_width;  /* of a row in scratch: rounded up to WIDTH_MULTIPLE */
  int64_t window;                  /* the shape's, or more than any sequence has */
  const apus_training_item *items;
  int64_t item_count;
  apus_training_scratch scratch;
} apus_training_job;

typedef struct {
  const char *name;
  int pairs; /* operands are pairs of bf16 */
  void (*forward)(const apus_training_job *job, const apus_training_item *item, float *scratch);
  void (*backward)(const apus_training_job *job, const apus_training_item *item, float *scratch);
} apus_training_kernels;

extern const apus_training_kernels apus_training_portable;
#if defined(__x86_64__)
extern const apus_training_kernels apus_training_avx2, apus_training_avx512, apus_training_avx512bf16;
#endif

static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t whole(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

#endif
