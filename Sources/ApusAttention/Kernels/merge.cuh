// Merges the partial results of one cut item: O = sum_s w_s O_s, w_s = 2^(lse_s - lse).
//
// Partial rows are normalised by their own sums; lse is base 2 there and natural in the output.
// Floor: the partial rows read once, from L2; in practice the latency of one read, for the copy engine brings
// all slots at once while the weights are computed. The code is kept short: it runs once a launch, when the
// instructions are not in any cache.
#pragma once

#include "ptx.cuh"

// At most this many slots of one item: a contributor per worker.
#define MAX_SLOTS 288

struct MergeRows {
    const float *partial;      // of the first slot's first row, [slot x stride][row][width]
    const float *partial_lse;  // [slot x stride][row]
    long long stride;          // rows from a slot to the next
    int slots;
    int first_row, last_row;  // rows [first_row, last_row) are merged here
};

// weights[row][slot], and the rows' log-sum-exp. A segment of lanes takes the slots of one row.
template <int THREADS, typename Target>
__device__ __forceinline__ void merge_weights(const MergeRows &m, float *weights, int thread, Target target, float *lse) {
    const int warp = thread / 32, lane = thread % 32;
    const int rows = m.last_row - m.first_row;
    int segment = 1;
    while (segment < 32 && segment < m.slots) segment *= 2;
    const int rows_at_once = 32 / segment;
#pragma unroll 1
    for (int first = warp * rows_at_once; first < rows; first += THREADS / 32 * rows_at_once) {
        const int row = first + lane / segment;
        float values[MAX_SLOTS / 32];
        float largest = -infinity(), sum = 0.0f;
#pragma unroll
        for (int i = 0; i < MAX_SLOTS / 32; ++i) {
            int slot = lane % segment + i * segment;
            values[i] = row < rows && slot < m.slots ? __ldcg(m.partial_lse + slot * m.stride + m.first_row + row) : -infinity();
            largest = fmaxf(largest, values[i]);
        }
#pragma unroll 1
        for (int i = segment / 2; i > 0; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, i));
        const float subtract = largest == -infinity() ? 0.0f : largest;
#pragma unroll
        for (int i = 0; i < MAX_SLOTS / 32; ++i) {
            values[i] = exp2_approximate(values[i] - subtract);
            sum += values[i];
        }
#pragma unroll 1
        for (int i = segment / 2; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffff, sum, i);
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
        for (int i = 0; i < MAX_SLOTS / 32; ++i) {
            int slot = lane % segment + i * segment;
            if (row < rows && slot < m.slots) weights[row * m.slots + slot] = values[i] * inverse;
        }
        if (row < rows && lane % segment == 0)
            lse[target(m.first_row + row)] = sum > 0.0f ? (largest + log2_approximate(sum)) * 0.69314718055994531f : -infinity();
    }
}

// Rows of PARTS x WIDTH columns, WIDTH of them at a time. `weights` has room for rows x slots, `staged` (shared too)
// holds `capacity` bytes, at least slots x WIDTH floats; `target(row)` is the row's place in the output; `barrier` has
// completed `phase` phases. Returns the phases then.
template <int ROW_WIDTH, int PARTS, int THREADS, typename Target>
__device__ __forceinline__ u32 merge_rows(
    const MergeRows &m, float *weights, float *staged, int capacity, u32 barrier, u32 phase, int thread, Target target,
    bf16_bits *output, float *lse
) {
    const int WIDTH = ROW_WIDTH / PARTS;
    const int chunk = min(m.last_row - m.first_row, capacity / (m.slots * WIDTH * 4));
#pragma unroll 1
    for (int first = m.first_row; first < m.last_row; first += chunk) {
        MergeRows part = m;
        part.first_row = first;
        part.last_row = min(first + chunk, m.last_row);
        const int rows = part.last_row - first;
        const int runs = PARTS == 1 ? 1 : rows, run = rows / runs * WIDTH;  // whole rows lie in one run
#pragma unroll 1
        for (int base = 0; base < ROW_WIDTH; base += WIDTH) {
            if (thread < 32) {
                fence_proxies();
                if (thread == 0) barrier_expect(barrier, m.slots * rows * WIDTH * 4);
                __syncwarp();
#pragma unroll 1
                for (int copy = thread; copy < m.slots * runs; copy += 32)
                    copy_bulk(
                        shared_address(staged) + copy * run * 4,
                        m.partial + (copy / runs * m.stride + first + copy % runs) * ROW_WIDTH + base, run * 4, barrier);
            }
            if (base == 0) merge_weights<THREADS>(part, weights, thread, target, lse);
            named_sync(1, THREADS);
            barrier_wait(barrier, phase++ & 1);
#pragma unroll 1
            for (int task = thread; task < rows * (WIDTH / 4); task += THREADS) {
                const int row = task / (WIDTH / 4), column = task % (WIDTH / 4) * 4;
                float4 sum = {};
#pragma unroll 4
                for (int slot = 0; slot < m.slots; ++slot) {
                    float weight = weights[row * m.slots + slot];
                    float4 x = *reinterpret_cast<const float4 *>(staged + (slot * rows + row) * WIDTH + column);
                    sum.x += weight * x.x;
                    sum.y += weight * x.y;
                    sum.z += weight * x.z;
                    sum.w += weight * x.w;
                }
                *reinterpret_cast<uint2 *>(output + target(first + row) * ROW_WIDTH + base + column) =
                    make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
            }
            named_sync(1, THREADS);
        }
    }
    return phase;
}
