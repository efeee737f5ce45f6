// Rotary position embedding of a bf16 row, by one warp.
//
// Set at compile time: KEY (elements of the row), ROTATED (the first of them, which are rotated), INTERLEAVED (pairs 2 i and
// 2 i + 1, otherwise i and i + ROTATED / 2).
#pragma once

#include "rows.cuh"

static_assert(ROTATED % 2 == 0 && ROTATED <= KEY, "elements that are rotated");

// `cosine` and `sine` are those of the row's position, ROTATED / 2 each. `target` is another row.
__device__ __forceinline__ void rotate_row(
    const bf16_bits *source, const float *cosine, const float *sine, bf16_bits *target, int lane
) {
    for (int i = lane; i < ROTATED / 2; i += 32) {
        const int first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? 2 * i + 1 : i + ROTATED / 2;
        const float x = bf16_to_float(source[first]), y = bf16_to_float(source[second]), c = cosine[i], s = sine[i];
        put(target + first, x * c - y * s);
        put(target + second, y * c + x * s);
    }
    for (int i = ROTATED + lane; i < KEY; i += 32) target[i] = source[i];
}
