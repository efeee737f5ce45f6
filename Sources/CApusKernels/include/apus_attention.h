/* Attention over a paged cache on the CPU, for any geometry that CacheGeometry (ApusAttention) describes.
 *
 * Reduction order. Keys are taken in blocks of 64 tokens and spans of 256, counted from the start of the sequence; a row
 * is reduced block by block within a span, then span by span. So a row's result depends on its query, its sequence's
 * tokens and the instruction set alone: not on the other rows, how a prompt was cut into chunks, the page size, or threads.
 *
 * Arithmetic is float32 (products, sums and exponentials), except where every part of the cache is bf16 or q8_0 and the
 * CPU has AVX512_BF16: there queries, dequantised states and probabilities are rounded to bf16 before the products, whose
 * sums are float32. */
#ifndef APUS_ATTENTION_H
#define APUS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "apus_pool.h"

/* How elements lie in the cache. q8_0 blocks are an f16 scale and 32 int8; a part's last block is filled with zeros. */
typedef enum { APUS_CACHE_F32 = 0, APUS_CACHE_BF16 = 1, APUS_CACHE_F16 = 2, APUS_CACHE_Q8_0 = 3 } apus_cache_type;

/* Bytes that `width` elements take in a row. */
int64_t apus_cache_part_bytes(apus_cache_type type, int64_t width);

/* One layer's geometry and where a page keeps its parts (see CacheLayout). Offsets and strides in bytes.
 *
 * Rows: [group][token][shared | value | own key], then [token][key kept once].
 *
 * Blocks (`blocked`; keys and values separate, f32 or bf16, pages of whole blocks of 64 tokens): [group][block], a block
 * being what the products read, so that nothing is packed when it is read: float32 keys [key][64 tokens] and values
 * [64][value rounded up to 16]; or bf16 keys [ceil(key / 2)][64] of pairs (k[2 i], k[2 i + 1]) and values [32][value
 * rounded up to 16] of pairs (token 2 i, token 2 i + 1). The second of a pair that is not there is zero. */
typedef struct {
  int64_t query_heads, groups, shared, key, value;
  int32_t key_once;
  apus_cache_type shared_type, key_type, value_type;
  int64_t page_size, page_bytes;
  int64_t group_stride, row_stride, value_offset, key_offset; /* key_offset: within a row, if the key is not kept once */
  int64_t once_offset, once_stride;                           /* from the page's start */
  int32_t blocked;
  int64_t block_bytes; /* of a group's block; value_offset is then that of the values in it */
} apus_cache_layout;

/* Sequences of one step. Sequence s has `lengths[s]` tokens, of which the last `query_offsets[s + 1] - query_offsets[s]`
 * are its queries (at least one), in rows from query_offsets[s]. Its pages are page_table[table_offsets[s] ...]. */
typedef struct {
  int64_t sequences;
  const int32_t *page_table;
  const int64_t *table_offsets, *lengths, *query_offsets;
} apus_cache_batch;

/* Rows [tokens][groups][width] of float32, strides in elements. */
typedef struct {
  const float *base;
  int64_t token_stride, group_stride;
} apus_cache_rows;

/* Writes the batch's new tokens into `pages` (page p of this layer starts at pages + p * page_bytes). A part of width 0 is
 * not read; the key's group stride is not used where it is kept once. Rounds to nearest even. */
void apus_cache_append(apus_pool *pool, const apus_cache_layout *layout, const apus_cache_batch *batch, void *pages,
                       apus_cache_rows shared, apus_cache_rows key, apus_cache_rows value);

typedef struct {
  float scale;
  int32_t causal;
  int64_t window;     /* tokens a query sees, itself included; 0: all */
  float softcap;      /* 0: none */
  const float *sinks; /* [query_heads], or NULL */
} apus_attention_parameters;

/* Rows [tokens][heads][width] of float32 out of or into which attention reads or writes, strides in elements. */
typedef struct {
  float *base;
  int64_t token_stride, head_stride;
} apus_attention_rows;

/* Bytes of workspace that apus_attend needs for the same arguments. */
size_t apus_attend_workspace(apus_pool *pool, const apus_cache_layout *layout, const apus_cache_batch *batch,
                             const apus_attention_parameters *parameters);

/* Attention of every query of the batch over its sequence. query: [tokens][query_heads][shared + key]; output:
 * [tokens][query_heads][shared + value]; log_sum_exp: [tokens][query_heads], contiguous, natural logarithm, sinks
 * included. `workspace` is 64-byte aligned. Pages must lie in memory that is readable for 128 bytes past the last one. */
void apus_attend(apus_pool *pool, const apus_cache_layout *layout, const apus_cache_batch *batch,
                 const apus_attention_parameters *parameters, const void *pages, const float *query,
                 int64_t query_token_stride, int64_t query_head_stride, apus_attention_rows output, float *log_sum_exp,
                 void *workspace);

/* Merges attention over two disjoint sets of keys: (a, a_lse) := softmax-weighted mean of a and b. rows x width, strides in
 * elements. A row whose log-sum-exp is -infinity counts for nothing. */
void apus_attention_merge(apus_pool *pool, int64_t rows, int64_t width, float *a, int64_t a_stride, float *a_lse,
                          const float *b, int64_t b_stride, const float *b_lse);

#endif
