// The checker: decode attention over a paged cache for every CacheGeometry, as plainly as it can be said.
//
//   score  = q_shared . shared[group] + q_key . key[group, or the one kept once]
//   output = softmax(scale score) [shared[group] | value[group]]
//
// cache   a page: [group][token][shared | value | own key], then [token][once key]
// query   [sequence][query token][query head][shared | key]
// output  [sequence][query token][query head][shared | value] float32; lse natural log
// One block per (head, query token, sequence); double accumulation; one score at a time.
#include "ptx.cuh"

struct Geometry {
    int query_heads, groups, shared_width, key_width, value_width, key_once, page_size;
};

extern "C" __global__ void __launch_bounds__(128) naive_decode(
    const bf16_bits *query, const bf16_bits *cache, const int *page_table, int page_stride, const int *lengths,
    float *output, float *lse, Geometry g, int query_tokens, float scale
) {
    int head = blockIdx.x, token = blockIdx.y, sequence = blockIdx.z, thread = threadIdx.x;
    int group = head / (g.query_heads / g.groups);
    int width = g.shared_width + g.value_width;
    int row_width = width + (g.key_once ? 0 : g.key_width);
    long long plane = (long long)g.groups * g.page_size * row_width;
    long long page_elements = plane + (g.key_once ? (long long)g.page_size * g.key_width : 0);
    long long index = ((long long)sequence * query_tokens + token) * g.query_heads + head;
    const bf16_bits *q = query + index * (g.shared_width + g.key_width);
    int visible = lengths[sequence] - query_tokens + token + 1;
    __shared__ double parts[128];
    double largest = -1e300, sum = 0.0, o[8] = {};
    for (int position = 0; position < visible; ++position) {
        const bf16_bits *page = cache + page_table[(long long)sequence * page_stride + position / g.page_size] * page_elements;
        int offset = position % g.page_size;
        const bf16_bits *row = page + ((long long)group * g.page_size + offset) * row_width;
        const bf16_bits *key = g.key_once ? page + plane + (long long)offset * g.key_width : row + width;
        double part = 0.0;
        for (int i = thread; i < g.shared_width; i += 128) part += (double)bf16_to_float(q[i]) * bf16_to_float(row[i]);
        for (int i = thread; i < g.key_width; i += 128)
            part += (double)bf16_to_float(q[g.shared_width + i]) * bf16_to_float(key[i]);
        parts[thread] = part;
        __syncthreads();
        double score = 0.0;
        for (int i = 0; i < 128; ++i) score += parts[i];
        __syncthreads();
        score *= scale;
        double next = score > largest ? score : largest;
        double shrink = exp(largest - next), weight = exp(score - next);
        sum = sum * shrink + weight;
        for (int i = thread, j = 0; i < width; i += 128, ++j) o[j] = o[j] * shrink + weight * bf16_to_float(row[i]);
        largest = next;
    }
    for (int i = thread, j = 0; i < width; i += 128, ++j) output[index * width + i] = sum > 0.0 ? o[j] / sum : 0.0;
    if (thread == 0) lse[index] = sum > 0.0 ? largest + log(sum) : -infinity();
}
