// Merges the partial results of sequences that the schedule cut: O = sum_s w_s O_s, w_s = 2^(lse_s - lse).
//
// partial     [slot][lane][tile row][WIDTH] float32, each normalised by its own sum; partial_lse base 2
// output      [sequence][query token][query head][WIDTH] bf16; lse natural log
// A block of 8 warps takes a few rows at a time; the warps of one row share out its slots. Floor: the partial
// results read once, from L2.
//
// Set at compile time: WIDTH (multiple of 64), TILE_ROWS (rows of one lane's tile).
#include "ptx.cuh"
#include "schedule.cuh"

#define WARPS 8
#define PER_LANE (WIDTH / 32)

struct Combine {
    const float *partial;
    const float *partial_lse;
    const SplitItem *splits;
    const int *split_count;
    bf16_bits *output;
    float *lse;
    int query_tokens;
    int query_heads;
    int heads_per_group;
    int lanes;
    int row_tiles;
};

extern "C" __global__ void __launch_bounds__(WARPS * 32) decode_combine(const __grid_constant__ Combine p) {
    __shared__ alignas(16) float merged[WARPS][WIDTH];
    __shared__ float reference[WARPS], sums[WARPS];
    grid_launch_dependents();
    grid_wait();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int rows = p.heads_per_group * p.query_tokens;
    const int count = *p.split_count;
    const int tile_rows = min(rows, TILE_ROWS);
    // Warps to a row: enough that each has few slots, a power of two.
    int sharing = 1;
    if (count > 0)
        while (sharing < WARPS && sharing * 2 <= p.splits[0].slots) sharing *= 2;
    const int rows_at_once = WARPS / sharing;
    const int tasks_per_lane = (tile_rows + rows_at_once - 1) / rows_at_once;
    const int tasks = count * p.lanes * tasks_per_lane;
    for (int task = blockIdx.x; task < tasks; task += gridDim.x) {
        SplitItem item = p.splits[task / (p.lanes * tasks_per_lane)];
        int lane_index = task / tasks_per_lane % p.lanes;
        int local = task % tasks_per_lane * rows_at_once + warp / sharing;
        int share = warp % sharing;
        int tile = item.outer * p.lanes + lane_index;
        int group = tile / p.row_tiles;
        int row = tile % p.row_tiles * TILE_ROWS + local;
        bool valid = local < tile_rows && row < rows;

        float sum = 0.0f, largest = -infinity();
        float o[PER_LANE];
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) o[i] = 0.0f;
        if (valid) {
            const long long stride = (long long)p.lanes * TILE_ROWS;
            const long long first = ((long long)item.first_slot * p.lanes + lane_index) * TILE_ROWS + local;
            for (int slot = share + lane * sharing; slot < item.slots; slot += 32 * sharing)
                largest = fmaxf(largest, p.partial_lse[first + slot * stride]);
#pragma unroll
            for (int i = 16; i > 0; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, i));
            float subtract = largest == -infinity() ? 0.0f : largest;
#pragma unroll 8
            for (int slot = share; slot < item.slots; slot += sharing) {
                float weight = exp2_approximate(p.partial_lse[first + slot * stride] - subtract);
                sum += weight;
                const float2 *source = reinterpret_cast<const float2 *>(p.partial + (first + slot * stride) * WIDTH);
#pragma unroll
                for (int i = 0; i < PER_LANE / 2; ++i) {
                    float2 x = source[i * 32 + lane];
                    o[2 * i] += weight * x.x;
                    o[2 * i + 1] += weight * x.y;
                }
            }
        }
        if (sharing > 1) {
            __syncthreads();
#pragma unroll
            for (int i = 0; i < PER_LANE / 2; ++i)
                *reinterpret_cast<float2 *>(&merged[warp][(i * 32 + lane) * 2]) = make_float2(o[2 * i], o[2 * i + 1]);
            if (lane == 0) {
                reference[warp] = largest;
                sums[warp] = sum;
            }
            __syncthreads();
            if (share == 0 && valid) {
                float all = -infinity();
                for (int i = 0; i < sharing; ++i) all = fmaxf(all, reference[warp + i]);
                float subtract = all == -infinity() ? 0.0f : all;
                sum = 0.0f;
#pragma unroll
                for (int i = 0; i < PER_LANE; ++i) o[i] = 0.0f;
                for (int other = 0; other < sharing; ++other) {
                    float weight = exp2_approximate(reference[warp + other] - subtract);
                    sum += weight * sums[warp + other];
#pragma unroll
                    for (int i = 0; i < PER_LANE; ++i)
                        o[i] += weight * merged[warp + other][(i / 2 * 32 + lane) * 2 + i % 2];
                }
                largest = all;
            }
        }
        if (share == 0 && valid) {
            int token = row / p.heads_per_group;
            int head = group * p.heads_per_group + row - token * p.heads_per_group;
            long long index = ((long long)item.sequence * p.query_tokens + token) * p.query_heads + head;
            float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
            if (lane == 0)
                p.lse[index] =
                    sum > 0.0f ? (largest + log2_approximate(sum)) * 0.69314718055994531f : -infinity();
#pragma unroll
            for (int i = 0; i < PER_LANE / 2; ++i)
                *reinterpret_cast<u32 *>(p.output + index * WIDTH + (i * 32 + lane) * 2) =
                    pack_bf16(o[2 * i] * inverse, o[2 * i + 1] * inverse);
        }
    }
}
