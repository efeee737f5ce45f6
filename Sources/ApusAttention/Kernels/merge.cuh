// Merges the partial results of one cut item: O = sum_s w_s O_s, w_s = 2^(lse_s - lse).
//
// Partial rows are normalised by their own sums and kept in bf16; lse is base 2 there and natural in the output.
//
// A partial result is cut into strips of 4 rows x 32 columns, [row / 4][column / 32], 256 bytes each: 16 lanes of 16
// bytes, [row % 4][column % 8 / 2], a lane's four words being columns 8 apart. So a warp's accumulators leave in whole
// lines and any run of strips is one copy.
//
// Floor: the strips read once, from L2; in practice the latency of one read, for the copy engine brings each slot as
// soon as it is announced. The code is kept short: it runs once a launch, when the instructions are not in any cache.
#pragma once

#include "ptx.cuh"

#define STRIP_BYTES 256
#define STRIPS_ACROSS(WIDTH) (((WIDTH) + 31) / 32)

// The strips [first, last) of one item.
struct MergeStrips {
    const char *partial;       // of the first slot's first strip, [slot x strip_stride][strip]
    const float *partial_lse;  // [slot x row_stride][row]
    const u32 *arrivals;       // [slot x arrival_stride]: `goal` once the slot is written
    u32 goal;
    int strip_stride, row_stride, arrival_stride;
    int slots, first, last;
    int rows;  // of the tile that exist
};

// Where a pair of columns of a row lies in a partial result, in bytes.
template <int WIDTH>
__device__ __forceinline__ int strip_place(int row, int column) {
    return (row / 4 * STRIPS_ACROSS(WIDTH) + column / 32) * STRIP_BYTES + row % 4 * 64 + column % 8 * 8 + column % 32 / 8 * 4;
}

// Log-sum-exps [slot][row] to weights, in place; the rows' own, and where they lie in the output. A segment of lanes takes
// the slots of one row.
template <int THREADS, typename Target>
__device__ __forceinline__ void merge_weights(
    float *weights, int slots, int first_row, int rows, int existing, int thread, Target target, long long *places,
    float *lse
) {
    int segment = 1;
    while (segment < 32 && segment < slots) segment *= 2;
    const int warp = thread / 32, lane = thread % 32, rows_at_once = 32 / segment;
#pragma unroll 1
    for (int first = warp * rows_at_once; first < rows; first += THREADS / 32 * rows_at_once) {
        const int row = first + lane / segment, begin = row < rows ? lane % segment : slots;
        float largest = -infinity(), sum = 0.0f;
#pragma unroll 1
        for (int slot = begin; slot < slots; slot += segment) largest = fmaxf(largest, weights[slot * rows + row]);
#pragma unroll 1
        for (int i = segment / 2; i > 0; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, i));
        const float subtract = largest == -infinity() ? 0.0f : largest;
#pragma unroll 1
        for (int slot = begin; slot < slots; slot += segment) {
            const float weight = exp2_approximate(weights[slot * rows + row] - subtract);
            weights[slot * rows + row] = weight;
            sum += weight;
        }
#pragma unroll 1
        for (int i = segment / 2; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffff, sum, i);
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll 1
        for (int slot = begin; slot < slots; slot += segment) weights[slot * rows + row] *= inverse;
        if (begin > 0 || first_row + row >= existing) continue;
        const long long place = target(first_row + row);
        places[row] = place;
        lse[place] = sum > 0.0f ? (largest + log2_approximate(sum)) * 0.69314718055994531f : -infinity();
    }
}

// `memory`, shared, holds slots x strips x STRIP_BYTES, 16 bytes for each 4 rows and slot, and 8 bytes a row;
// `target(row)` is the row's place in the output; `barrier` is in the phase of parity `phase`, and completes it.
template <int WIDTH, int THREADS, typename Target>
__device__ __forceinline__ void merge_strips(
    const MergeStrips &m, unsigned char *memory, u32 barrier, u32 phase, int thread, Target target, bf16_bits *output,
    float *lse
) {
    const int across = STRIPS_ACROSS(WIDTH), strips = m.last - m.first;
    const int first_row = m.first / across * 4, rows = ((m.last - 1) / across + 1) * 4 - first_row;
    float *weights = reinterpret_cast<float *>(memory + m.slots * strips * STRIP_BYTES);
    long long *places = reinterpret_cast<long long *>(weights + m.slots * rows);
    if (thread == 0) barrier_expect(barrier, m.slots * (strips * STRIP_BYTES + rows * 4));
    int slot = thread % 32 * (THREADS / 32) + thread / 32;  // few slots are awaited by a warp each
    while (__any_sync(0xffffffff, slot < m.slots)) {
        if (slot < m.slots && (int)(load_acquire(m.arrivals + slot * m.arrival_stride) - m.goal) >= 0) {
            fence_proxies();
            copy_bulk(
                shared_address(memory) + slot * strips * STRIP_BYTES,
                m.partial + ((long long)slot * m.strip_stride + m.first) * STRIP_BYTES, strips * STRIP_BYTES, barrier);
            copy_bulk(
                shared_address(weights + slot * rows), m.partial_lse + (long long)slot * m.row_stride + first_row, rows * 4,
                barrier);
            slot += THREADS;
        }
    }
    barrier_wait(barrier, phase);
    merge_weights<THREADS>(weights, m.slots, first_row, rows, m.rows, thread, target, places, lse);
    named_sync(1, THREADS);
#pragma unroll 1
    for (int task = thread; task < strips * (STRIP_BYTES / 8); task += THREADS) {
        const int strip = m.first + task / 32, place = task % 32;
        const int row = strip / across * 4 + place / 8, column = strip % across * 32 + place % 2 * 16 + place / 2 % 4 * 2;
        float sum[4] = {};
#pragma unroll 4
        for (int slot = 0; slot < m.slots; ++slot) {
            const float weight = weights[slot * rows + row - first_row];
            const uint2 x = *reinterpret_cast<const uint2 *>(memory + slot * strips * STRIP_BYTES + task * 8);
            sum[0] += weight * __uint_as_float(x.x << 16);
            sum[1] += weight * __uint_as_float(x.x & 0xffff0000);
            sum[2] += weight * __uint_as_float(x.y << 16);
            sum[3] += weight * __uint_as_float(x.y & 0xffff0000);
        }
        if (row >= m.rows) continue;
        bf16_bits *out = output + places[row - first_row] * WIDTH + column;
        if (column < WIDTH) *reinterpret_cast<u32 *>(out) = pack_bf16(sum[0], sum[1]);
        if (column + 8 < WIDTH) *reinterpret_cast<u32 *>(out + 8) = pack_bf16(sum[2], sum[3]);
    }
    named_sync(1, THREADS);
}
