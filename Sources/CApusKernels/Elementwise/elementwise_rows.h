/* Row kernels, compiled once per instruction set: the including file sets LANES, ISA and the target attribute. */
#include <math.h>

#include "elementwise_table.h"
#include "vector_math.h"

static float sum_of_squares(int64_t width, const float *x) {
  vf s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
  int64_t i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES) {
    vf a = load(x + i), b = load(x + i + LANES), c = load(x + i + 2 * LANES), d = load(x + i + 3 * LANES);
    s0 += a * a;
    s1 += b * b;
    s2 += c * c;
    s3 += d * d;
  }
  for (; i + LANES <= width; i += LANES) {
    vf a = load(x + i);
    s0 += a * a;
  }
  if (i < width) {
    vf a = load_tail(x + i, width - i, 0);
    s1 += a * a;
  }
  return sum_lanes((s0 + s1) + (s2 + s3));
}

static void rms_norm(int64_t width, const float *x, const float *weight, float weight_offset, float eps, float *y) {
  float factor = 1.0f / sqrtf(sum_of_squares(width, x) / (float)width + eps);
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    vf v = load(x + i) * factor;
    store(y + i, weight ? v * (load(weight + i) + weight_offset) : v);
  }
  for (; i < width; i++) y[i] = x[i] * factor * (weight ? weight[i] + weight_offset : 1.0f);
}

static void layer_norm(int64_t width, const float *x, const float *weight, const float *bias, float eps, float *y) {
  vf s0 = {0}, s1 = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= width; i += 2 * LANES) {
    s0 += load(x + i);
    s1 += load(x + i + LANES);
  }
  float sum = sum_lanes(s0 + s1);
  for (; i < width; i++) sum += x[i];
  float mean = sum / (float)width;
  s0 = s1 = (vf){0};
  for (i = 0; i + 2 * LANES <= width; i += 2 * LANES) {
    vf a = load(x + i) - mean, b = load(x + i + LANES) - mean;
    s0 += a * a;
    s1 += b * b;
  }
  float squares = sum_lanes(s0 + s1);
  for (; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
  float factor = 1.0f / sqrtf(squares / (float)width + eps);
  for (i = 0; i + LANES <= width; i += LANES) {
    vf v = (load(x + i) - mean) * factor;
    if (weight) v *= load(weight + i);
    if (bias) v += load(bias + i);
    store(y + i, v);
  }
  for (; i < width; i++) {
    float v = (x[i] - mean) * factor;
    y[i] = v * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
  }
}

static void add(int64_t width, const float *a, const float *b, float *y) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) store(y + i, load(a + i) + load(b + i));
  for (; i < width; i++) y[i] = a[i] + b[i];
}

/* y = f(x) over a row; the tail goes through the same vector code. */
#define MAP(width, x, y, expression)                                  \
  do {                                                                \
    int64_t i_ = 0;                                                   \
    for (; i_ + LANES <= (width); i_ += LANES) {                      \
      vf v = load((x) + i_);                                          \
      store((y) + i_, (expression));                                  \
    }                                                                 \
    if (i_ < (width)) {                                               \
      vf v = load_tail((x) + i_, (width) - i_, 0);                    \
      store_tail((y) + i_, (width) - i_, (expression));               \
    }                                                                 \
  } while (0)

/* y = f(x) * up, likewise. */
#define MAP_MULTIPLIED(width, x, up, y, expression)                                          \
  do {                                                                                       \
    int64_t i_ = 0;                                                                          \
    for (; i_ + LANES <= (width); i_ += LANES) {                                             \
      vf v = load((x) + i_);                                                                 \
      store((y) + i_, (expression) * load((up) + i_));                                       \
    }                                                                                        \
    if (i_ < (width)) {                                                                      \
      vf v = load_tail((x) + i_, (width) - i_, 0);                                           \
      store_tail((y) + i_, (width) - i_, (expression) * load_tail((up) + i_, (width) - i_, 0)); \
    }                                                                                        \
  } while (0)

static void scale_softcap(int64_t width, float scale, float cap, const float *x, float *y) {
  if (cap == 0) {
    MAP(width, x, y, v * scale);
  } else {
    float inner = scale / cap;
    MAP(width, x, y, vtanh(v * inner) * cap);
  }
}

static void silu_mul(int64_t width, const float *gate, const float *up, float *y) {
  MAP_MULTIPLIED(width, gate, up, y, v / (1.0f + vexp(-v)));
}

INLINE vf gelu_erf(vf v) { return (v * 0.5f) * (1.0f + verf(v * 0.70710678f)); }
INLINE vf gelu_tanh(vf v) {
  return (v * 0.5f) * (1.0f + vtanh((v * 0.79788456f) * (v * v * 0.044715f + 1.0f)));
}

static void gelu(int64_t width, int kind, const float *x, const float *up, float *y) {
  if (kind == 0 && up) {
    MAP_MULTIPLIED(width, x, up, y, gelu_erf(v));
  } else if (kind == 0) {
    MAP(width, x, y, gelu_erf(v));
  } else if (up) {
    MAP_MULTIPLIED(width, x, up, y, gelu_tanh(v));
  } else {
    MAP(width, x, y, gelu_tanh(v));
  }
}

static void rope(int64_t half, int style, const float *cosines, const float *sines, float *x) {
  if (style == 0) {
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
      vf a = load(x + i), b = load(x + half + i), c = load(cosines + i), s = load(sines + i);
      store(x + i, a * c - b * s);
      store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
      float a = x[i], b = x[half + i];
      x[i] = a * cosines[i] - b * sines[i];
      x[half + i] = b * cosines[i] + a * sines[i];
    }
  } else {
    for (int64_t i = 0; i < half; i++) {
      float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cosines[i] - b * sines[i];
      x[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
  }
}

/* The largest element; NaN elements are passed over. */
static float row_max(int64_t width, const float *x) {
  vf m0 = splat(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES) {
    m0 = vmax(load(x + i), m0);
    m1 = vmax(load(x + i + LANES), m1);
    m2 = vmax(load(x + i + 2 * LANES), m2);
    m3 = vmax(load(x + i + 3 * LANES), m3);
  }
  for (; i + LANES <= width; i += LANES) m0 = vmax(load(x + i), m0);
  if (i < width) m1 = vmax(load_tail(x + i, width - i, -__builtin_inff()), m1);
  return max_lanes(vmax(vmax(m0, m1), vmax(m2, m3)));
}

/* sum(exp(scale * (x - most))), keeping the terms in y where that is not NULL. */
static float sum_of_exponentials(int64_t width, float scale, float most, const float *x, float *y) {
  vf s0 = {0}, s1 = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= width; i += 2 * LANES) {
    vf a = vexp_nonpositive((load(x + i) - most) * scale), b = vexp_nonpositive((load(x + i + LANES) - most) * scale);
    if (y) {
      store(y + i, a);
      store(y + i + LANES, b);
    }
    s0 += a;
    s1 += b;
  }
  for (; i < width; i += LANES) {
    int64_t count = width - i < LANES ? width - i : LANES;
    vf a = vexp_nonpositive((load_tail(x + i, count, -__builtin_inff()) - most) * scale);
    if (count < LANES) {
      float lanes[LANES];
      store(lanes, a);
      for (int64_t lane = count; lane < LANES; lane++) lanes[lane] = 0;
      a = load(lanes);
    }
    if (y) store_tail(y + i, count, a);
    s0 += a;
  }
  return sum_lanes(s0 + s1);
}

static void softmax(int64_t width, float scale, const float *x, float *y) {
  float most = row_max(width, x);
  if (most == -__builtin_inff()) {
    int nan = 0;
    for (int64_t i = 0; i < width; i++) nan |= x[i] != x[i];
    for (int64_t i = 0; i < width; i++) y[i] = nan ? __builtin_nanf("") : 0;
    return;
  }
  float factor = 1.0f / sum_of_exponentials(width, scale, most, x, y);
  MAP(width, y, y, v * factor);
}

static float log_sum_exp(int64_t width, const float *x) {
  float most = row_max(width, x);
  if (most == __builtin_inff() || most == -__builtin_inff()) {
    for (int64_t i = 0; i < width; i++)
      if (x[i] != x[i]) return x[i];
    return most;
  }
  return most + logf(sum_of_exponentials(width, 1, most, x, 0));
}

static void log_softmax(int64_t width, const float *x, float *y) {
  float total = log_sum_exp(width, x);
  MAP(width, x, y, v - total);
}

static int64_t argmax(int64_t width, const float *x) {
  vf most = splat(-__builtin_inff());
  vi nan = {0};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    vf v = load(x + i);
    nan |= v != v;
    most = vmax(v, most);
  }
  float best = max_lanes(most);
  for (; i < width; i++) {
    if (x[i] != x[i]) return -1;
    best = x[i] > best ? x[i] : best;
  }
  for (int lane = 0; lane < LANES; lane++)
    if (nan[lane]) return -1;
  for (i = 0; i < width; i++)
    if (x[i] == best) return i;
  return -1;
}

static void widen_bf16(int64_t count, const uint16_t *x, float *y) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits = (uint32_t)x[i] << 16;
    memcpy(y + i, &bits, 4);
  }
}

static void narrow_bf16(int64_t count, const float *x, uint16_t *y) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    y[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40 : rounded);
  }
}

static void widen_f16(int64_t count, const uint16_t *x, float *y) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t magnitude = x[i] & 0x7fffu, sign = (uint32_t)(x[i] & 0x8000u) << 16;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    normal = magnitude >= 0x7c00u ? normal + (112u << 23) : normal;
    float subnormal = (float)(int32_t)magnitude * 0x1p-24f; /* exact */
    uint32_t small;
    memcpy(&small, &subnormal, 4);
    uint32_t bits = (magnitude < 0x400u ? small : normal) | sign;
    memcpy(y + i, &bits, 4);
  }
}

static void narrow_f16(int64_t count, const float *x, uint16_t *y) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    float value;
    memcpy(&value, &magnitude, 4);
    float shifted = value + 0.5f; /* below 2^-14: the sum's last place is 2^-24, that of a subnormal half */
    uint32_t small;
    memcpy(&small, &shifted, 4);
    small -= 0x3f000000u;
    uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    uint32_t half = magnitude < (113u << 23) ? small : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    y[i] = (uint16_t)(half | sign);
  }
}

static void widen_f8e4m3(int64_t count, const uint8_t *x, float *y) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t magnitude = x[i] & 0x7fu, sign = (uint32_t)(x[i] & 0x80u) << 24;
    uint32_t normal = (magnitude << 20) + (120u << 23);
    float subnormal = (float)(int32_t)magnitude * 0x1p-9f; /* exact */
    uint32_t small;
    memcpy(&small, &subnormal, 4);
    uint32_t bits = magnitude < 8 ? small : normal;
    bits = (magnitude == 0x7f ? 0x7fc00000u : bits) | sign;
    memcpy(y + i, &bits, 4);
  }
}

static void narrow_f8e4m3(int64_t count, const float *x, uint8_t *y) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    uint32_t sign = (bits >> 24) & 0x80u, magnitude = bits & 0x7fffffffu;
    float value;
    memcpy(&value, &magnitude, 4);
    float shifted = value + 16384.0f; /* below 2^-6: the sum's last place is 2^-9, that of a subnormal */
    uint32_t small;
    memcpy(&small, &shifted, 4);
    small -= 0x46800000u;
    uint32_t normal = (magnitude - (120u << 23) + 0x7ffffu + ((magnitude >> 20) & 1)) >> 20;
    uint32_t byte = magnitude < (121u << 23) ? small : normal;
    byte = magnitude > 0x43e00000u ? 0x7eu : byte;
    byte = magnitude > 0x7f800000u ? 0x7fu : byte;
    y[i] = (uint8_t)(byte | sign);
  }
}

static void narrow_q8_0(const float *x, void *block) {
  vf most = {0};
  vi nan = {0};
  for (int i = 0; i < 32; i += LANES) {
    vf v = load(x + i);
    nan |= v != v;
    most = vmax(vabs(v), most);
  }
  float scale = max_lanes(most) / 127;
  for (int lane = 0; lane < LANES; lane++)
    if (nan[lane]) scale = __builtin_nanf("");
  uint16_t half;
  narrow_f16(1, &scale, &half);
  widen_f16(1, &half, &scale);
  memcpy(block, &half, 2);
  float inverse = scale > 0 ? 1 / scale : 0;
  int32_t integers[32];
  for (int i = 0; i < 32; i += LANES) {
    vf scaled = load(x + i) * inverse;
    scaled = choose(scaled > 127.0f, splat(127), choose(scaled < -127.0f, splat(-127), scaled));
    vi rounded = (vi)(scaled + 12582912.0f) - 0x4b400000; /* 1.5 * 2^23: the integer lands in the low bits */
    memcpy(integers + i, &rounded, sizeof rounded);
  }
  int8_t *values = (int8_t *)block + 2;
  for (int i = 0; i < 32; i++) values[i] = (int8_t)integers[i];
}

#define SCAN_CHUNK 2048

static int64_t non_finite_32(int64_t count, const uint32_t *x) {
  for (int64_t start = 0; start < count; start += SCAN_CHUNK) {
    int64_t end = start + SCAN_CHUNK < count ? start + SCAN_CHUNK : count;
    uint32_t found = 0;
    for (int64_t i = start; i < end; i++) found |= (x[i] & 0x7f800000u) == 0x7f800000u;
    if (found)
      for (int64_t i = start; i < end; i++)
        if ((x[i] & 0x7f800000u) == 0x7f800000u) return i;
  }
  return -1;
}

static int64_t non_finite_16(int64_t count, const uint16_t *x, uint16_t exponent) {
  for (int64_t start = 0; start < count; start += SCAN_CHUNK) {
    int64_t end = start + SCAN_CHUNK < count ? start + SCAN_CHUNK : count;
    uint16_t found = 0;
    for (int64_t i = start; i < end; i++) found |= (x[i] & exponent) == exponent;
    if (found)
      for (int64_t i = start; i < end; i++)
        if ((x[i] & exponent) == exponent) return i;
  }
  return -1;
}

#define STRING_OF(name) #name
#define STRING(name) STRING_OF(name)
#define JOINED_OF(a, b) a##b
#define JOINED(a, b) JOINED_OF(a, b)

const apus_elementwise_table JOINED(apus_elementwise_, ISA) = {
    .name = STRING(ISA),
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .scale_softcap = scale_softcap,
    .silu_mul = silu_mul,
    .gelu = gelu,
    .rope = rope,
    .softmax = softmax,
    .log_softmax = log_softmax,
    .log_sum_exp = log_sum_exp,
    .argmax = argmax,
    .widen_bf16 = widen_bf16,
    .narrow_bf16 = narrow_bf16,
    .widen_f16 = widen_f16,
    .narrow_f16 = narrow_f16,
    .widen_f8e4m3 = widen_f8e4m3,
    .narrow_f8e4m3 = narrow_f8e4m3,
    .narrow_q8_0 = narrow_q8_0,
    .non_finite_32 = non_finite_32,
    .non_finite_16 = non_finite_16,
};
