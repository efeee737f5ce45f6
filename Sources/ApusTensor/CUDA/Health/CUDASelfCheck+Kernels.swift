extension CUDASelfCheck {
    /// The kernels that the checks launch. What needs Hopper is left out elsewhere.
    package static let source = CUDASource(
        name: "self_check.cu",
        text: #"""
            typedef unsigned long long u64;

            extern "C" __global__ void fill(unsigned *p, unsigned value, long long n) {
                for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) p[i] = value;
            }

            extern "C" __global__ void add(unsigned *p, unsigned value, long long n) {
                for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) p[i] += value;
            }

            extern "C" __global__ void count_differences(const unsigned *p, unsigned value, long long n, unsigned *count) {
                unsigned found = 0;
                for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
                    found += p[i] != value;
                if (found) atomicAdd(count, found);
            }

            __device__ u64 nanoseconds() {
                u64 now;
                asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
                return now;
            }

            extern "C" __global__ void spin(long long duration) {
                u64 end = nanoseconds() + duration;
                while (nanoseconds() < end) {
                }
            }

            // Every block waits for all others: ends only when they run at once.
            extern "C" __global__ void meet(unsigned *arrived) {
                if (threadIdx.x == 0) {
                    atomicAdd(arrived, 1);
                    while (*(volatile unsigned *)arrived < gridDim.x) {
                    }
                }
            }

            // Writes and reads all of the dynamic shared memory.
            extern "C" __global__ void shared_memory(unsigned *out, int words) {
                extern __shared__ unsigned memory[];
                for (int i = threadIdx.x; i < words; i += blockDim.x) memory[i] = i * 7;
                __syncthreads();
                unsigned wrong = 0;
                for (int i = threadIdx.x; i < words; i += blockDim.x) wrong += memory[words - 1 - i] != (words - 1 - i) * 7;
                if (wrong) atomicAdd(out, wrong);
                if (threadIdx.x == 0) atomicAdd(out + 1, 1);
            }

            extern "C" __global__ void fault(unsigned *p) { p[threadIdx.x] = 1; }

            #if __CUDA_ARCH__ >= 900
            extern "C" __global__ void cluster_ranks(unsigned *out) {
                unsigned rank, size;
                asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
                asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
                if (threadIdx.x == 0) out[blockIdx.x] = rank * 100 + size;
            }

            // Starts while its predecessor runs, and waits for its results.
            extern "C" __global__ void dependent(unsigned *p, long long n) {
                asm volatile("griddepcontrol.launch_dependents;");
                asm volatile("griddepcontrol.wait;" ::: "memory");
                for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
                    p[i] = p[i] * 2 + 1;
            }

            struct alignas(64) TensorMap {
                u64 words[16];
            };

            // A tile of 8 rows of 64 two-byte elements.
            extern "C" __global__ void load_tile(
                const __grid_constant__ TensorMap map, unsigned short *out, int column, int row) {
                __shared__ alignas(128) unsigned short tile[8 * 64];
                __shared__ alignas(8) u64 barrier;
                unsigned bar = (unsigned)__cvta_generic_to_shared(&barrier);
                unsigned to = (unsigned)__cvta_generic_to_shared(tile);
                if (threadIdx.x == 0) {
                    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
                    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
                    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" ::"r"(bar) : "memory");
                    asm volatile(
                        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                        "l"(&map), "r"(column), "r"(row), "r"(bar)
                        : "memory");
                }
                __syncthreads();
                unsigned done = 0;
                while (!done)
                    asm volatile(
                        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                        : "=r"(done)
                        : "r"(bar)
                        : "memory");
                for (int i = threadIdx.x; i < 8 * 64; i += blockDim.x) out[i] = tile[i];
            }
            #endif
            """#)
}
