// New tokens of grouped attention (MHA, GQA, MQA): norm and rotation of queries and keys, keys and values into the pages. For
// prompts, and for steps whose attention is decode.cu's.
//
//   qkv        [token][query heads | key heads | value heads] bf16, and `bias` of them, or none
//   query      [token][query head] bf16, normalised and rotated
//   sequences  [token]: the row of the page table; none: token i belongs to sequence i
//   positions  [token]; none: sequence i's new token stands at lengths[i] - 1, a negative one does not exist
//
// A warp takes a head of a token: a query, or a key with its value. Floor: qkv read, query and cache written once.
#include "grouped_rows.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)

struct GroupedAppend {
    const bf16_bits *qkv;
    const float *bias;
    const float *query_norm, *key_norm;  // [HEAD]
    const float *cosine, *sine;          // [position][ROTATED / 2]
    bf16_bits *query;
    bf16_bits *cache;
    const int *page_table;
    const int *sequences, *positions, *lengths;
    long long page_elements;
    int page_stride, tokens, query_heads, groups;
    float epsilon;
};

extern "C" __global__ void __launch_bounds__(THREADS) grouped_append(const __grid_constant__ GroupedAppend p) {
    __shared__ float heads[WARPS][HEAD];
    grid_wait();
    grid_launch_dependents();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, per_token = p.query_heads + p.groups;
    const int all = p.tokens * per_token;
#pragma unroll 1
    for (int i = blockIdx.x * WARPS + warp; i < all; i += gridDim.x * WARPS) {
        const int token = i / per_token, head = i - token * per_token;
        const int sequence = p.sequences != nullptr ? p.sequences[token] : token;
        const int position = p.positions != nullptr ? p.positions[token] : p.lengths[token] - 1;
        if (position < 0) continue;
        const bool is_query = head < p.query_heads;
        const int width = (p.query_heads + 2 * p.groups) * HEAD, group = head - p.query_heads;
        const bf16_bits *source = p.qkv + (long long)token * width + head * HEAD;
        const long long angle = (long long)position * (ROTATED / 2);
        __syncwarp();
        prepare_head(
            source, p.bias != nullptr ? p.bias + head * HEAD : nullptr, is_query ? p.query_norm : p.key_norm, p.epsilon,
            p.cosine + angle, p.sine + angle, heads[warp], lane);
        if (is_query) {
            bf16_bits *target = p.query + ((long long)token * p.query_heads + head) * HEAD;
            for (int at = 2 * lane; at < HEAD; at += 64)
                *reinterpret_cast<u32 *>(target + at) = pack_bf16(heads[warp][at], heads[warp][at + 1]);
        } else {
            bf16_bits *row = cache_row(
                p.cache, p.page_table + (long long)sequence * p.page_stride, p.page_elements, group, position);
            append_row(
                row, heads[warp], source + p.groups * HEAD, p.bias != nullptr ? p.bias + (head + p.groups) * HEAD : nullptr,
                lane);
        }
    }
}
