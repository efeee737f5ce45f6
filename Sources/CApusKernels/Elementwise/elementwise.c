#include "apus_elementwise.h"

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "elementwise_table.h"

const apus_elementwise_table *apus_elementwise(void) {
#if defined(__x86_64__)
  int level = apus_isa_level();
  if (level >= ISA_AVX512) return &apus_elementwise_avx512;
  if (level == ISA_AVX2) return &apus_elementwise_avx2;
#endif
  return &apus_elementwise_portable;
}

/* ---- rows over the pool ---- */

/* Elements below which waking a worker costs more than it saves, and the least a worker takes at once. */
enum { PARALLEL_ELEMENTS = 32768, GRAIN_ELEMENTS = 8192 };

typedef struct {
  const apus_elementwise_table *table;
  int64_t width;
  const char *x, *z;
  char *y, *w;
  int64_t x_step, z_step, y_step, w_step; /* bytes from row to row */
  const float *weight, *bias;
  float a, b;
  int64_t kind, inner;
} job;

static void run(apus_pool *pool, int64_t rows, int64_t width, void (*body)(void *, int64_t, int64_t, int), job *work) {
  if (rows <= 0) return;
  work->table = apus_elementwise();
  work->width = width;
  if (!pool || rows == 1 || rows * width < PARALLEL_ELEMENTS) {
    body(work, 0, rows, 0);
    return;
  }
  int64_t grain = GRAIN_ELEMENTS / (width > 0 ? width : 1);
  apus_pool_run(pool, rows, grain > 0 ? grain : 1, body, work);
}

#define FLOATS(strided) (int64_t)(strided) * (int64_t)sizeof(float)
#define X (const float *)(j->x + row * j->x_step)
#define Z (const float *)(j->z + row * j->z_step)
#define Y (float *)(j->y + row * j->y_step)
#define W (float *)(j->w + row * j->w_step)
#define ROWS(name, call)                                                          \
  static void name(void *context, int64_t begin, int64_t end, int worker) {       \
    const job *j = context;                                                       \
    (void)worker;                                                                 \
    for (int64_t row = begin; row < end; row++) { call; }                         \
  }

ROWS(rms_norm_rows, j->table->rms_norm(j->width, X, j->weight, j->a, j->b, Y))
void apus_rms_norm_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                       const float *weight, float weight_offset, float eps, float *y, int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)y, .y_step = FLOATS(y_stride),
           .weight = weight, .a = weight_offset, .b = eps};
  run(pool, rows, width, rms_norm_rows, &j);
}

ROWS(add_rms_norm_rows, j->table->add(j->width, X, W, W);
     j->table->rms_norm(j->width, W, j->weight, j->a, j->b, Y))
void apus_add_rms_norm_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                           float *residual, int64_t residual_stride, const float *weight, float weight_offset,
                           float eps, float *y, int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)y, .y_step = FLOATS(y_stride),
           .w = (char *)residual, .w_step = FLOATS(residual_stride), .weight = weight, .a = weight_offset, .b = eps};
  run(pool, rows, width, add_rms_norm_rows, &j);
}

ROWS(layer_norm_rows, j->table->layer_norm(j->width, X, j->weight, j->bias, j->a, Y))
void apus_layer_norm_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                         const float *weight, const float *bias, float eps, float *y, int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)y, .y_step = FLOATS(y_stride),
           .weight = weight, .bias = bias, .a = eps};
  run(pool, rows, width, layer_norm_rows, &j);
}

ROWS(add_rows, j->table->add(j->width, X, Z, Y))
void apus_add_f32(apus_pool *pool, int64_t rows, int64_t width, const float *a, int64_t a_stride, const float *b,
                  int64_t b_stride, float *y, int64_t y_stride) {
  job j = {.x = (const char *)a, .x_step = FLOATS(a_stride), .z = (const char *)b, .z_step = FLOATS(b_stride),
           .y = (char *)y, .y_step = FLOATS(y_stride)};
  run(pool, rows, width, add_rows, &j);
}

ROWS(scale_softcap_rows, j->table->scale_softcap(j->width, j->a, j->b, X, Y))
void apus_scale_softcap_f32(apus_pool *pool, int64_t rows, int64_t width, float scale, float cap, const float *x,
                            int64_t x_stride, float *y, int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)y, .y_step = FLOATS(y_stride),
           .a = scale, .b = cap};
  run(pool, rows, width, scale_softcap_rows, &j);
}

ROWS(silu_mul_rows, j->table->silu_mul(j->width, X, Z, Y))
void apus_silu_mul_f32(apus_pool *pool, int64_t rows, int64_t width, const float *gate, int64_t gate_stride,
                       const float *up, int64_t up_stride, float *y, int64_t y_stride) {
  job j = {.x = (const char *)gate, .x_step = FLOATS(gate_stride), .z = (const char *)up, .z_step = FLOATS(up_stride),
           .y = (char *)y, .y_step = FLOATS(y_stride)};
  run(pool, rows, width, silu_mul_rows, &j);
}

ROWS(gelu_rows, j->table->gelu(j->width, (int)j->kind, X, j->z ? Z : NULL, Y))
void apus_gelu_f32(apus_pool *pool, int64_t rows, int64_t width, apus_gelu_kind kind, const float *x, int64_t x_stride,
                   const float *up, int64_t up_stride, float *y, int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .z = (const char *)up, .z_step = FLOATS(up_stride),
           .y = (char *)y, .y_step = FLOATS(y_stride), .kind = kind};
  run(pool, rows, width, gelu_rows, &j);
}

ROWS(softmax_rows, j->table->softmax(j->width, j->a, X, Y))
void apus_softmax_f32(apus_pool *pool, int64_t rows, int64_t width, float scale, const float *x, int64_t x_stride,
                      float *y, int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)y, .y_step = FLOATS(y_stride), .a = scale};
  run(pool, rows, width, softmax_rows, &j);
}

ROWS(log_softmax_rows, j->table->log_softmax(j->width, X, Y))
void apus_log_softmax_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride, float *y,
                          int64_t y_stride) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)y, .y_step = FLOATS(y_stride)};
  run(pool, rows, width, log_softmax_rows, &j);
}

ROWS(log_sum_exp_rows, *(Y) = j->table->log_sum_exp(j->width, X))
void apus_log_sum_exp_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride,
                          float *result) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)result, .y_step = sizeof(float)};
  run(pool, rows, width, log_sum_exp_rows, &j);
}

ROWS(argmax_rows, *(int64_t *)(j->y + row * j->y_step) = j->table->argmax(j->width, X))
void apus_argmax_f32(apus_pool *pool, int64_t rows, int64_t width, const float *x, int64_t x_stride, int64_t *result) {
  job j = {.x = (const char *)x, .x_step = FLOATS(x_stride), .y = (char *)result, .y_step = sizeof(int64_t)};
  run(pool, rows, width, argmax_rows, &j);
}

/* ---- rotary embedding ---- */

void apus_rope_tables(int64_t tokens, const int64_t *positions, int64_t rotary_width, const double *inverse_frequencies,
                      double attention_factor, float *cos_rows, float *sin_rows) {
  int64_t half = rotary_width / 2;
  for (int64_t token = 0; token < tokens; token++)
    for (int64_t i = 0; i < half; i++) {
      double angle = (double)positions[token] * inverse_frequencies[i];
      cos_rows[token * half + i] = (float)(attention_factor * cos(angle));
      sin_rows[token * half + i] = (float)(attention_factor * sin(angle));
    }
}

ROWS(rope_rows, for (int64_t head = 0; head < j->inner; head++)
         j->table->rope(j->width, (int)j->kind, X, Z, Y + head * j->w_step))
void apus_rope_f32(apus_pool *pool, int64_t tokens, int64_t heads, int64_t rotary_width, apus_rope_style style,
                   const float *cos_rows, const float *sin_rows, float *x, int64_t token_stride, int64_t head_stride) {
  int64_t half = rotary_width / 2;
  job j = {.x = (const char *)cos_rows, .x_step = FLOATS(half), .z = (const char *)sin_rows, .z_step = FLOATS(half),
           .y = (char *)x, .y_step = FLOATS(token_stride), .w_step = head_stride, .inner = heads, .kind = style};
  j.table = apus_elementwise();
  j.width = half;
  if (!pool || tokens * heads * rotary_width < PARALLEL_ELEMENTS) {
    rope_rows(&j, 0, tokens, 0);
  } else {
    int64_t grain = GRAIN_ELEMENTS / (heads * rotary_width);
    apus_pool_run(pool, tokens, grain > 0 ? grain : 1, rope_rows, &j);
  }
}

/* ---- conversions and checks ---- */

static int64_t bytes_of(apus_float_type type) { return type == APUS_FLOAT_F32 ? 4 : type == APUS_FLOAT_F8E4M3 ? 1 : 2; }

static void convert_row(const job *j, const char *x, char *y) {
  const apus_elementwise_table *t = j->table;
  switch (j->kind) {
    case APUS_FLOAT_F32 * 4 + APUS_FLOAT_F32: memmove(y, x, (size_t)j->width * 4); break;
    case APUS_FLOAT_BF16 * 4 + APUS_FLOAT_F32: t->widen_bf16(j->width, (const uint16_t *)x, (float *)y); break;
    case APUS_FLOAT_F16 * 4 + APUS_FLOAT_F32: t->widen_f16(j->width, (const uint16_t *)x, (float *)y); break;
    case APUS_FLOAT_F8E4M3 * 4 + APUS_FLOAT_F32: t->widen_f8e4m3(j->width, (const uint8_t *)x, (float *)y); break;
    case APUS_FLOAT_F32 * 4 + APUS_FLOAT_BF16: t->narrow_bf16(j->width, (const float *)x, (uint16_t *)y); break;
    case APUS_FLOAT_F32 * 4 + APUS_FLOAT_F16: t->narrow_f16(j->width, (const float *)x, (uint16_t *)y); break;
    case APUS_FLOAT_F32 * 4 + APUS_FLOAT_F8E4M3: t->narrow_f8e4m3(j->width, (const float *)x, (uint8_t *)y); break;
    default: break;
  }
}

ROWS(convert_rows, convert_row(j, j->x + row * j->x_step, j->y + row * j->y_step))
void apus_convert(apus_pool *pool, int64_t rows, int64_t width, apus_float_type from, const void *x, int64_t x_stride,
                  apus_float_type to, void *y, int64_t y_stride) {
  job j = {.x = x, .x_step = x_stride * bytes_of(from), .y = y, .y_step = y_stride * bytes_of(to),
           .kind = from * 4 + to};
  run(pool, rows, width, convert_rows, &j);
}

typedef struct {
  const apus_elementwise_table *table;
  const char *x;
  int64_t count;
  apus_float_type type;
  _Atomic int64_t first;
} scan;

enum { SCAN_ELEMENTS = 1 << 16 };

static void scan_chunks(void *context, int64_t begin, int64_t end, int worker) {
  scan *s = context;
  (void)worker;
  for (int64_t chunk = begin; chunk < end; chunk++) {
    int64_t start = chunk * SCAN_ELEMENTS;
    int64_t count = s->count - start < SCAN_ELEMENTS ? s->count - start : SCAN_ELEMENTS;
    int64_t first = atomic_load_explicit(&s->first, memory_order_relaxed);
    if (first < start) return;
    int64_t found = s->type == APUS_FLOAT_F32
                        ? s->table->non_finite_32(count, (const uint32_t *)s->x + start)
                        : s->table->non_finite_16(count, (const uint16_t *)s->x + start,
                                                  s->type == APUS_FLOAT_BF16 ? 0x7f80 : 0x7c00);
    if (found < 0) continue;
    found += start;
    while (found < first && !atomic_compare_exchange_weak(&s->first, &first, found)) {
    }
    return;
  }
}

int64_t apus_find_non_finite(apus_pool *pool, int64_t count, apus_float_type type, const void *x) {
  if (type == APUS_FLOAT_F8E4M3) {
    for (int64_t i = 0; i < count; i++)
      if ((((const uint8_t *)x)[i] & 0x7f) == 0x7f) return i;
    return -1;
  }
  scan s = {.table = apus_elementwise(), .x = x, .count = count, .type = type, .first = INT64_MAX};
  int64_t chunks = (count + SCAN_ELEMENTS - 1) / SCAN_ELEMENTS;
  if (pool && chunks > 1)
    apus_pool_run(pool, chunks, 1, scan_chunks, &s);
  else
    scan_chunks(&s, 0, chunks, 0);
  return s.first == INT64_MAX ? -1 : s.first;
}
