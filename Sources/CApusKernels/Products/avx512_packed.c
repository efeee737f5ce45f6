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

AVX512 static void widen(const void *bf16, int64_t count, float *out) {
    const char *p = bf16;
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) _mm512_storeu_ps(out + i, load_weights(p + i * 2, KIND_BF16));
    if (i < count)
        _mm512_mask_storeu_ps(out + i, (__mmask16)((1u << (count - i)) - 1), load_weights_tail(p + i * 2, count - i, KIND_BF16));
}

const apus_packed_kernels apus_avx512_packed = {
    .panel = {[APUS_F32] = panel_f32, [APUS_F16] = panel_f16},
    .pack_f32 = pack_f32,
    .widen = widen,
};

const apus_packed_kernels apus_avx512bf16_packed = {
    .panel = {[APUS_F32] = panel_f32, [APUS_BF16] = panel_bf16, [APUS_F16] = panel_f16},
    .panel_bf16_pairs = panel_bf16_pairs,
    .pack_f32 = pack_f32,
    .pack_f32_as_bf16 = pack_f32_as_bf16,
};

#endif
