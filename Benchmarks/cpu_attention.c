/* Times attention over the paged cache on the CPU: processor time of one thread, medians, with the cache out of the CPU's
 * caches for decoding. From the root of the repository:
 *
 *   K=Sources/CApusKernels
 *   clang -O2 -I$K/include Benchmarks/cpu_attention.c $K/Attention/[a-z]*.c $K/Elementwise/[a-z]*.c $K/Pool/[a-z]*.c \
 *     -lm -lpthread -o cpu_attention && ./cpu_attention
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apus_attention.h"

enum { REPEATS = 9, COLD_BYTES = 64 << 20 };

typedef struct {
  const char *name;
  int heads, groups, shared, key, value, once, page, layers, length, queries, batch;
} shape;

static const shape shapes[] = {
    {"SmolLM2 prefill 512", 9, 3, 0, 64, 64, 0, 64, 30, 512, 512, 1},
    {"SmolLM2 decode 64", 9, 3, 0, 64, 64, 0, 64, 30, 64, 1, 1},
    {"SmolLM2 decode 512", 9, 3, 0, 64, 64, 0, 64, 30, 512, 1, 1},
    {"SmolLM2 decode 16 x 192", 9, 3, 0, 64, 64, 0, 64, 30, 192, 1, 16},
    {"MHA 16 x 128 decode 4096", 16, 16, 0, 128, 128, 0, 64, 4, 4096, 1, 1},
    {"GQA 12/4 x 64 decode 512, page 1", 12, 4, 0, 64, 64, 0, 1, 12, 512, 1, 1},
    {"GQA 12/4 x 64 decode 512", 12, 4, 0, 64, 64, 0, 64, 12, 512, 1, 1},
    {"MLA 16 x (512 + 64) decode 4096", 16, 1, 512, 64, 0, 1, 64, 8, 4096, 1, 1},
    {"GLA-2 16 x (256 + 64) decode 4096", 16, 2, 256, 64, 0, 1, 64, 8, 4096, 1, 1},
};

static const struct {
  const char *name;
  apus_cache_type type;
  int64_t bytes;
} types[] = {{"f32", APUS_CACHE_F32, 4}, {"bf16", APUS_CACHE_BF16, 2}, {"q8_0", APUS_CACHE_Q8_0, 1}};

static int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/* As CacheLayout.kernelLayout does. */
static apus_cache_layout layout_of(const shape *s, apus_cache_type type, int64_t element) {
  apus_cache_layout l = {.query_heads = s->heads, .groups = s->groups, .shared = s->shared, .key = s->key,
                         .value = s->value, .key_once = s->once, .shared_type = type, .key_type = type,
                         .value_type = type, .page_size = s->page};
  if (!s->shared && !s->once && type != APUS_CACHE_Q8_0 && s->page % 64 == 0) {
    l.blocked = 1;
    l.value_offset = round_up(s->key * element, 4) * 64;
    l.block_bytes = l.value_offset + round_up(s->value, 16) * element * 64;
    l.group_stride = l.block_bytes * (s->page / 64);
    l.page_bytes = l.group_stride * s->groups;
    return l;
  }
  int64_t shared = apus_cache_part_bytes(type, s->shared), value = apus_cache_part_bytes(type, s->value);
  int64_t key = apus_cache_part_bytes(type, s->key);
  l.row_stride = round_up(shared + value + (s->once ? 0 : key), 16);
  l.group_stride = round_up(l.row_stride * s->page, 128);
  l.value_offset = shared;
  l.key_offset = shared + value;
  l.once_offset = l.group_stride * s->groups;
  l.once_stride = s->once ? round_up(key, 16) : 0;
  l.page_bytes = l.once_offset + round_up(l.once_stride * s->page, 128);
  return l;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void *memory(size_t bytes) {
  void *base = aligned_alloc(128, (size_t)round_up((int64_t)bytes, 128));
  if (!base) exit(1);
  return memset(base, 0, bytes);
}

static void measure(const shape *s, int type, unsigned char *cold) {
  apus_cache_layout l = layout_of(s, types[type].type, types[type].bytes);
  int64_t pages = (s->length + s->page - 1) / s->page, rows = (int64_t)s->length * s->batch;
  int64_t layer_bytes = pages * s->batch * l.page_bytes, output_width = s->shared + s->value;
  int64_t query_width = s->shared + s->key, key_groups = s->once ? 1 : s->groups;
  int32_t *table = memory(4 * (size_t)(pages * s->batch));
  int64_t *offsets = memory(8 * 64), *lengths = memory(8 * 64), *ends = memory(8 * 64);
  for (int64_t i = 0; i < pages * s->batch; i++) table[i] = (int32_t)i;
  for (int i = 0; i <= s->batch; i++) {
    offsets[i] = i * pages;
    lengths[i] = s->length;
    ends[i] = (int64_t)i * s->length;
  }
  char *cache = memory((size_t)(layer_bytes * s->layers + 128));
  size_t widest = (size_t)rows * (size_t)(s->heads * (query_width + output_width));
  float *values = memory(4 * widest), *output = memory(4 * widest), *lse = memory(4 * (size_t)(rows * s->heads));
  for (size_t i = 0; i < widest; i++) values[i] = (float)((i * 2654435761u >> 8) & 0xffff) / 65536 - 0.5f;
  apus_cache_batch batch = {s->batch, table, offsets, lengths, ends};
  apus_attention_parameters parameters = {.scale = 0.125f, .causal = 1};
  for (int layer = 0; layer < s->layers; layer++)
    apus_cache_append(NULL, &l, &batch, cache + layer * layer_bytes,
                      (apus_cache_rows){values, s->groups * s->shared, s->shared},
                      (apus_cache_rows){values, key_groups * s->key, s->key},
                      (apus_cache_rows){values, s->groups * s->value, s->value});
  for (int i = 0; i <= s->batch; i++) ends[i] = (int64_t)i * s->queries;
  void *workspace = memory(apus_attend_workspace(NULL, &l, &batch, &parameters));
  double times[REPEATS];
  for (int r = 0; r < REPEATS; r++) {
    if (s->queries == 1)
      for (int64_t i = 0; i < COLD_BYTES; i += 64) cold[i]++;
    double start = seconds();
    for (int layer = 0; layer < s->layers; layer++)
      apus_attend(NULL, &l, &batch, &parameters, cache + layer * layer_bytes, values, s->heads * query_width, query_width,
                  (apus_attention_rows){output, s->heads * output_width, output_width}, lse, workspace);
    times[r] = seconds() - start;
  }
  qsort(times, REPEATS, sizeof *times, by_value);
  double time = times[REPEATS / 2], tokens = 0;
  for (int q = 0; q < s->queries; q++) tokens += s->length - s->queries + q + 1;
  double operations = 2 * tokens * s->batch * s->layers * (double)s->heads * (double)(query_width + output_width);
  printf("%-36s %-5s %9.3f ms %7.1f GFLOP/s %6.1f GB/s\n", s->name, types[type].name, time * 1e3,
         operations / time * 1e-9, (double)(layer_bytes * s->layers) / time * 1e-9);
  free(table);
  free(offsets);
  free(lengths);
  free(ends);
  free(cache);
  free(values);
  free(output);
  free(lse);
  free(workspace);
}

int main(void) {
  unsigned char *cold = memory(COLD_BYTES);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int type = 0; type < 3; type++) measure(&shapes[i], type, cold);
  free(cold);
}
