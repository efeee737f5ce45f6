// E4M3 codes to bf16: a code is a bf16 whose exponent is 120 too small, so that every code is converted exactly by three
// bit operations and one product a pair.
#pragma once

#include "ptx.cuh"

// Two codes, each followed by its sign replicated, to two bf16.
__device__ __forceinline__ u32 e4m3_pair(u32 spread) {
    return multiply_bf16((spread << 4) & 0x87f087f0, 0x7b807b80);  // 2^120
}
