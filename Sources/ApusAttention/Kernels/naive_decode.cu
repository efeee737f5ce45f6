// The checker: decode attention over a paged cache for every CacheGeometry, as plainly as it can be said.
//
//   score  = q_shared . shared[group] + q_key . key[group, or the one kept once]
//   output = softmax(scale score) [shared[group] | value[group]]
//
// cache   a page: [group][token][shared | value | own key], then [token][once key]; with `fp8` the rows in e4m3 and, after
//         the keys, [group][token] float32 scales
// query   [sequence][query token][query head][shared | key]
// output  [sequence][query token][query head][shared | value] float32; lse natural log
// One block per (head, query token, sequence); double accumulation; one score at a time.
#include "ptx.cuh"

struct Geometry {
    int query_heads, groups, shared_width, key_width, value_width, key_once, page_size, fp8;
};

__device__ __forceinline__ double e4m3_value(unsigned char code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const double magnitude = exponent ? ldexp(8.0 + mantissa, exponent - 10) : ldexp((double)mantissa, -9);
    return code & 128 ? -magnitude : magnitude;
}

__device__ __forceinline__ double element(const unsigned char *row, int i, int fp8) {
    return fp8 ? e4m3_value(row[i]) : (double)bf16_to_float(reinterpret_cast<const bf16_bits *>(row)[i]);
}

extern "C" __global__ void __launch_bounds__(128) naive_decode(
    const bf16_bits *query, const unsigned char *cache, const int *page_table, int page_stride, const int *lengths,
    float *output, float *lse, Geometry g, int query_tokens, float scale
) {
    int head = blockIdx.x, token = blockIdx.y, sequence = blockIdx.z, thread = threadIdx.x;
    int group = head / (g.query_heads / g.groups);
    int width = g.shared_width + g.value_width;
    int row_width = width + (g.key_once ? 0 : g.key_width);
    long long row_bytes = row_width * (g.fp8 ? 1 : 2), plane = g.groups * g.page_size * row_bytes;
    long long key_bytes = g.key_once ? g.page_size * g.key_width * 2ll : 0;
    long long page_bytes = plane + key_bytes + (g.fp8 ? g.groups * g.page_size * 4ll : 0);
    long long index = ((long long)sequence * query_tokens + token) * g.query_heads + head;
    const bf16_bits *q = query + index * (g.shared_width + g.key_width);
    int visible = lengths[sequence] - query_tokens + token + 1;
    __shared__ double parts[4];
    double largest = -1e300, sum = 0.0, o[4] = {};
    for (int position = 0; position < visible; ++position) {
        const unsigned char *page = cache + page_table[(long long)sequence * page_stride + position / g.page_size] * page_bytes;
        int offset = position % g.page_size;
        const unsigned char *row = page + ((long long)group * g.page_size + offset) * row_bytes;
        const bf16_bits *key = reinterpret_cast<const bf16_bits *>(g.key_once ? page + plane : row + width * 2)
            + (g.key_once ? (long long)offset * g.key_width : 0);
        double token_scale =
            g.fp8 ? reinterpret_cast<const float *>(page + plane + key_bytes)[group * g.page_size + offset] : 1.0;
        double part = 0.0;
        for (int i = thread; i < g.shared_width; i += 128)
            part += (double)bf16_to_float(q[i]) * (element(row, i, g.fp8) * token_scale);
        for (int i = thread; i < g.key_width; i += 128)
            part += (double)bf16_to_float(q[g.shared_width + i]) * bf16_to_float(key[i]);
        for (int i = 16; i > 0; i /= 2) part += __shfl_xor_sync(0xffffffff, part, i);
        __syncthreads();
        if (thread % 32 == 0) parts[thread / 32] = part;
        __syncthreads();
        double score = (parts[0] + parts[1] + parts[2] + parts[3]) * scale;
        double next = score > largest ? score : largest;
        double shrink = exp(largest - next), weight = exp(score - next);
        sum = sum * shrink + weight;
        for (int i = thread, j = 0; i < width; i += 128, ++j)
            o[j] = o[j] * shrink + weight * (element(row, i, g.fp8) * token_scale);
        largest = next;
    }
    for (int i = thread, j = 0; i < width; i += 128, ++j) output[index * width + i] = sum > 0.0 ? o[j] / sum : 0.0;
    if (thread == 0) lse[index] = sum > 0.0 ? largest + log(sum) : -infinity();
}
