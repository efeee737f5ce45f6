/* General products of many rows: both operands are packed into 4-byte units of k (one f32, or two bf16), a by the worker that
 * multiplies it, b once for all. Where dots of bf16 are slow a bf16 is widened to an f32 then. A tile of 6 rows x 64 columns has 24 vector sums whose lanes are columns, so nothing is reduced
 * and c is written as it lies. A unit costs 24 fused products, 4 loads of b and 6 broadcasts of a.
 *
 * Floor: one fused product (or bf16 dot) of 512 bits a cycle. */
#include "avx512.h"
#if defined(__x86_64__)

enum { VECTOR_UNITS = 16, B_AHEAD = 8, COLUMNS_AHEAD = 16 };

/* Transposes a 16 x 16 matrix of 32-bit elements in registers. */
AVX512_INLINE void transpose16(__m512i *v) {
    __m512i a[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 8; i++) {
        v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    }
}

/* How an operand is packed: as an apus_gemm_source into f32 or pairs of bf16, or with each bf16 as an f32. */
enum { WIDENED_BF16 = GEMM_SOURCES, WIDENED_ROUNDED };

AVX512_INLINE int source_bytes(const int source) { return source == GEMM_BF16 || source == WIDENED_BF16 ? 2 : 4; }

AVX512_INLINE int source_depth(const int source) { return source == GEMM_BF16 || source == GEMM_F32_ROUNDED ? 2 : 1; }

/* Up to 16 elements, each an f32. */
AVX512_INLINE __m512i wide_units(const char *p, const __mmask16 mask, const int source) {
    if (source == GEMM_F32) return _mm512_maskz_loadu_epi32(mask, p);
    __m256i narrow = source == WIDENED_BF16 ? _mm256_maskz_loadu_epi16(mask, p)
                                            : (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, p));
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
}

AVX512_INLINE uint32_t first_lanes(int64_t count, int lanes) {
    return count >= lanes ? (uint32_t)((UINT64_C(1) << lanes) - 1) : count <= 0 ? 0 : (1u << count) - 1;
}

/* 16 units along k of one row; elements from `left` on are zero. */
AVX512_INLINE __m512i units_along_row(const char *p, int64_t left, const int source) {
    if (source_depth(source) == 1) return wide_units(p, (__mmask16)first_lanes(left, 16), source);
    if (source == GEMM_BF16) return _mm512_maskz_loadu_epi16(first_lanes(left, 32), p);
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)first_lanes(left, 16), p);
    __m512 high = _mm512_maskz_loadu_ps((__mmask16)first_lanes(left - 16, 16), p + 64);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* One unit of k of up to 16 columns of a matrix stored [k][columns]; `left`: elements of k that are there. */
AVX512_INLINE __m512i units_across_columns(const char *p, int64_t step, int columns, int64_t left,
                                           const int source) {
    const __mmask16 mask = (__mmask16)first_lanes(columns, 16), next_mask = left > 1 ? mask : 0;
    if (source_depth(source) == 1) return wide_units(p, mask, source);
    if (source == GEMM_BF16) {
        __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
        __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(next_mask, p + (left > 1 ? step : 0)));
        return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
    }
    __m512i even = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, p)));
    __m512i odd = _mm512_cvtepu16_epi32(
        (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(next_mask, p + (left > 1 ? step : 0))));
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

/* a, stored [row][k]: each row becomes a row of units. */
AVX512_INLINE void pack_a_rows(const char *a, int64_t stride, int64_t rows, int64_t k, char *out, int64_t pitch,
                               const int source) {
    const int64_t size = source_bytes(source), elements = VECTOR_UNITS * source_depth(source);
    for (int64_t r = 0; r < rows; r++, a += stride * size, out += pitch)
        for (int64_t i = 0; i < k; i += elements)
            _mm512_store_si512(out + i / elements * 64, units_along_row(a + i * size, k - i, source));
}

/* One unit of k of 6 rows of an a that is stored [k][row], and two lanes to spare; `has_odd`: whether the unit's second element is
 * there. */
AVX512_INLINE __m256i units_of_strip(const char *even, int64_t step, const __mmask8 mask, const int has_odd,
                                     const int source) {
    if (source == GEMM_F32) return _mm256_maskz_loadu_epi32(mask, even);
    if (source_depth(source) == 1) {
        __m128i narrow = source == WIDENED_BF16 ? _mm_maskz_loadu_epi16(mask, even)
                                                : (__m128i)_mm256_cvtneps_pbh(_mm256_maskz_loadu_ps(mask, even));
        return _mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16);
    }
    __m128i low, high = _mm_setzero_si128();
    if (source == GEMM_BF16) {
        low = _mm_maskz_loadu_epi16(mask, even);
        if (has_odd) high = _mm_maskz_loadu_epi16(mask, even + step);
    } else {
        low = (__m128i)_mm256_cvtneps_pbh(_mm256_maskz_loadu_ps(mask, even));
        if (has_odd) high = (__m128i)_mm256_cvtneps_pbh(_mm256_maskz_loadu_ps(mask, even + step));
    }
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(low, high)), _mm_unpackhi_epi16(low, high), 1);
}

AVX512_INLINE void pack_unit_of_a(const char *a, int64_t step, int64_t rows, char *out, int64_t strip_bytes, const int has_odd,
                                  const int source) {
    const int64_t size = source_bytes(source);
    int64_t r = 0;
    for (; r + GEMM_ROWS <= rows; r += GEMM_ROWS, out += strip_bytes)
        _mm256_storeu_si256((__m256i *)out, units_of_strip(a + r * size, step, 0x3f, has_odd, source));
    if (r < rows)
        _mm256_storeu_si256((__m256i *)out,
                            units_of_strip(a + r * size, step, (__mmask8)first_lanes(rows - r, 8), has_odd, source));
}

/* a, stored [k][row]: strips of 6 rows become [unit][row]. A store writes 8 units, of which the next one overwrites two. */
AVX512_INLINE void pack_a_columns(const char *a, int64_t stride, int64_t rows, int64_t k, char *out, int64_t strip_bytes,
                                  const int source) {
    const int64_t size = source_bytes(source), depth = source_depth(source), step = stride * size;
    int64_t i = 0;
    for (; i + depth <= k; i += depth, a += depth * step, out += GEMM_ROWS * GEMM_UNIT_BYTES) {
        for (int64_t line = 0; line < rows * size; line += 64)
            for (int d = 0; d < depth; d++) _mm_prefetch(a + (COLUMNS_AHEAD + d) * step + line, _MM_HINT_T0);
        pack_unit_of_a(a, step, rows, out, strip_bytes, 1, source);
    }
    if (i < k) pack_unit_of_a(a, step, rows, out, strip_bytes, 0, source);
}

AVX512_INLINE void pack_units_of_b(const char *b, int64_t step, int columns, int64_t left, char *out,
                                   const int source) {
    for (int j = 0; j < columns; j += VECTOR_UNITS, out += 64)
        _mm512_store_si512(out, units_across_columns(b + j * source_bytes(source), step, columns - j, left, source));
}

/* b, stored [k][column]: a panel of up to 64 columns becomes [unit][column]. */
AVX512_INLINE void pack_b_rows(const char *b, int64_t stride, int columns, int64_t k, char *out, const int source) {
    const int64_t depth = source_depth(source), step = stride * source_bytes(source);
    const int64_t unit_bytes = (columns + VECTOR_UNITS - 1) / VECTOR_UNITS * 64;
    int64_t i = 0;
    if (columns == GEMM_COLUMNS)
        for (; i + depth <= k; i += depth, b += depth * step, out += unit_bytes)
            pack_units_of_b(b, step, GEMM_COLUMNS, depth, out, source);
    for (; i < k; i += depth, b += depth * step, out += unit_bytes) pack_units_of_b(b, step, columns, k - i, out, source);
}

/* b, stored [column][k]. */
AVX512_INLINE void pack_b_columns(const char *b, int64_t stride, int columns, int64_t k, char *out,
                                  const int source) {
    const int64_t size = source_bytes(source), depth = source_depth(source), step = stride * size;
    const int64_t units = (k + depth - 1) / depth;
    const int vectors = (columns + VECTOR_UNITS - 1) / VECTOR_UNITS;
    for (int v = 0; v < vectors; v++, b += VECTOR_UNITS * step, columns -= VECTOR_UNITS)
        for (int64_t u = 0; u < units; u += VECTOR_UNITS) {
            __m512i rows[16];
            UNROLL for (int c = 0; c < 16; c++)
                rows[c] = units_along_row(b + (c < columns ? c : 0) * step + u * depth * size,
                                          c < columns ? k - u * depth : 0, source);
            transpose16(rows);
            int64_t count = units - u < VECTOR_UNITS ? units - u : VECTOR_UNITS;
            for (int64_t i = 0; i < count; i++) _mm512_store_si512(out + ((u + i) * vectors + v) * 64, rows[i]);
        }
}

AVX512_INLINE __m512 unit_product(__m512 sum, __m512i b, __m512i a, const int narrow) {
    if (narrow) return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)a);
    return _mm512_fmadd_ps((__m512)b, (__m512)a, sum);
}

AVX512_INLINE void tile_of(const apus_gemm_tile *t, const int narrow, const int vectors) {
    const char *a0 = t->a, *a3 = t->a + 3 * t->a_row, *b = t->b;
    const int64_t a_row = t->a_row, a_unit = t->a_unit;
    __m512 sums[GEMM_ROWS][4];
    UNROLL for (int r = 0; r < GEMM_ROWS; r++)
        UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = _mm512_setzero_ps();
    for (int r = 0; r < t->rows; r++)
        for (int v = 0; v < vectors; v++) __builtin_prefetch(t->c + r * t->ldc + v * VECTOR_UNITS, 1);
    for (int64_t u = 0; u < t->units; u++, a0 += a_unit, a3 += a_unit, b += vectors * 64) {
        __m512i column[4];
        UNROLL for (int v = 0; v < vectors; v++) {
            column[v] = _mm512_load_si512(b + v * 64);
            _mm_prefetch(b + (B_AHEAD * vectors + v) * 64, _MM_HINT_T0);
        }
        _mm_prefetch(t->fetch + u * 64, _MM_HINT_T1);
        UNROLL for (int r = 0; r < GEMM_ROWS; r++) {
            const char *p = (r < 3 ? a0 : a3) + (r % 3) * a_row;
            int32_t unit;
            memcpy(&unit, p, 4);
            __m512i row = _mm512_set1_epi32(unit);
            UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = unit_product(sums[r][v], column[v], row, narrow);
        }
    }
    const __m512 alpha = _mm512_set1_ps(t->alpha), beta = _mm512_set1_ps(t->beta);
    UNROLL for (int r = 0; r < GEMM_ROWS; r++) {
        if (r >= t->rows) break;
        float *c = t->c + r * t->ldc;
        UNROLL for (int v = 0; v < vectors; v++) {
            __mmask16 mask = (__mmask16)first_lanes(t->columns - v * VECTOR_UNITS, 16);
            __m512 value = _mm512_mul_ps(alpha, sums[r][v]);
            if (t->beta != 0)
                value = _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(mask, c + v * VECTOR_UNITS), value);
            _mm512_mask_storeu_ps(c + v * VECTOR_UNITS, mask, value);
        }
    }
}

#define TILE(name, narrow)                             \
    AVX512 static void name(const apus_gemm_tile *t) { \
        switch ((t->columns + 15) / 16) {              \
        case 1: tile_of(t, narrow, 1); break;          \
        case 2: tile_of(t, narrow, 2); break;          \
        case 3: tile_of(t, narrow, 3); break;          \
        default: tile_of(t, narrow, 4); break;         \
        }                                              \
    }

TILE(tile_f32, 0)
TILE(tile_bf16, 1)

#define PACKS(suffix, source)                                                                                                \
    AVX512 static void a_rows_##suffix(const char *a, int64_t stride, int64_t rows, int64_t k, char *out, int64_t pitch) {    \
        pack_a_rows(a, stride, rows, k, out, pitch, source);                                                                  \
    }                                                                                                                         \
    AVX512 static void a_columns_##suffix(const char *a, int64_t stride, int64_t rows, int64_t k, char *out, int64_t pitch) { \
        pack_a_columns(a, stride, rows, k, out, pitch, source);                                                               \
    }                                                                                                                         \
    AVX512 static void b_rows_##suffix(const char *b, int64_t stride, int columns, int64_t k, char *out) {                    \
        pack_b_rows(b, stride, columns, k, out, source);                                                                      \
    }                                                                                                                         \
    AVX512 static void b_columns_##suffix(const char *b, int64_t stride, int columns, int64_t k, char *out) {                 \
        pack_b_columns(b, stride, columns, k, out, source);                                                                   \
    }

PACKS(f32, GEMM_F32)
PACKS(bf16, GEMM_BF16)
PACKS(rounded, GEMM_F32_ROUNDED)
PACKS(widened, WIDENED_BF16)
PACKS(rounded_widened, WIDENED_ROUNDED)

const apus_gemm_kernels apus_avx512_gemm = {
    .depth = {1, 1, 1},
    .tile = {tile_f32, tile_f32, tile_f32},
    .a_rows = {[GEMM_F32] = a_rows_f32, [GEMM_BF16] = a_rows_widened, [GEMM_F32_ROUNDED] = a_rows_rounded_widened},
    .a_columns = {[GEMM_F32] = a_columns_f32, [GEMM_BF16] = a_columns_widened, [GEMM_F32_ROUNDED] = a_columns_rounded_widened},
    .b_rows = {[GEMM_F32] = b_rows_f32, [GEMM_BF16] = b_rows_widened, [GEMM_F32_ROUNDED] = b_rows_rounded_widened},
    .b_columns = {[GEMM_F32] = b_columns_f32, [GEMM_BF16] = b_columns_widened, [GEMM_F32_ROUNDED] = b_columns_rounded_widened},
};

const apus_gemm_kernels apus_avx512bf16_gemm = {
    .depth = {[GEMM_F32] = 1, [GEMM_BF16] = 2, [GEMM_F32_ROUNDED] = 2},
    .tile = {[GEMM_F32] = tile_f32, [GEMM_BF16] = tile_bf16, [GEMM_F32_ROUNDED] = tile_bf16},
    .a_rows = {[GEMM_F32] = a_rows_f32, [GEMM_BF16] = a_rows_bf16, [GEMM_F32_ROUNDED] = a_rows_rounded},
    .a_columns = {[GEMM_F32] = a_columns_f32, [GEMM_BF16] = a_columns_bf16, [GEMM_F32_ROUNDED] = a_columns_rounded},
    .b_rows = {[GEMM_F32] = b_rows_f32, [GEMM_BF16] = b_rows_bf16, [GEMM_F32_ROUNDED] = b_rows_rounded},
    .b_columns = {[GEMM_F32] = b_columns_f32, [GEMM_BF16] = b_columns_bf16, [GEMM_F32_ROUNDED] = b_columns_rounded},
};

#endif
