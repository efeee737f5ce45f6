/* Times the training form of attention, forward and backward, in float32 and bf16.
 *
 *   clang -O2 -I Sources/CApusKernels/include Benchmarks/training_attention.c $(find Sources/CApusKernels -name '*.c') \
 *       -lm -lpthread -ldl -o training_attention
 *   ./training_attention [threads] [number of the shape]
 *
 * GFLOP/s count the products of scores that are not masked: 2 of them a score forward, 5 backward. Times are the least of
 * several runs. Benchmarks/training_attention.py times PyTorch on the same shapes. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "apus_training_attention.h"

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *random_floats(int64_t count) {
  float *p = malloc(sizeof(float) * (size_t)(count + 1));
  uint32_t state = 1;
  for (int64_t i = 0; p && i < count; i++) {
    state = state * 1664525u + 1013904223u;
    p[i] = (float)(state >> 9) / 2796202.7f - 1.5f;
  }
  if (!p) exit(1);
  return p;
}

typedef struct {
  int64_t sequences, tokens, heads, kv_heads, key_own, key_once, value;
} case_shape;

static const case_shape cases[] = {
    {16, 256, 4, 2, 64, 0, 64}, {8, 512, 8, 4, 64, 0, 64}, {8, 512, 8, 8, 64, 32, 64},
    {1, 2048, 8, 4, 64, 0, 64}, {1, 2048, 8, 8, 64, 32, 64},
};

static void time_case(apus_pool *pool, const case_shape *c, apus_training_arithmetic arithmetic) {
  int64_t rows = c->sequences * c->tokens, key = c->key_own + c->key_once, starts[17];
  for (int64_t s = 0; s <= c->sequences; s++) starts[s] = s * c->tokens;
  int64_t q = rows * c->heads * key, k = rows * c->kv_heads * c->key_own, once = rows * c->key_once;
  int64_t v = rows * c->kv_heads * c->value, o = rows * c->heads * c->value;
  int64_t counts[10] = {q, k, once, v, o, o, q, k, once, v};
  float *data[10], *lse = random_floats(rows * c->heads);
  for (int i = 0; i < 10; i++) data[i] = random_floats(counts[i]);
  apus_training_attention shape = {c->heads,     c->kv_heads, c->key_own, c->key_once, c->value,
                                   c->sequences, starts,      0,          1 / sqrtf((float)key), arithmetic};
  apus_training_operands read = {{data[0], c->heads * key, key},
                                 {data[1], c->kv_heads * c->key_own, c->key_own},
                                 {data[2], c->key_once, 0},
                                 {data[3], c->kv_heads * c->value, c->value}};
  apus_training_gradients written = {{data[6], c->heads * key, key, 0},
                                     {data[7], c->kv_heads * c->key_own, c->key_own, 0},
                                     {data[8], c->key_once, 0, 0},
                                     {data[9], c->kv_heads * c->value, c->value, 0}};
  apus_training_output output = {data[4], c->heads * c->value, c->value, 0};
  apus_training_input saved = {data[4], c->heads * c->value, c->value}, gradient = {data[5], c->heads * c->value, c->value};
  double forward = 1e9, backward = 1e9, begin = seconds();
  for (int run = 0; run < 3 || seconds() - begin < 0.4; run++) {
    double t0 = seconds();
    apus_training_attention_forward(pool, &shape, &read, output, lse);
    double t1 = seconds();
    apus_training_attention_backward(pool, &shape, &read, saved, lse, gradient, &written);
    double t2 = seconds();
    forward = fmin(forward, t1 - t0);
    backward = fmin(backward, t2 - t1);
  }
  double scores = (double)(c->sequences * c->heads) * (double)(c->tokens * (c->tokens + 1) / 2);
  printf("%2lld x %4lld, heads %lld/%lld, key %lld + %lld, value %lld, %-10s forward %7.3f ms %5.1f GFLOP/s   "
         "backward %7.3f ms %5.1f GFLOP/s   both %7.3f ms\n",
         (long long)c->sequences, (long long)c->tokens, (long long)c->heads, (long long)c->kv_heads, (long long)c->key_own,
         (long long)c->key_once, (long long)c->value, apus_training_attention_isa(arithmetic), forward * 1e3,
         2e-9 * scores * (double)(key + c->value) / forward, backward * 1e3,
         2e-9 * scores * (double)(3 * key + 2 * c->value) / backward, (forward + backward) * 1e3);
  for (int i = 0; i < 10; i++) free(data[i]);
  free(lse);
}

int main(int argc, char **argv) {
  apus_pool *pool = apus_pool_create(argc > 1 ? atoi(argv[1]) : 0);
  int only = argc > 2 ? atoi(argv[2]) : -1;
  for (int i = 0; pool && i < (int)(sizeof cases / sizeof *cases); i++) {
    if (only >= 0 && only != i) continue;
    time_case(pool, &cases[i], APUS_TRAINING_BF16);
    time_case(pool, &cases[i], APUS_TRAINING_F32);
  }
  apus_pool_destroy(pool);
}
