/* Row kernels of training, compiled once per instruction set: the including file sets LANES, ISA and the target attribute. */
#include <math.h>

#include "../Elementwise/vector_math.h"
#include "training_table.h"

typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint16_t vh_unaligned __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef double vd __attribute__((vector_size(8 * LANES)));

/* Rounds to nearest even; NaN stays NaN. */
INLINE vh narrow(vf v) {
  vu bits = (vu)v;
  vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  vi nan = v != v;
  return __builtin_convertvector((rounded & ~(vu)nan) | (((bits >> 16) | 0x40u) & (vu)nan), vh);
}

INLINE void put(void *y, int bf16, int64_t i, vf v) {
  if (bf16)
    *(vh_unaligned *)((uint16_t *)y + i) = narrow(v);
  else
    store((float *)y + i, v);
}

INLINE void put_tail(void *y, int bf16, int64_t i, int64_t count, vf v) {
  if (!bf16) {
    store_tail((float *)y + i, count, v);
    return;
  }
  vh lanes = narrow(v);
  for (int lane = 0; lane < LANES; lane++)
    if (lane < count) ((uint16_t *)y)[i + lane] = lanes[lane];
}

/* Runs the code given for every vector of a row with i its first element and count its lanes (LANES, or fewer in the last). FULL is a
 * constant in each expansion, so that loads and stores of whole vectors stay plain. */
#define VECTORS(width, ...)                                        \
  do {                                                             \
    int64_t i = 0;                                                 \
    for (; i + LANES <= (width); i += LANES) {                     \
      enum { FULL = 1 };                                           \
      const int64_t count = LANES;                                 \
      (void)count;                                                 \
      __VA_ARGS__                                                  \
    }                                                              \
    if (i < (width)) {                                             \
      enum { FULL = 0 };                                           \
      const int64_t count = (width) - i;                           \
      (void)count;                                                 \
      __VA_ARGS__                                                  \
    }                                                              \
  } while (0)
#define GET(p) (FULL ? load((p) + i) : load_tail((p) + i, count, 0))
#define SET(p, v) (FULL ? store((p) + i, (v)) : store_tail((p) + i, count, (v)))
#define PUT(y, bf16, v) (FULL ? put((y), (bf16), i, (v)) : put_tail((y), (bf16), i, count, (v)))

static float rms_norm(int64_t width, const float *x, const float *addend, float *sum, const float *weight, float eps, int bf16,
                      void *y) {
  vf squares = {0};
  if (sum) {
    VECTORS(width, {
      vf v = GET(x) + GET(addend);
      SET(sum, v);
      squares += v * v;
    });
    x = sum;
  } else {
    VECTORS(width, {
      vf v = GET(x);
      squares += v * v;
    });
  }
  const float inverse = 1.0f / sqrtf(sum_lanes(squares) / (float)width + eps);
  VECTORS(width, { PUT(y, bf16, GET(x) * inverse * GET(weight)); });
  return inverse;
}

/* With z = x * inverse: dx = inverse * (w dy - z mean(z w dy)), dw = z dy. */
static void rms_norm_backward(int64_t width, const float *x, const float *weight, float inverse, const float *dy,
                              const float *base, float *dx, float *dweight) {
  vf products = {0};
  VECTORS(width, { products += GET(x) * GET(weight) * GET(dy); });
  const float factor = sum_lanes(products) * inverse * inverse / (float)width;
  VECTORS(width, {
    vf v = GET(x);
    vf d = GET(dy);
    vf result = (GET(weight) * d - v * factor) * inverse;
    if (base) result += GET(base);
    SET(dweight, GET(dweight) + v * inverse * d);
    SET(dx, result);
  });
}

static void swiglu(int64_t width, const float *gate, const float *up, int bf16, void *y) {
  VECTORS(width, {
    vf g = GET(gate);
    PUT(y, bf16, g / (1.0f + vexp(-g)) * GET(up));
  });
}

static void swiglu_backward(int64_t width, const float *gate, const float *up, const float *dy, int bf16, void *dgate,
                            void *dup) {
  VECTORS(width, {
    vf g = GET(gate);
    vf u = GET(up);
    vf d = GET(dy);
    vf sigmoid = 1.0f / (1.0f + vexp(-g));
    vf silu = g * sigmoid;
    PUT(dgate, bf16, d * u * (sigmoid + silu * (1.0f - sigmoid)));
    PUT(dup, bf16, d * silu);
  });
}

static void accumulate(int64_t width, const float *x, float *sum) {
  VECTORS(width, { SET(sum, GET(sum) + GET(x)); });
}

static void accumulate_bf16(int64_t width, const uint16_t *x, float *sum) {
  for (int64_t i = 0; i < width; i++) {
    uint32_t bits = (uint32_t)x[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    sum[i] += value;
  }
}

static float cross_entropy(int64_t width, const float *logits, int64_t target, float scale, int bf16, void *d) {
  vf most_lanes = splat(-__builtin_inff());
  VECTORS(width, { most_lanes = vmax(FULL ? load(logits + i) : load_tail(logits + i, count, -__builtin_inff()), most_lanes); });
  const float most = max_lanes(most_lanes);
  vf sums = {0};
  VECTORS(width, {
    sums += vexp_nonpositive((FULL ? load(logits + i) : load_tail(logits + i, count, -__builtin_inff())) - most);
  });
  const float total = sum_lanes(sums), at_target = logits[target] - most;
  if (d) {
    const float factor = scale / total;
    VECTORS(width, { PUT(d, bf16, vexp_nonpositive(GET(logits) - most) * factor); });
    /* The target's entry is computed apart, in float32, so that it is rounded once. */
    const float own = scale * (expf(at_target) / total - 1.0f);
    put_tail(d, bf16, target, 1, splat(own));
  }
  return at_target - logf(total);
}

static double sum_of_squares(int64_t count_, const float *x) {
  vd sums = {0};
  VECTORS(count_, {
    vd v = __builtin_convertvector(GET(x), vd);
    sums += v * v;
  });
  double sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
  return sum;
}

INLINE vf square_root(vf v) {
#if LANES == 16
  return (vf)_mm512_sqrt_ps((__m512)v);
#elif LANES == 8
  return (vf)_mm256_sqrt_ps((__m256)v);
#else
  for (int lane = 0; lane < LANES; lane++) v[lane] = sqrtf(v[lane]);
  return v;
#endif
}

static void adamw(int64_t count_, const apus_adamw_parameters *p, const float *gradient, float *weights, float *m, float *v,
                  uint16_t *narrowed) {
  const float step = p->learning_rate / p->correction1, root = 1.0f / sqrtf(p->correction2);
  const float keep = 1.0f - p->learning_rate * p->weight_decay;
  VECTORS(count_, {
    vf g = GET(gradient) * p->gradient_scale;
    vf first = GET(m) * p->beta1 + g * (1.0f - p->beta1);
    vf second = GET(v) * p->beta2 + g * g * (1.0f - p->beta2);
    vf w = GET(weights) * keep - first * step / (square_root(second) * root + p->epsilon);
    SET(m, first);
    SET(v, second);
    SET(weights, w);
    if (narrowed) PUT(narrowed, 1, w);
  });
}

#define JOINED_OF(a, b) a##b
#define JOINED(a, b) JOINED_OF(a, b)

const apus_training_table JOINED(apus_training_rows_, ISA) = {
    .rms_norm = rms_norm,
    .rms_norm_backward = rms_norm_backward,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .accumulate = accumulate,
    .accumulate_bf16 = accumulate_bf16,
    .cross_entropy = cross_entropy,
    .sum_of_squares = sum_of_squares,
    .adamw = adamw,
};
