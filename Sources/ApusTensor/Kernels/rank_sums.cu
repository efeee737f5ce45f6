// The end of a half layer of a model that is cut over ranks: the sum of the ranks' parts joins the residual stream, and the
// next norm begins. One block a row and 2,048 elements of it.
//
// add_sums takes a sum that is there. add_peer_sums makes it: every rank reads the parts of all from the memory of their GPUs
// and adds them in the same order in float32, so that all have the same bits. Flags in those memories say that a part is
// there. Parts lie in two places by turns: who writes one again has seen that all others begin a later sum, and so that they
// have read it.
//
// Floor: a round over NVLink, about 2 us; for many rows, the others' parts once over its bandwidth.
#include "rows.cuh"

#define THREADS 256
#define N 8
#define MOST_RANKS 8

struct PeerSums {
    const bf16_bits *parts[MOST_RANKS];  // of each rank: [rows][width]
    u32 *flags[MOST_RANKS];              // of each rank: [rank][block], the sums that this other rank has begun
    u32 *begun;                          // [block], the sums that this rank has begun
    int rank, ranks, blocks;
    int unused;
};

__device__ __forceinline__ void add_to_row(
    float (&sum)[N], bool wide, int i, float *residual, const float *weight, bf16_bits *y, float *squares, int width
) {
    __shared__ float warps[THREADS / 32];
    float total = 0.0f;
    if (i < width) {
        float values[N], weights[N];
        load(residual, i, width, wide, values);
        load(weight, i, width, wide, weights);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            values[j] += sum[j];
            total += values[j] * values[j];
            weights[j] *= values[j];
        }
        store(residual, i, width, wide, values);
        store(y, i, width, wide, weights);
    }
    total = group_sum<THREADS>(total, warps);
    if (threadIdx.x == 0) *squares = total;
}

extern "C" __global__ void __launch_bounds__(THREADS) add_sums(
    const bf16_bits *sums, float *residual, const float *weight, bf16_bits *y, float *squares, int width
) {
    grid_wait();
    grid_launch_dependents();
    const long long row = blockIdx.y;
    const int i = (blockIdx.x * THREADS + threadIdx.x) * N;
    const bool wide = width % N == 0;
    float sum[N] = {};
    if (i < width) load(sums + row * width, i, width, wide, sum);
    add_to_row(sum, wide, i, residual + row * width, weight, y + row * width, squares + row * gridDim.x + blockIdx.x, width);
}

extern "C" __global__ void __launch_bounds__(THREADS) add_peer_sums(
    const __grid_constant__ PeerSums p, float *residual, const float *weight, bf16_bits *y, float *squares, int width
) {
    const long long row = blockIdx.y;
    const int block = blockIdx.y * gridDim.x + blockIdx.x, i = (blockIdx.x * THREADS + threadIdx.x) * N;
    grid_wait();
    grid_launch_dependents();
    const u32 number = p.begun[block] + 1;
    if (threadIdx.x < 32) {
        const bool has_other = threadIdx.x < p.ranks && threadIdx.x != p.rank;
        if (has_other) raise_flag(p.flags[threadIdx.x] + p.rank * p.blocks + block, number);
        __syncwarp();
        if (has_other) await_flag(p.flags[p.rank] + threadIdx.x * p.blocks + block, number);
    }
    __syncthreads();
    if (threadIdx.x == 0) p.begun[block] = number;
    const bool wide = width % N == 0;
    float sum[N] = {};
    if (i < width) {
        float values[MOST_RANKS][N];
#pragma unroll
        for (int rank = 0; rank < MOST_RANKS; ++rank)
            if (rank < p.ranks) load(p.parts[rank] + row * width, i, width, wide, values[rank]);
#pragma unroll
        for (int rank = 0; rank < MOST_RANKS; ++rank)
            if (rank < p.ranks) {
#pragma unroll
                for (int j = 0; j < N; ++j) sum[j] += values[rank][j];
            }
    }
    add_to_row(sum, wide, i, residual + row * width, weight, y + row * width, squares + row * gridDim.x + blockIdx.x, width);
}
