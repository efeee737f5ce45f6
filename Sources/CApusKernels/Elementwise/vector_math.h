/* Vector arithmetic in terms of clang's vector extensions, for files that compile the same code for several instruction
 * sets: define LANES (floats per vector) and set the target attribute before including. No include guard on purpose. */
#include <stdint.h>
#include <string.h>

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf_unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p) { return *(const vf_unaligned *)p; }
INLINE void store(float *p, vf v) { *(vf_unaligned *)p = v; }
INLINE vf splat(float v) { return (vf){0} + v; }
INLINE vf choose(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
INLINE vf vmax(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf vabs(vf v) { return (vf)((vi)v & 0x7fffffff); }

/* The last, incomplete vector of a row; missing lanes hold `fill`. */
INLINE vf load_tail(const float *p, int64_t count, float fill) {
  float lanes[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = i < count ? p[i] : fill;
  return load(lanes);
}
INLINE void store_tail(float *p, int64_t count, vf v) {
  float lanes[LANES];
  store(lanes, v);
  for (int i = 0; i < LANES; i++)
    if (i < count) p[i] = lanes[i];
}

/* The lanes 0, 1, 2 ... */
INLINE vi lane_numbers(void) {
#if LANES == 16
  return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
  return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
  return (vi){0, 1, 2, 3};
#endif
}

/* v with its lanes moved by half, a quarter, an eighth ... of the vector: every lane then holds the reduction. */
#if LANES == 16
#define FOLD(v, combine)                                                                                    \
  v = combine(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));      \
  v = combine(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));      \
  v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));      \
  v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif LANES == 8
#define FOLD(v, combine)                                              \
  v = combine(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)); \
  v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)); \
  v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
#else
#define FOLD(v, combine)                                  \
  v = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1)); \
  v = combine(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
#endif

INLINE vf vadd(vf a, vf b) { return a + b; }

INLINE float sum_lanes(vf v) {
  FOLD(v, vadd)
  return v[0];
}
INLINE float max_lanes(vf v) {
  FOLD(v, vmax)
  return v[0];
}

/* e^x of a bounded x: x = n ln 2 + r; e^r = 1 + r + r^2 P(r), P a minimax fit on |r| <= ln 2 / 2. */
#if LANES == 16
INLINE vf vexp_bounded(vf x) {
  vf whole = (vf)_mm512_roundscale_ps((__m512)(x * 1.44269504f), 0);
  vf r = x - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  vf p = r * 1.395060304e-3f + 8.368953425e-3f;
  p = p * r + 4.166620412e-2f;
  p = p * r + 1.666651831e-1f;
  p = p * r + 5.000000096e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)whole);
}
#endif

/* e^x within 2 units in the last place; 0 far below -87.3, infinity far above 88.3, in between one of them or the value; NaN for
 * NaN. */
INLINE vf vexp(vf x) {
#if LANES == 16
  /* e^-104 scales to 0, e^89 to infinity; NaN passes as the second operand. */
  return vexp_bounded((vf)_mm512_min_ps((__m512)splat(89.0f), _mm512_max_ps((__m512)splat(-104.0f), (__m512)x)));
#else
  vi low = x < -87.3f, high = x > 88.3f;
  vf bounded = choose(low, splat(-87.3f), choose(high, splat(88.3f), x));
  vf shifted = bounded * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the integer lands in the low bits */
  vi n = (vi)shifted - 0x4b400000;
  vf whole = shifted - 12582912.0f;
  vf r = bounded - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  vf p = r * 1.395060304e-3f + 8.368953425e-3f;
  p = p * r + 4.166620412e-2f;
  p = p * r + 1.666651831e-1f;
  p = p * r + 5.000000096e-1f;
  vf e = (p * r) * r + r + 1.0f;
  vf result = e * (vf)((n + 127) << 23);
  return choose(low, splat(0.0f), choose(high, splat(__builtin_inff()), result));
#endif
}

/* e^x for x <= 0 within 2 units in the last place; 0 for -infinity, NaN for NaN. */
INLINE vf vexp_nonpositive(vf x) {
#if LANES == 16
  return vexp_bounded((vf)_mm512_max_ps((__m512)splat(-104.0f), (__m512)x));
#else
  return vexp(x);
#endif
}

/* 2^x for x up to a little above 0, within 2 units in the last place (`terms` 7) or a relative 3e-6 (`terms` 5, enough for a
 * result that is rounded to bf16); 0 for -infinity, NaN for NaN. 2^x = 2^n P(r), r = x - n, P a minimax fit on |r| <= 1/2. */
INLINE vf vexp2_nonpositive(vf x, const int terms) {
#if LANES == 16
  vf bounded = (vf)_mm512_max_ps((__m512)splat(-151.0f), (__m512)x);
  vf whole = (vf)_mm512_roundscale_ps((__m512)bounded, 0);
#else
  vi low = x < -126.0f;
  vf bounded = choose(low, splat(-126.0f), x);
  vf shifted = bounded + 12582912.0f;
  vf whole = shifted - 12582912.0f;
#endif
  vf r = bounded - whole, p;
  if (terms == 7) {
    p = r * 1.534581201e-4f + 1.339993122e-3f;
    p = p * r + 9.618488957e-3f;
    p = p * r + 5.550328777e-2f;
    p = p * r + 2.402264689e-1f;
    p = p * r + 6.931472057e-1f;
    p = p * r + 1.0f;
  } else {
    p = r * 9.570101911e-3f + 5.591786032e-2f;
    p = p * r + 2.402474483e-1f;
    p = p * r + 6.931218147e-1f;
    p = p * r + 9.999992614e-1f;
  }
#if LANES == 16
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  return choose(low, splat(0), p * (vf)(((vi)shifted - 0x4b400000 + 127) << 23));
#endif
}

/* tanh within 3 units in the last place: a minimax fit of (tanh x - x) / x^3 below 0.62, 1 - 2 / (e^2x + 1) above. */
INLINE vf vtanh(vf x) {
  vf magnitude = vabs(x), z = x * x;
  vf p = z * -5.603918526e-3f + 2.055172415e-2f;
  p = p * z + -5.37141059e-2f;
  p = p * z + 1.333115283e-1f;
  p = p * z + -3.333327208e-1f;
  vf small = (p * z) * x + x;
  vf large = 1.0f - 2.0f / (vexp(magnitude + magnitude) + 1.0f);
  large = (vf)((vi)large | ((vi)x & (int32_t)0x80000000));
  return choose(magnitude < 0.62f, small, choose(x == x, large, x));
}

/* erf within 2^-23 absolute: a minimax fit of erf(x) / x below 1, of log(erfc(x)) on [1, 4], 1 beyond. */
INLINE vf verf(vf x) {
  vf t = vabs(x), z = x * x;
  vf p = z * 7.889124432e-5f + -8.020842733e-4f;
  p = p * z + 5.189535501e-3f;
  p = p * z + -2.685444468e-2f;
  p = p * z + 1.128360018e-1f;
  p = p * z + -3.761262714e-1f;
  vf small = (p * z) * x + x * 1.128379166f;
  vf bounded = choose(t > 4.0f, splat(4.0f), t);
  vf q = bounded * 1.879701989e-4f + -2.963991279e-3f;
  q = q * bounded + 2.190641621e-2f;
  q = q * bounded + -1.032560762e-1f;
  q = q * bounded + -6.379651452e-1f;
  q = q * bounded + -1.127202189f;
  q = q * bounded + -3.124915849e-4f;
  vf large = 1.0f - vexp(q);
  large = (vf)((vi)large | ((vi)x & (int32_t)0x80000000));
  return choose(t < 1.0f, small, choose(x == x, large, x));
}
