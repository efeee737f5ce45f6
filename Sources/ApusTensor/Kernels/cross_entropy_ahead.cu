// Cross-entropy as cross_entropy.cu computes it, of bf16 rows of which two fit shared memory: while a block is at a row, the
// next one is on its way, so that the memory never rests. Widths are multiples of 8, addresses of 16.
//
// Both passes read shared memory; the gradient may go where the logits are.
//
// Floor: as cross_entropy.cu.
#include "rows.cuh"

#define THREADS 1024
#define SLOTS 2
#define N 8
#define COPY_BYTES (16 << 10)
#define LOG2_E 1.4426950408889634f
// A finite start, so that rows of minus infinity subtract nothing infinite from it.
#define LOWEST (-1e38f)

extern __shared__ __align__(128) unsigned char memory[];

// The maximum of some numbers and the sum of their exponentials relative to it.
struct Sum {
    float maximum, sum;
};

__device__ __forceinline__ Sum warp_sum(Sum s) {
    float maximum = s.maximum;
#pragma unroll
    for (int i = 16; i > 0; i /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(FULL_WARP, maximum, i));
    return {maximum, group_sum<32, float>(s.sum * exp2_approximate((s.maximum - maximum) * LOG2_E), nullptr)};
}

__device__ __forceinline__ void fetch(const bf16_bits *row, u32 target, u32 bytes, u32 barrier) {
    barrier_expect(barrier, bytes);
    for (u32 done = 0; done < bytes; done += COPY_BYTES)
        copy_bulk(
            target + done, reinterpret_cast<const char *>(row) + done, min(bytes - done, (u32)COPY_BYTES), barrier);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) cross_entropy_ahead(
    const bf16_bits *logits, const int *targets, const float *scales, bf16_bits *gradient, float *log_probabilities, int rows,
    int width
) {
    __shared__ alignas(8) u64 barriers[SLOTS];
    __shared__ Sum sums[SLOTS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 bytes = width * 2, pitch = (bytes + 127) / 128 * 128;
    const u32 full = shared_address(barriers), buffers = shared_address(memory);
    grid_launch_dependents();
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < SLOTS; ++slot) barrier_init(full + 8 * slot, 1);
        barrier_init_fence();
        grid_wait();
        for (int slot = 0; slot < SLOTS; ++slot) {
            const int row = blockIdx.x + slot * gridDim.x;
            if (row < rows) fetch(logits + (long long)row * width, buffers + slot * pitch, bytes, full + 8 * slot);
        }
    }
    __syncthreads();
    grid_wait();
    int number = 0;
    for (int row = blockIdx.x; row < rows; row += gridDim.x, ++number) {
        const int slot = number % SLOTS, target = targets[row];
        const bf16_bits *own = reinterpret_cast<const bf16_bits *>(memory + slot * pitch);
        barrier_wait(full + 8 * slot, number / SLOTS & 1);
        Sum mine = {LOWEST, 0.0f};
        for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
            float values[N];
            load_wide(own + i, values);
            float largest = mine.maximum;
#pragma unroll
            for (int j = 0; j < N; ++j) largest = fmaxf(largest, values[j]);
            if (largest > mine.maximum) {
                mine.sum *= exp2_approximate((mine.maximum - largest) * LOG2_E);
                mine.maximum = largest;
            }
            const float shift = mine.maximum * LOG2_E;
#pragma unroll
            for (int j = 0; j < N; ++j) mine.sum += exp2_approximate(fmaf(values[j], LOG2_E, -shift));
        }
        mine = warp_sum(mine);
        if (lane == 0) sums[slot][warp] = mine;
        __syncthreads();
        const Sum all = warp_sum(sums[slot][lane]);
        const float log_sum = all.maximum + logf(all.sum), shift = log_sum * LOG2_E;
        if (threadIdx.x == 0)
            log_probabilities[row] =
                target < 0 ? 0.0f : target < width ? as_float(own[target]) - log_sum : __int_as_float(0x7fffffff);
        if (gradient != nullptr) {
            const float scale = target < 0 ? 0.0f : scales[row];
            bf16_bits *out = gradient + (long long)row * width;
            for (int i = threadIdx.x * N; i < width; i += THREADS * N) {
                float values[N];
                load_wide(own + i, values);
#pragma unroll
                for (int j = 0; j < N; ++j)
                    values[j] = scale == 0.0f ? 0.0f : scale * exp2_approximate(fmaf(values[j], LOG2_E, -shift));
                store_wide(out + i, values);
            }
            // The thread that has written the target's probability.
            if (scale != 0.0f && target / N % THREADS == threadIdx.x && target < width)
                put(out + target, scale * (exp2_approximate(fmaf(as_float(own[target]), LOG2_E, -shift)) - 1.0f));
        }
        // The row's place is free once everyone has read it.
        __syncthreads();
        const int next = row + SLOTS * gridDim.x;
        if (threadIdx.x == 0 && next < rows)
            fetch(logits + (long long)next * width, buffers + slot * pitch, bytes, full + 8 * slot);
    }
}
