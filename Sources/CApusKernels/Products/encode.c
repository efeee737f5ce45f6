/* Packing into quantised blocks. A block's elements become scale * q (+ offset) with small integers q. Given the q, the best
 * scale (and offset) is a least-squares fit; given the scale, the best q is rounding. Several starting scales are tried,
 * fits and roundings alternate, and what has the least squared error with the scales as the file holds them is kept. */
#include "apus_encode.h"

#include <math.h>
#include <string.h>

#include "formats.h"

enum { SUB_BLOCKS = SUPER_BLOCK / BLOCK, ROUNDS = 3, STEPS = 20 };

/* Nearest even, without a library call, so that loops stay vectors. |x| < 2^22. */
static inline float nearest(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

static inline float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* Nearest even; scales beyond the format saturate. Half an f16's least step is the last bit of 0.5. */
static uint16_t to_half(float x) {
    uint32_t bits = bits_from_float(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest >= 0x477fe000) return (uint16_t)(sign | 0x7bff);
    if (rest < 0x38800000) return (uint16_t)(sign | (bits_from_float(float_from_bits(rest) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13);
}

static float as_half(float x) { return f16_to_f32(to_half(x)); }

/* Sums over a block, in eight partial sums that the compiler keeps in vectors. */
#define BLOCK_SUM(target, expression)                        \
    do {                                                     \
        float lanes_[8] = {0};                               \
        for (int i_ = 0; i_ < BLOCK; i_ += 8)                \
            for (int l_ = 0; l_ < 8; l_++) {                 \
                const int i = i_ + l_;                       \
                lanes_[l_] += (expression);                  \
            }                                                \
        (target) = ((lanes_[0] + lanes_[4]) + (lanes_[1] + lanes_[5])) + \
                   ((lanes_[2] + lanes_[6]) + (lanes_[3] + lanes_[7]));  \
    } while (0)

/* q of each element for x ~ scale * q + offset; the squared error. */
static float round_block(const float *x, float scale, float offset, float low, float high, float *q) {
    const float inverse = scale != 0 ? 1 / scale : 0;
    if (!isfinite(inverse)) {
        for (int i = 0; i < BLOCK; i++) q[i] = clamped(0, low, high);
    } else {
        /* Clamped before rounding, which wants small numbers. */
        for (int i = 0; i < BLOCK; i++) q[i] = nearest(clamped((x[i] - offset) * inverse, low, high));
    }
    float error;
    BLOCK_SUM(error, (scale * q[i] + offset - x[i]) * (scale * q[i] + offset - x[i]));
    return error;
}

typedef struct {
    float error, scale;
    float q[BLOCK];
} scaled_block;

/* x ~ scale * q, scale as f16. */
static void try_scale(const float *x, float scale, float low, float high, scaled_block *best) {
    for (int round = 0; round < ROUNDS; round++) {
        float q[BLOCK], xq, qq;
        scale = as_half(scale);
        float error = round_block(x, scale, 0, low, high, q);
        if (error < best->error) {
            best->error = error;
            best->scale = scale;
            memcpy(best->q, q, sizeof(q));
        } else if (round > 0) {
            return;
        }
        BLOCK_SUM(xq, x[i] * q[i]);
        BLOCK_SUM(qq, q[i] * q[i]);
        if (qq == 0) return;
        scale = xq / qq;
    }
}

/* The element of largest magnitude, with its sign. */
static float largest(const float *x) {
    float most = 0;
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    return most;
}

static void encode_q8_0(const float *x, uint8_t *out) {
    scaled_block best = {.error = INFINITY};
    try_scale(x, fabsf(largest(x)) / 127, -127, 127, &best);
    uint16_t scale = to_half(best.scale);
    memcpy(out, &scale, 2);
    for (int i = 0; i < BLOCK; i++) out[2 + i] = (uint8_t)(int8_t)best.q[i];
}

static void pack_nibbles(const float *q, float offset, uint8_t *out) {
    for (int i = 0; i < BLOCK / 2; i++)
        out[i] = (uint8_t)((uint8_t)(q[i] + offset) | (uint8_t)((uint8_t)(q[i + BLOCK / 2] + offset) << 4));
}

static void encode_q4_0(const float *x, uint8_t *out) {
    scaled_block best = {.error = INFINITY};
    const float most = largest(x);
    for (int step = -STEPS / 2; step <= STEPS / 2; step++) try_scale(x, most / (-8 + 0.15f * (float)step), -8, 7, &best);
    uint16_t scale = to_half(best.scale);
    memcpy(out, &scale, 2);
    pack_nibbles(best.q, 8, out + 2);
}

typedef struct {
    float error, scale, offset;
    float q[BLOCK];
} affine_block;

static void least_and_most(const float *x, float *least, float *most) {
    *least = *most = x[0];
    for (int i = 1; i < BLOCK; i++) {
        if (x[i] < *least) *least = x[i];
        if (x[i] > *most) *most = x[i];
    }
}

/* x ~ scale * q + offset with q in 0 ... 15, scale and offset as f16 with `halves`; no offset above zero without `positive`. */
static void try_affine(const float *x, float scale, float offset, int halves, int positive, affine_block *best) {
    for (int round = 0; round < ROUNDS; round++) {
        float q[BLOCK], xq, qq, sx, sq;
        if (halves) {
            scale = as_half(scale);
            offset = as_half(offset);
        }
        float error = round_block(x, scale, offset, 0, 15, q);
        if (error < best->error) {
            best->error = error;
            best->scale = scale;
            best->offset = offset;
            memcpy(best->q, q, sizeof(q));
        } else if (round > 0) {
            return;
        }
        BLOCK_SUM(xq, x[i] * q[i]);
        BLOCK_SUM(qq, q[i] * q[i]);
        BLOCK_SUM(sx, x[i]);
        BLOCK_SUM(sq, q[i]);
        float determinant = BLOCK * qq - sq * sq;
        if (!(determinant > 0)) return;
        scale = (BLOCK * xq - sx * sq) / determinant;
        offset = (qq * sx - sq * xq) / determinant;
        if (offset > 0 && !positive) {
            offset = 0;
            scale = xq / qq;
        }
    }
}

static void search_affine(const float *x, int halves, int positive, affine_block *best) {
    float least, most;
    least_and_most(x, &least, &most);
    if (least > 0 && !positive) least = 0;
    best->error = INFINITY;
    /* Zeros, for blocks below what f16 scales can say. */
    try_affine(x, 0, 0, halves, positive, best);
    /* From the offset as the file holds it, so that plain rounding by the range is one of the tries. */
    if (halves) least = as_half(least);
    for (int step = 0; step <= STEPS; step++)
        try_affine(x, (most - least) / (14 + 0.1f * (float)step), least, halves, positive, best);
}

static void encode_q4_1(const float *x, uint8_t *out) {
    affine_block best;
    search_affine(x, 1, 1, &best);
    uint16_t scale = to_half(best.scale), offset = to_half(best.offset);
    memcpy(out, &scale, 2);
    memcpy(out + 2, &offset, 2);
    pack_nibbles(best.q, 0, out + 4);
}

/* A sub-block's scale and minimum as multiples of the super-block's: the best of the nine around the fit. */
static float round_sub_block(const float *x, const affine_block *fit, float d, float dmin, int *scale, int *minimum,
                             float *q) {
    const int s = d != 0 ? (int)nearest(clamped(fit->scale / d, 0, 63)) : 0;
    const int m = dmin != 0 ? (int)nearest(clamped(-fit->offset / dmin, 0, 63)) : 0;
    float best = INFINITY;
    for (int i = s > 0 ? s - 1 : 0; i <= s + 1 && i <= 63; i++)
        for (int j = m > 0 ? m - 1 : 0; j <= m + 1 && j <= 63; j++) {
            float candidate[BLOCK], error = round_block(x, d * (float)i, -dmin * (float)j, 0, 15, candidate);
            if (error < best) {
                best = error;
                *scale = i;
                *minimum = j;
                memcpy(q, candidate, sizeof(candidate));
            }
        }
    return best;
}

typedef struct {
    float error, d, dmin;
    int scale[SUB_BLOCKS], minimum[SUB_BLOCKS];
    float q[SUPER_BLOCK];
} super_block;

static void try_super(const float *x, const affine_block *fits, float d, float dmin, super_block *best) {
    super_block candidate = {.error = 0, .d = as_half(d), .dmin = as_half(dmin)};
    for (int b = 0; b < SUB_BLOCKS; b++)
        candidate.error += round_sub_block(x + b * BLOCK, &fits[b], candidate.d, candidate.dmin, &candidate.scale[b],
                                           &candidate.minimum[b], candidate.q + b * BLOCK);
    if (candidate.error < best->error) *best = candidate;
}

/* The largest scale and minimum of eight sub-blocks. */
static void largest_fit(const affine_block *fits, float *scale, float *minimum) {
    *scale = *minimum = 0;
    for (int b = 0; b < SUB_BLOCKS; b++) {
        if (fits[b].scale > *scale) *scale = fits[b].scale;
        if (-fits[b].offset > *minimum) *minimum = -fits[b].offset;
    }
}

static void encode_q4_k(const float *x, uint8_t *out) {
    affine_block fits[SUB_BLOCKS];
    float scale, minimum;
    super_block best = {.error = INFINITY};
    for (int b = 0; b < SUB_BLOCKS; b++) {
        float least, most;
        least_and_most(x + b * BLOCK, &least, &most);
        fits[b].offset = least < 0 ? least : 0;
        fits[b].scale = (most - fits[b].offset) / 15;
    }
    largest_fit(fits, &scale, &minimum);
    try_super(x, fits, scale / 63, minimum / 63, &best);
    for (int b = 0; b < SUB_BLOCKS; b++) search_affine(x + b * BLOCK, 0, 0, &fits[b]);
    largest_fit(fits, &scale, &minimum);
    /* The largest scale need not be the largest multiple: a slightly finer or coarser grid may fit the eight better. */
    for (int i = 61; i <= 63; i++) {
        try_super(x, fits, scale / (float)i, minimum / 63, &best);
        try_super(x, fits, scale / 63, minimum / (float)i, &best);
    }
    uint16_t d = to_half(best.d), dmin = to_half(best.dmin);
    memcpy(out, &d, 2);
    memcpy(out + 2, &dmin, 2);
    uint8_t *packed = out + 4;
    memset(packed, 0, 12);
    for (int b = 0; b < 4; b++) {
        packed[b] = (uint8_t)(best.scale[b] | (best.scale[b + 4] >> 4) << 6);
        packed[b + 4] = (uint8_t)(best.minimum[b] | (best.minimum[b + 4] >> 4) << 6);
        packed[b + 8] = (uint8_t)((best.scale[b + 4] & 15) | (best.minimum[b + 4] & 15) << 4);
    }
    /* Sub-blocks 2 j and 2 j + 1 share 32 bytes: low and high nibbles. */
    for (int j = 0; j < SUB_BLOCKS / 2; j++)
        for (int i = 0; i < BLOCK; i++)
            out[16 + j * BLOCK + i] = (uint8_t)((uint8_t)best.q[(2 * j) * BLOCK + i] |
                                                (uint8_t)((uint8_t)best.q[(2 * j + 1) * BLOCK + i] << 4));
}

typedef struct {
    const float *x;
    uint8_t *out;
    int64_t elements, bytes;
    void (*encode)(const float *, uint8_t *);
} encode_job;

static void encode_blocks(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const encode_job *job = context;
    for (int64_t block = begin; block < end; block++)
        job->encode(job->x + block * job->elements, job->out + block * job->bytes);
}

int apus_encode(apus_pool *pool, apus_dtype dtype, const float *x, int64_t rows, int64_t width, void *out) {
    encode_job job = {.x = x, .out = out, .elements = apus_block_elements(dtype), .bytes = apus_block_bytes(dtype)};
    switch (dtype) {
    case APUS_Q8_0: job.encode = encode_q8_0; break;
    case APUS_Q4_0: job.encode = encode_q4_0; break;
    case APUS_Q4_1: job.encode = encode_q4_1; break;
    case APUS_Q4_K: job.encode = encode_q4_k; break;
    default: return -1;
    }
    if (width % job.elements != 0) return -1;
    int64_t blocks = rows * (width / job.elements);
    if (pool)
        apus_pool_run(pool, blocks, 64, encode_blocks, &job);
    else
        encode_blocks(&job, 0, blocks, 0);
    return 0;
}
