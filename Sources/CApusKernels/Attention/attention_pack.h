/* Packing of one block of cached tokens for the products: keys transposed to [width][64], values as [64][width] (float32),
 * or both as pairs of bf16 along the reduced axis.  Compiled per instruction set. */

#include "transpose.h"

typedef int8_t vb __attribute__((vector_size(LANES), aligned(1)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2)));

INLINE float half_to_float(const char *p) {
  uint16_t half;
  memcpy(&half, p, 2);
#if LANES > 4
  _Float16 value;
  memcpy(&value, &half, 2);
  return (float)value;
#else
  uint32_t magnitude = half & 0x7fffu, bits = (magnitude << 13) + (112u << 23);
  float value, small = (float)(int32_t)magnitude * 0x1p-24f;
  if (magnitude >= 0x7c00u) bits += 112u << 23;
  memcpy(&value, &bits, 4);
  value = magnitude < 0x400u ? small : value;
  return half & 0x8000u ? -value : value;
#endif
}

/* LANES elements from element `at` of a part, `at` being a multiple of LANES; up to 128 bytes beyond the part are read. */
INLINE vf load_cached(apus_cache_type type, const char *part, int64_t at) {
  switch (type) {
    case APUS_CACHE_F32: return load((const float *)part + at);
    case APUS_CACHE_BF16: {
      vh raw = *(const vh *)(part + 2 * at);
      return (vf)(__builtin_convertvector(raw, vi) << 16);
    }
    case APUS_CACHE_F16: {
#if LANES > 4
      typedef _Float16 vhalf __attribute__((vector_size(2 * LANES), aligned(2)));
      return __builtin_convertvector(*(const vhalf *)(part + 2 * at), vf);
#else
      float lanes[LANES];
      for (int i = 0; i < LANES; i++) lanes[i] = half_to_float(part + 2 * (at + i));
      return load(lanes);
#endif
    }
    default: {
      const char *block = part + at / 32 * 34;
      vb raw = *(const vb *)(block + 2 + at % 32);
      return __builtin_convertvector(raw, vf) * half_to_float(block);
    }
  }
}

#if COMPUTE_BF16

/* 32 elements from element `at` (a multiple of 32) as bf16. */
INLINE __m512i load_bf16(apus_cache_type type, const char *part, int64_t at) {
  if (type == APUS_CACHE_BF16) return _mm512_loadu_si512(part + 2 * at);
  vf low = load_cached(type, part, at), high = load_cached(type, part, at + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* packed[width / 2][64] of pairs (k[2 i], k[2 i + 1]); an odd width's last pair is filled with zero. */
INLINE void pack_keys_of(apus_cache_type type, const char *const *rows, int64_t offset, int64_t width, operand *packed) {
  for (int64_t at = 0; at < width; at += 32) {
    int64_t pairs = (width - at + 1) / 2 < 16 ? (width - at + 1) / 2 : 16;
    for (int t = 0; t < BLOCK_TOKENS; t += 16) {
      vf tile[16];
#pragma clang loop unroll(full)
      for (int i = 0; i < 16; i++) {
        tile[i] = (vf)load_bf16(type, rows[t + i] + offset, at);
      }
      transpose(tile);
      operand *target = packed + at / 2 * BLOCK_TOKENS + t;
      if (pairs == 16) {
#pragma clang loop unroll(full)
        for (int i = 0; i < 16; i++) *(vf *)(target + i * BLOCK_TOKENS) = tile[i];
      } else {
        for (int i = 0; i < pairs; i++) *(vf *)(target + i * BLOCK_TOKENS) = tile[i];
      }
    }
  }
  if (width % 2) {
    operand *last = packed + width / 2 * BLOCK_TOKENS;
    for (int t = 0; t < BLOCK_TOKENS; t++) last[t] &= 0xffff;
  }
}

/* packed[32][padded] of pairs (v[2 t], v[2 t + 1]). */
INLINE void pack_values_of(apus_cache_type type, const char *const *rows, int64_t offset, int64_t width, operand *packed,
                           int64_t padded) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                       36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int t = 0; t < BLOCK_TOKENS; t += 2)
    for (int64_t at = 0; at < width; at += 32) {
      __m512i a = load_bf16(type, rows[t] + offset, at), b = load_bf16(type, rows[t + 1] + offset, at);
      operand *target = packed + t / 2 * padded + at;
      _mm512_storeu_si512(target, _mm512_permutex2var_epi16(a, low, b));
      if (width - at > 16) _mm512_storeu_si512(target + 16, _mm512_permutex2var_epi16(a, high, b));
    }
}

#else

/* packed[width][64]. */
INLINE void pack_keys_of(apus_cache_type type, const char *const *rows, int64_t offset, int64_t width, operand *packed) {
  for (int64_t at = 0; at < width; at += LANES) {
    int64_t count = width - at < LANES ? width - at : LANES;
    for (int t = 0; t < BLOCK_TOKENS; t += LANES) {
      vf tile[LANES];
#pragma clang loop unroll(full)
      for (int i = 0; i < LANES; i++) {
        tile[i] = load_cached(type, rows[t + i] + offset, at);
      }
      transpose(tile);
      operand *target = packed + at * BLOCK_TOKENS + t;
      if (count == LANES) {
#pragma clang loop unroll(full)
        for (int i = 0; i < LANES; i++) store(target + i * BLOCK_TOKENS, tile[i]);
      } else {
        for (int i = 0; i < count; i++) store(target + i * BLOCK_TOKENS, tile[i]);
      }
    }
  }
}

/* packed[64][padded]. */
INLINE void pack_values_of(apus_cache_type type, const char *const *rows, int64_t offset, int64_t width, operand *packed,
                           int64_t padded) {
  for (int t = 0; t < BLOCK_TOKENS; t++)
    for (int64_t at = 0; at < width; at += LANES) {
      store(packed + t * padded + at, load_cached(type, rows[t] + offset, at));
    }
}

#endif

#define FOR_TYPE(type, call)                                \
  switch (type) {                                           \
    case APUS_CACHE_BF16: call(APUS_CACHE_BF16); break;     \
    case APUS_CACHE_Q8_0: call(APUS_CACHE_Q8_0); break;     \
    OTHER_TYPES(call)                                       \
  }
#if COMPUTE_BF16
#define OTHER_TYPES(call) \
  default: break;
#else
#define OTHER_TYPES(call)                               \
  case APUS_CACHE_F32: call(APUS_CACHE_F32); break;     \
  case APUS_CACHE_F16: call(APUS_CACHE_F16); break;
#endif

static void pack_keys(apus_cache_type type, const char *const *rows, int64_t offset, int64_t width, operand *packed) {
#define CALL(constant) pack_keys_of(constant, rows, offset, width, packed)
  FOR_TYPE(type, CALL)
#undef CALL
}

/* Columns beyond the width are filled with whatever follows it; the next row's packing overwrites them. */
static void pack_values(apus_cache_type type, const char *const *rows, int64_t offset, int64_t width, operand *packed,
                        int64_t padded) {
#define CALL(constant) pack_values_of(constant, rows, offset, width, packed, padded)
  FOR_TYPE(type, CALL)
#undef CALL
}

#if !COMPUTE_BF16
/* Rows 2 i and 2 i + 1 of out[..][width] from row i of pairs of bf16; width is a multiple of LANES. */
static void split_pairs(const char *pairs, int64_t rows, int64_t width, operand *out) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t at = 0; at < width; at += LANES) {
      vi pair = (vi)load((const float *)pairs + row * width + at);
      store(out + 2 * row * width + at, (vf)(pair << 16));
      store(out + (2 * row + 1) * width + at, (vf)(pair & (int32_t)0xffff0000));
    }
}
#endif
