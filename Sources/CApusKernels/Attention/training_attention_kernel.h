/* Training attention of one item, compiled once per instruction set: the including file sets LANES, COMPUTE_BF16, ISA and the
 * target attribute.
 *
 * Scores are kept transposed, [key][query]: keys are then read as they lie, softmax reduces down the lanes instead of across
 * them, and in the backward pass both the log-sum-exp and the row sums of output times gradient are vectors. Per group of 64
 * queries and block of 64 keys:
 *
 *     forward    S = K Q^T;  P = 2^(S - bound);  O = O rescale + P^T V
 *     backward   S = K Q^T;  P = 2^(S - lse);  dP = V dO^T;  dS = P (dP - delta)
 *                dV += P dO;  dK += dS Q;  dQ += dS^T K
 *
 * Queries are multiplied by scale * log2(e) when they are packed, so that the exponentials are powers of two.
 *
 * Rows of queries run over tokens and, within a token, over the heads of the KV head. What lies wholly behind the diagonal
 * or the window is left out by whole vectors of lanes in S and dP, and element by element along the reduced axis of the
 * other products. */
#include <math.h>

#include "../Elementwise/vector_math.h"
#include "training_attention_internal.h"
#include "transpose.h"

#if COMPUTE_BF16
typedef uint32_t operand; /* a pair of bf16 */
#define PER_OPERAND 2
#define EXP2_TERMS 5
#else
typedef float operand;
#define PER_OPERAND 1
#define EXP2_TERMS 7
#endif

#define LOG2_E 1.44269504f
#define LN_2 0.693147181f
enum { GROUP_VECTORS = GROUP_ROWS / LANES };

#include "training_attention_pack.h"
#include "training_attention_products.h"

/* A group of query rows: [first, first + count) of its KV head. */
typedef struct {
  int64_t first, count;
  float *at; /* its part of the scratch */
} row_group;

/* Lanes [begin, end) of the group that see a key. */
INLINE int64_t lane_begin(const apus_training_job *job, const row_group *g, int64_t key) {
  return at_least(0, at_most(g->count, key * job->group_size - g->first));
}
INLINE int64_t lane_end(const apus_training_job *job, const row_group *g, int64_t key) {
  return at_least(0, at_most(g->count, (key + job->window) * job->group_size - g->first));
}

/* Keys [begin, end) that a lane sees. */
INLINE int64_t key_begin(const apus_training_job *job, const row_group *g, int64_t lane) {
  return at_least(0, (g->first + lane) / job->group_size + 1 - job->window);
}
INLINE int64_t key_end(const apus_training_job *job, const row_group *g, int64_t lane) {
  return (g->first + lane) / job->group_size + 1;
}

/* A block of keys of the sequence. */
typedef struct {
  int64_t start, count; /* tokens */
  int64_t rows;         /* count rounded up to an even number; the row more is zero and seen by nobody */
} key_block;

/* Rows [row, row + rows) of scores: the vectors of lanes [from, to) that hold what anyone sees. */
typedef struct {
  int64_t from, to;
} vector_range;

INLINE vector_range seen_vectors(const apus_training_job *job, const row_group *g, int64_t key, int64_t keys) {
  vector_range range = {lane_begin(job, g, key) / LANES, (lane_end(job, g, key + keys - 1) + LANES - 1) / LANES};
  return range;
}

/* Keys [from, to) of a block, in operands, that the lanes [lane, lane + lanes) see. */
INLINE vector_range seen_keys(const apus_training_job *job, const row_group *g, const key_block *block, int64_t lane,
                              int64_t lanes) {
  int64_t last = at_most(lane + lanes, g->count) - 1;
  int64_t from = at_least(0, key_begin(job, g, lane) - block->start);
  int64_t to = at_most(block->rows, key_end(job, g, last) - block->start);
  vector_range range = {from / PER_OPERAND, (to + PER_OPERAND - 1) / PER_OPERAND};
  return range;
}

INLINE int sees_nothing(const apus_training_job *job, const row_group *g, const key_block *block) {
  return lane_begin(job, g, block->start) >= g->count || lane_end(job, g, block->start + block->count - 1) <= 0;
}

INLINE operand *operands_at(float *scratch, int64_t offset) { return (operand *)(scratch + offset); }

/* Depth of a product along a width. */
INLINE int64_t depth_of(int64_t width) { return (width + PER_OPERAND - 1) / PER_OPERAND; }

/* scores[row][lane] for the keys [row, row + rows) of a block and the seen lanes: keys (or values) times the group's
 * queries (or gradients). */
INLINE void multiply_scores(const operand *left, const operand *right, int64_t width, int64_t stride, int64_t row, int rows,
                            vector_range seen, float *scores) {
  product p = {.depth = depth_of(width),
               .a = left + row * (stride / PER_OPERAND),
               .a_stride = stride / PER_OPERAND,
               .b = right + seen.from * LANES,
               .b_stride = GROUP_ROWS,
               .origin = FROM_ZERO,
               .c = scores + seen.from * LANES,
               .c_stride = GROUP_ROWS};
  multiply_by_rows(&p, rows, (seen.to - seen.from) * LANES);
}

/* Cuts a tile of query rows into groups. */
INLINE int cut_groups(const apus_training_job *job, int64_t row_begin, int64_t row_end, float *scratch, row_group *groups) {
  int count = 0;
  for (int64_t row = row_begin; row < row_end; row += GROUP_ROWS, count++)
    groups[count] = (row_group){row, at_most(GROUP_ROWS, row_end - row), scratch + count * job->scratch.group};
  return count;
}

#include "training_attention_fetch.h"

/* What is fetched during a tile and during a block. */
typedef struct {
  row_fetch tile, block;
} fetches;

#include "training_attention_backward.h"
#include "training_attention_forward.h"

#define JOINED_OF(a, b) a##b
#define JOINED(a, b) JOINED_OF(a, b)
#define TEXT_OF(a) #a
#define TEXT(a) TEXT_OF(a)

const apus_training_kernels JOINED(apus_training_, ISA) = {
    .name = TEXT(ISA), .pairs = PER_OPERAND == 2, .forward = forward_item, .backward = backward_item};
