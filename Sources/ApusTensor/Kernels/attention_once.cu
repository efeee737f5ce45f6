// The gradient of the part of the key that is kept once for all heads: the sum of what each KV head adds to it, head after
// head, so that its order is fixed.
//
//   parts   [KV head][token][width] float32;  target [token][width], bf16 or (FLOAT32) float32, over or (ADDS) added to
//
// Four columns to a thread. Floor: the parts read once over bandwidth.
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(256) attention_once(
    const float *parts, void *target, int heads, int tokens, int width, long long token_stride
) {
    const long long count = (long long)tokens * width / 4;
    const long long index = (long long)blockIdx.x * 256 + threadIdx.x;
    if (index >= count) return;
    const float4 *from = reinterpret_cast<const float4 *>(parts) + index;
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int head = 0; head < heads; ++head) {
        const float4 x = from[head * count];
        sum.x += x.x;
        sum.y += x.y;
        sum.z += x.z;
        sum.w += x.w;
    }
    const long long place = index / (width / 4) * token_stride + index % (width / 4) * 4;
#if FLOAT32
    float4 *to = reinterpret_cast<float4 *>(static_cast<float *>(target) + place);
#if ADDS
    const float4 old = *to;
    sum = {old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w};
#endif
    *to = sum;
#else
    uint2 *to = reinterpret_cast<uint2 *>(static_cast<bf16_bits *>(target) + place);
#if ADDS
    const uint2 old = *to;
    sum.x += __uint_as_float(old.x << 16);
    sum.y += __uint_as_float(old.x & 0xffff0000);
    sum.z += __uint_as_float(old.y << 16);
    sum.w += __uint_as_float(old.y & 0xffff0000);
#endif
    *to = make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
#endif
}
