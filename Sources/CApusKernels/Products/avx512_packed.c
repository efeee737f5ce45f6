/* Float products of many tokens. Activations are packed once: 64-byte units of 16 f32 or 32 bf16 elements of one token, in
 * the order [cut of 6 tokens][unit of k][token], so that a tile reads one stream whatever the stride of x was (a stride of
 * a power of two would put all its tokens into the same few cache sets). Weight rows are read as they lie.
 *
 * k is gone through in blocks of 32 units: the cut's 12 KiB stay in the first cache while the panel's rows pass by, and the
 * vector sums of a tile wait in memory between blocks, so the order of summation is the one of the unblocked loop.
 *
 * Floor: 24 fused products per 10 loads; one fused product (or bf16 dot) of 512 bits a cycle is the peak. */
#include "avx512_float.h"
#if defined(__x86_64__)

enum { UNIT = 64, BLOCK_UNITS = 32, LANES = 16, TILE_SUMS = CUT_TOKENS * TILE_ROWS * LANES };

/* Fetches part `index` of `count` of the rows that come next, a stretch of `bytes` of each, into the second cache. */
AVX512_INLINE void fetch_part(const char *w, int64_t w_step, int64_t bytes, int64_t index, int64_t count) {
    int64_t row_lines = (bytes + 63) / 64, lines = PANEL_ROWS * row_lines;
    int64_t line = lines * index / count, last = lines * (index + 1) / count;
    for (; line < last; line++) _mm_prefetch(w + line / row_lines * w_step + line % row_lines * 64, _MM_HINT_T1);
}

/* A tile's sums over one block of k, begun from zero or from `partial`, and reduced into `out` or left in `partial`. */
AVX512_INLINE void block_tile(const char *w, int64_t w_step, const char *x, int64_t k, float *partial, int begin, int end,
                              float *out, const int rows, const float_kind kind, const int tokens) {
    const int size = weight_size(kind), step = step_elements(kind);
    __m512 sums[CUT_TOKENS][TILE_ROWS];
    UNROLL for (int t = 0; t < tokens; t++)
        UNROLL for (int r = 0; r < rows; r++)
            sums[t][r] = begin ? _mm512_setzero_ps() : _mm512_loadu_ps(partial + (t * TILE_ROWS + r) * LANES);
    int64_t i = 0;
    for (; i + step <= k; i += step, x += CUT_TOKENS * UNIT) {
        __m512 weights[TILE_ROWS];
        UNROLL for (int r = 0; r < rows; r++) weights[r] = load_weights(w + r * w_step + i * size, kind);
        UNROLL for (int t = 0; t < tokens; t++) {
            __m512 activations = _mm512_load_ps(x + t * UNIT);
            UNROLL for (int r = 0; r < rows; r++) sums[t][r] = multiply_add(sums[t][r], weights[r], activations, kind);
        }
    }
    if (i < k) {
        UNROLL for (int t = 0; t < tokens; t++)
            UNROLL for (int r = 0; r < rows; r++)
                sums[t][r] = multiply_add(sums[t][r], load_weights_tail(w + r * w_step + i * size, k - i, kind),
                                          _mm512_load_ps(x + t * UNIT), kind);
    }
    if (end) {
        reduce_tile(sums, out, rows, tokens);
    } else {
        UNROLL for (int t = 0; t < tokens; t++)
            UNROLL for (int r = 0; r < rows; r++)
                _mm512_storeu_ps(partial + (t * TILE_ROWS + r) * LANES, sums[t][r]);
    }
}

AVX512_INLINE void panel_of(const char *weights, int64_t w_step, int rows, const char *activations, int64_t tokens, int64_t k,
                            float *partial, float *out, const float_kind kind) {
    const int size = weight_size(kind), step = step_elements(kind), tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t block = BLOCK_UNITS * step, units = (k + step - 1) / step;
    const int64_t cuts = (tokens + CUT_TOKENS - 1) / CUT_TOKENS;
    for (int64_t i = 0; i < k; i += block) {
        int begin = i == 0, end = i + block >= k;
        int64_t width = end ? k - i : block;
        const char *w_block = weights + i * size;
        const char *next = end ? weights + PANEL_ROWS * w_step : w_block + block * size;
        int64_t next_bytes = (k < block ? k : block) * size;
        for (int64_t cut = 0; cut < cuts; cut++) {
            const char *x = activations + (cut * units + i / step) * CUT_TOKENS * UNIT;
            int64_t count = tokens - cut * CUT_TOKENS;
            for (int tile = 0; tile < tiles; tile++) {
                const char *w = w_block + tile * TILE_ROWS * w_step;
                float *sums = partial + (cut * PANEL_ROWS / TILE_ROWS + tile) * TILE_SUMS;
                float *o = out + cut * CUT_TOKENS * PANEL_ROWS + tile * TILE_ROWS;
                fetch_part(next, w_step, next_bytes, cut * tiles + tile, cuts * tiles);
                int left = rows - tile * TILE_ROWS;
                if (left >= TILE_ROWS) {
                    FOR_CUT_TOKENS(count, block_tile, w, w_step, x, width, sums, begin, end, o, TILE_ROWS, kind)
                } else {
                    for (int r = 0; r < left; r++) {
                        FOR_CUT_TOKENS(count, block_tile, w + r * w_step, w_step, x, width, sums + r * LANES, begin, end,
                                       o + r, 1, kind)
                    }
                }
            }
        }
    }
}

AVX512 static void panel_f32(const void *w, int64_t w_stride, int rows, const void *x, int64_t tokens, int64_t k,
                             float *partial, float *out) {
    panel_of(w, w_stride * 4, rows, x, tokens, k, partial, out, KIND_F32);
}

AVX512 static void panel_bf16(const void *w, int64_t w_stride, int rows, const void *x, int64_t tokens, int64_t k,
                              float *partial, float *out) {
    panel_of(w, w_stride * 2, rows, x, tokens, k, partial, out, KIND_BF16);
}

AVX512 static void panel_f16(const void *w, int64_t w_stride, int rows, const void *x, int64_t tokens, int64_t k,
                             float *partial, float *out) {
    panel_of(w, w_stride * 2, rows, x, tokens, k, partial, out, KIND_F16);
}

AVX512 static void panel_bf16_pairs(const void *w, int64_t w_stride, int rows, const void *x, int64_t tokens, int64_t k,
                                    float *partial, float *out) {
    panel_of(w, w_stride * 2, rows, x, tokens, k, partial, out, KIND_BF16_PAIRS);
}

/* Where the unit of a token stands in packed activations. */
AVX512_INLINE char *unit_at(char *out, int64_t units, int64_t token, int64_t unit) {
    return out + (((token / CUT_TOKENS) * units + unit) * CUT_TOKENS + token % CUT_TOKENS) * UNIT;
}

AVX512 static void pack_f32(const void *x, int64_t stride, int64_t first, int64_t last, int64_t k, void *out) {
    int64_t units = (k + 15) / 16;
    for (int64_t t = first; t < last; t++) {
        const char *row = (const char *)x + t * stride * 4;
        for (int64_t u = 0; u < units; u++) {
            int64_t left = k - u * 16;
            __m512 v = left >= 16 ? _mm512_loadu_ps(row + u * 64) : load_weights_tail(row + u * 64, left, KIND_F32);
            _mm512_store_ps(unit_at(out, units, t, u), v);
        }
    }
}

AVX512 static void pack_f32_as_bf16(const void *x, int64_t stride, int64_t first, int64_t last, int64_t k, void *out) {
    int64_t units = (k + 31) / 32;
    for (int64_t t = first; t < last; t++) {
        const char *row = (const char *)x + t * stride * 4;
        for (int64_t u = 0; u < units; u++) {
            int64_t left = k - u * 32, high = left > 16 ? left - 16 : 0;
            uint32_t low_mask = left >= 16 ? 0xffff : (1u << left) - 1, high_mask = high >= 16 ? 0xffff : (1u << high) - 1;
            __m512 a = _mm512_maskz_loadu_ps((__mmask16)low_mask, row + u * 128);
            __m512 b = _mm512_maskz_loadu_ps((__mmask16)high_mask, row + u * 128 + 64);
            _mm512_store_si512(unit_at(out, units, t, u), (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
    }
}

AVX512 static void pack_bf16(const void *x, int64_t stride, int64_t first, int64_t last, int64_t k, void *out) {
    int64_t units = (k + 31) / 32;
    for (int64_t t = first; t < last; t++) {
        const char *row = (const char *)x + t * stride * 2;
        for (int64_t u = 0; u < units; u++) {
            int64_t left = k - u * 32;
            __m512i v = _mm512_maskz_loadu_epi16(left >= 32 ? UINT32_MAX : (1u << left) - 1, row + u * 64);
            _mm512_store_si512(unit_at(out, units, t, u), v);
        }
    }
}

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

/* Reads one unit (16 f32 or 32 bf16 rows of k) of up to 16 columns of a matrix stored [k][columns]: v[column] is its unit. */
AVX512_INLINE void load_columns(const char *p, int64_t step, int columns, int64_t k, const int size, __m512i *v) {
    uint32_t mask = columns >= 16 ? 0xffff : (1u << columns) - 1;
    UNROLL for (int i = 0; i < 16; i++) {
        if (size == 4) {
            v[i] = i < k ? _mm512_maskz_loadu_epi32((__mmask16)mask, p + i * step) : _mm512_setzero_si512();
        } else {
            __m256i even = 2 * i < k ? _mm256_maskz_loadu_epi16((__mmask16)mask, p + 2 * i * step) : _mm256_setzero_si256();
            __m256i odd = 2 * i + 1 < k ? _mm256_maskz_loadu_epi16((__mmask16)mask, p + (2 * i + 1) * step)
                                        : _mm256_setzero_si256();
            v[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
        }
    }
    transpose16(v);
}

AVX512_INLINE void pack_columns(const char *x, int64_t step, int64_t first, int64_t last, int64_t k, char *out,
                                const int size) {
    int64_t elements = UNIT / size, units = (k + elements - 1) / elements;
    for (int64_t t = first; t < last; t += 16) {
        int columns = last - t < 16 ? (int)(last - t) : 16;
        for (int64_t u = 0; u < units; u++) {
            __m512i v[16];
            load_columns(x + u * elements * step + t * size, step, columns, k - u * elements, size, v);
            for (int i = 0; i < columns; i++) _mm512_store_si512(unit_at(out, units, t + i, u), v[i]);
        }
    }
}

AVX512 static void pack_columns_f32(const void *x, int64_t stride, int64_t first, int64_t last, int64_t k, void *out) {
    pack_columns(x, stride * 4, first, last, k, out, 4);
}

AVX512 static void pack_columns_bf16(const void *x, int64_t stride, int64_t first, int64_t last, int64_t k, void *out) {
    pack_columns(x, stride * 2, first, last, k, out, 2);
}

AVX512_INLINE void rows_of_columns(const char *b, int64_t step, int columns, int64_t k, char *out, int64_t out_step,
                                   const int size) {
    int64_t elements = UNIT / size;
    for (int64_t i = 0; i < k; i += elements) {
        __m512i v[16];
        load_columns(b + i * step, step, columns, k - i, size, v);
        for (int c = 0; c < columns; c++) _mm512_storeu_si512(out + c * out_step + i * size, v[c]);
    }
}

AVX512 static void rows_of_columns_f32(const void *b, int64_t stride, int columns, int64_t k, void *out,
                                       int64_t out_stride) {
    rows_of_columns(b, stride * 4, columns, k, out, out_stride * 4, 4);
}

AVX512 static void rows_of_columns_bf16(const void *b, int64_t stride, int columns, int64_t k, void *out,
                                        int64_t out_stride) {
    rows_of_columns(b, stride * 2, columns, k, out, out_stride * 2, 2);
}

const apus_packed_kernels apus_avx512_packed = {
    .panel = {[APUS_F32] = panel_f32, [APUS_BF16] = panel_bf16, [APUS_F16] = panel_f16},
    .panel_bf16_pairs = panel_bf16_pairs,
    .pack_f32 = pack_f32,
    .pack_f32_as_bf16 = pack_f32_as_bf16,
    .pack_bf16 = pack_bf16,
    .pack_columns_f32 = pack_columns_f32,
    .pack_columns_bf16 = pack_columns_bf16,
    .rows_of_columns_f32 = rows_of_columns_f32,
    .rows_of_columns_bf16 = rows_of_columns_bf16,
};

#endif
