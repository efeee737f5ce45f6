// A head's new query or key: RMSNorm where the model has one, rotary position embedding, by one warp. And where tokens of
// grouped attention lie in the pages: [group][token][value | key], HEAD elements each.
//
// Set at compile time: HEAD (elements of a head, a multiple of 8), PAGE_SIZE, ROTATED (the first elements of a head, which are
// rotated), INTERLEAVED (pairs 2 i and 2 i + 1, otherwise i and i + ROTATED / 2), NORM.
#pragma once

#include "rows.cuh"

static_assert(HEAD % 8 == 0 && ROTATED % 2 == 0 && ROTATED <= HEAD, "widths of heads");

// `source` of HEAD elements (and `bias`, or none) becomes `target`, in shared memory; `cosine` and `sine` are those of the
// token's position, ROTATED / 2 each. All that is read is asked for before the first use.
__device__ __forceinline__ void prepare_head(
    const bf16_bits *source, const float *bias, const float *weight, float epsilon, const float *cosine, const float *sine,
    float *target, int lane
) {
    constexpr int PAIRS = (HEAD + 63) / 64, ANGLES = (ROTATED + 63) / 64;
    float x[PAIRS][2], angles[ANGLES > 0 ? ANGLES : 1][2];
#pragma unroll
    for (int i = 0; i < ANGLES; ++i) {
        const int pair = lane + 32 * i;
        angles[i][0] = 2 * pair < ROTATED ? cosine[pair] : 1.0f, angles[i][1] = 2 * pair < ROTATED ? sine[pair] : 0.0f;
    }
#if NORM
    float weights[PAIRS][2];
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int at = 2 * (lane + 32 * i);
        weights[i][0] = at < HEAD ? weight[at] : 0.0f, weights[i][1] = at < HEAD ? weight[at + 1] : 0.0f;
    }
#endif
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int at = 2 * (lane + 32 * i);
        const u32 pair = at < HEAD ? *reinterpret_cast<const u32 *>(source + at) : 0;
        x[i][0] = __uint_as_float(pair << 16), x[i][1] = __uint_as_float(pair & 0xffff0000u);
        if (bias != nullptr && at < HEAD) x[i][0] += bias[at], x[i][1] += bias[at + 1];
    }
#if NORM
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) squares += x[i][0] * x[i][0] + x[i][1] * x[i][1];
    const float inverse = 1.0f / sqrtf(group_sum<32>(squares, target) / (float)HEAD + epsilon);
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) x[i][0] *= inverse * weights[i][0], x[i][1] *= inverse * weights[i][1];
#endif
#if INTERLEAVED
#pragma unroll
    for (int i = 0; i < ANGLES; ++i) {
        const float a = x[i][0], b = x[i][1], c = angles[i][0], s = angles[i][1];
        x[i][0] = a * c - b * s, x[i][1] = b * c + a * s;
    }
#endif
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const int at = 2 * (lane + 32 * i);
        if (at < HEAD) target[at] = x[i][0], target[at + 1] = x[i][1];
    }
    __syncwarp();
#if !INTERLEAVED
#pragma unroll
    for (int i = 0; i < ANGLES; ++i) {
        const int pair = lane + 32 * i;
        if (2 * pair >= ROTATED) continue;
        const float a = target[pair], b = target[pair + ROTATED / 2], c = angles[i][0], s = angles[i][1];
        target[pair] = a * c - b * s, target[pair + ROTATED / 2] = b * c + a * s;
    }
    __syncwarp();
#endif
}

// The value and the key of a token, in a page's group.
__device__ __forceinline__ bf16_bits *cache_row(
    bf16_bits *cache, const int *pages, long long page_elements, int group, int token
) {
    return cache + pages[token / PAGE_SIZE] * page_elements + (group * PAGE_SIZE + token % PAGE_SIZE) * (2 * HEAD);
}

// A new token's key, rounded, and its value to their place in the cache, by one warp.
__device__ __forceinline__ void append_row(bf16_bits *row, const float *key, const bf16_bits *value, const float *bias, int lane) {
    for (int at = 2 * lane; at < HEAD; at += 64) {
        u32 pair = *reinterpret_cast<const u32 *>(value + at);
        if (bias != nullptr)
            pair = pack_bf16(__uint_as_float(pair << 16) + bias[at], __uint_as_float(pair & 0xffff0000u) + bias[at + 1]);
        *reinterpret_cast<u32 *>(row + at) = pair;
        *reinterpret_cast<u32 *>(row + HEAD + at) = pack_bf16(key[at], key[at + 1]);
    }
}
