// Every PTX instruction that Apus's kernels use, wrapped once. No NVIDIA header is needed: the file
// compiles under NVRTC as it stands, for sm_90a.
//
// Shared-memory addresses are 32-bit (`shared_address`); mbarriers are 8 bytes in shared memory.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short bf16_bits;

// A CUtensorMap, as the driver encodes it; kernels take it by value in a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    u64 words[16];
};

// Makes the value unknown to the compiler from here on, so that nothing derived from it is computed earlier.
__device__ __forceinline__ void keep_in_place(u32 &value) {
    asm volatile("" : "+r"(value));
}

__device__ __forceinline__ void keep_in_place(int &value) {
    asm volatile("" : "+r"(value));
}

__device__ __forceinline__ u32 shared_address(const void *pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// ---- mbarrier ----

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Returns once the phase of this parity has completed.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra finished;\n"
        "bra again;\n"
        "finished:\n"
        "}\n" ::"r"(barrier), "r"(parity) : "memory");
}

// ---- named barriers of a block ----

__device__ __forceinline__ void named_sync(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Whether `mine` holds in any of the threads.
__device__ __forceinline__ bool named_sync_any(u32 id, u32 threads, bool mine) {
    u32 any;
    asm volatile(
        "{\n"
        ".reg .pred mine, any;\n"
        "setp.ne.u32 mine, %1, 0;\n"
        "barrier.cta.red.or.pred any, %2, %3, mine;\n"
        "selp.u32 %0, 1, 0, any;\n"
        "}\n" : "=r"(any) : "r"((u32)mine), "r"(id), "r"(threads) : "memory");
    return any;
}

// ---- ordering and launch overlap ----

// Makes this thread's ordinary writes to shared memory visible to wgmma and to the copy engine.
__device__ __forceinline__ void fence_async_proxy() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The same for device memory too, and for what other threads wrote and this one has acquired.
__device__ __forceinline__ void fence_proxies() {
    asm volatile("fence.proxy.async;" ::: "memory");
}

// Lets the next kernel of the stream start its launch; it still waits for our memory in `grid_wait`.
__device__ __forceinline__ void grid_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ void grid_wait() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// ---- flags between GPUs ----

// Tells who awaits the flag, on any GPU, that what this thread has seen written is there.
__device__ __forceinline__ void raise_flag(u32 *flag, u32 number) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(number) : "memory");
}

// Waits until a flag is at `number` or beyond.
__device__ __forceinline__ void await_flag(const u32 *flag, u32 number) {
    u32 found;
    do {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(found) : "l"(flag) : "memory");
    } while ((int)(found - number) < 0);
}

template <int registers>
__device__ __forceinline__ void registers_grow() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

template <int registers>
__device__ __forceinline__ void registers_shrink() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// ---- copies ----

__device__ __forceinline__ void prefetch_map(const TensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void copy_tile_3d(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];"
        ::"r"(target), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2) : "memory");
}

__device__ __forceinline__ void copy_tile_5d(
    u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2, int c3, int c4
) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
        ::"r"(target), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4) : "memory");
}

// Cache policies: what is read once goes first from L2, where tables, queries and partial results then stay.
#define READ_ONCE 0x12f0000000000000ull
#define READ_AGAIN 0x1000000000000000ull

__device__ __forceinline__ void stream_tile_3d(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%3, %4, %5}], [%2], %6;"
        ::"r"(target), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "l"(READ_ONCE) : "memory");
}

__device__ __forceinline__ void stream_tile_5d(
    u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2, int c3, int c4
) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;"
        ::"r"(target), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(READ_ONCE) : "memory");
}

// A run of bytes, a multiple of 16.
__device__ __forceinline__ void copy_bulk(u32 target, const void *source, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
                 "l"(source), "r"(bytes), "r"(barrier)
                 : "memory");
}

// Brings the tile into L2 only.
__device__ __forceinline__ void prefetch_tile_5d(const TensorMap *map, int c0, int c1, int c2, int c3, int c4) {
    asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %2, %3, %4, %5}];" ::"l"(map), "r"(c0), "r"(c1),
                 "r"(c2), "r"(c3), "r"(c4)
                 : "memory");
}

// 16 bytes, or 16 zero bytes when `bytes` is 0.
__device__ __forceinline__ void copy_16(u32 target, const void *source, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}

__device__ __forceinline__ void stream_16(u32 target, const void *source, u32 bytes, u64 policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(target), "l"(source), "r"(bytes),
                 "l"(policy)
                 : "memory");
}

// 16 bytes that are read once, past L1.
__device__ __forceinline__ uint4 load_once_16(const void *source) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(source));
    return x;
}

// Brings a line into L2.
__device__ __forceinline__ void prefetch_line(const void *address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

__device__ __forceinline__ float2 load_shared_2_floats(u32 source) {
    float2 words;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(words.x), "=f"(words.y) : "r"(source) : "memory");
    return words;
}

__device__ __forceinline__ float load_shared_float(u32 source) {
    float word;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(word) : "r"(source) : "memory");
    return word;
}

__device__ __forceinline__ float4 load_shared_4_floats(u32 source) {
    float4 words;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(words.x), "=f"(words.y), "=f"(words.z), "=f"(words.w)
                 : "r"(source)
                 : "memory");
    return words;
}

__device__ __forceinline__ void store_shared_4_floats(u32 target, float4 words) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(target), "f"(words.x), "f"(words.y), "f"(words.z),
                 "f"(words.w)
                 : "memory");
}

// Four matrices of 8 x 8 halves, transposed: lane t gives the address of row t % 8 of matrix t / 8, and gets rows
// 2 (t % 4) and the next of column t / 4 of each.
__device__ __forceinline__ uint4 load_matrices_transposed(u32 row) {
    uint4 words;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "r"(row)
                 : "memory");
    return words;
}

// Four matrices of 8 x 8 halves: lane t gives the address of row t % 8 of matrix t / 8, and columns 2 (t % 4) and the next
// of row t / 4 of each.
__device__ __forceinline__ void store_matrices(u32 row, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(a), "r"(b), "r"(c),
                 "r"(d)
                 : "memory");
}

// An 8 x 8 matrix of halves, of which lane t has columns 2 (t % 4) and the next of row t / 4, becomes its transpose.
__device__ __forceinline__ u32 transpose_matrix(u32 pair) {
    u32 transposed;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
    return transposed;
}

__device__ __forceinline__ uint4 load_shared_16(u32 source) {
    uint4 words;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "r"(source)
                 : "memory");
    return words;
}

__device__ __forceinline__ void store_shared_16(u32 target, uint4 words) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(target), "r"(words.x), "r"(words.y), "r"(words.z),
                 "r"(words.w)
                 : "memory");
}

__device__ __forceinline__ void store_shared_4(u32 target, u32 word) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(target), "r"(word) : "memory");
}

__device__ __forceinline__ void store_shared_zero_16(u32 target) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(target), "r"(0) : "memory");
}

__device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int pending>
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Counts on the barrier once this thread's copies so far have landed.
__device__ __forceinline__ void copies_arrive(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// ---- between blocks ----

// Adds 1 after everything this thread has seen written; returns the old value.
__device__ __forceinline__ u32 add_release(u32 *counter) {
    u32 old;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(old) : "l"(counter) : "memory");
    return old;
}

__device__ __forceinline__ u32 load_acquire(const u32 *counter) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}

// blockIdx.x, read anew each time instead of kept in a register.
__device__ __forceinline__ u32 block_index() {
    u32 index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
}

// ---- arithmetic ----

__device__ __forceinline__ float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal_approximate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_approximate(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// `low` in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Rounded to bf16, to nearest even.
__device__ __forceinline__ float rounded(float x) {
    return __uint_as_float(pack_bf16(x, 0.0f) << 16);
}

// The low halves of two words, `a`'s below; likewise the high ones.
__device__ __forceinline__ u32 low_halves(u32 a, u32 b) {
    return __byte_perm(a, b, 0x5410);
}

__device__ __forceinline__ u32 high_halves(u32 a, u32 b) {
    return __byte_perm(a, b, 0x7632);
}

// To e4m3, saturating; `low` in the low byte.
__device__ __forceinline__ unsigned short pack_e4m3(float low, float high) {
    unsigned short packed;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
    return packed;
}

// Products of two bf16 each, subnormal operands included.
__device__ __forceinline__ u32 multiply_bf16(u32 a, u32 b) {
    u32 product;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

// Differences of two bf16 each.
__device__ __forceinline__ u32 subtract_bf16(u32 a, u32 b) {
    u32 difference;
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}

// IEEE half precision.
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// Two of the four bytes to two halves, each byte's highest bit replicated above it: FIRST to the low half.
template <int FIRST, int SECOND>
__device__ __forceinline__ u32 spread_bytes(u32 bytes) {
    u32 halves;
    asm("prmt.b32 %0, %1, 0, %2;"
        : "=r"(halves)
        : "r"(bytes), "n"(FIRST | (FIRST | 8) << 4 | SECOND << 8 | (SECOND | 8) << 12));
    return halves;
}

// d += a b of one warp: a is 16 x 16, b 16 x 8, bf16. Lane t has of a rows t / 4 (a0, a2) and 8 further (a1, a3), columns
// 2 (t % 4) and the next (a0, a1) and those 8 further (a2, a3); of b the same places with rows and columns exchanged; of d
// rows t / 4 and 8 further, columns 2 (t % 4) and the next.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float bf16_to_float(bf16_bits x) {
    return __uint_as_float(static_cast<u32>(x) << 16);
}

__device__ __forceinline__ float infinity() {
    return __int_as_float(0x7f800000);
}

// ---- products ----

// A warp's d[16][8] += a[16][16] b[16][8] of bf16. Lane 4 g + t holds d: rows g (first two) and g + 8, columns 2 t and 2 t + 1;
// a: rows g, g + 8, g, g + 8 in columns 2 t and 2 t + 1, the last two 8 columns on; b: rows 2 t and 2 t + 1, then 8 on, of column g.
__device__ __forceinline__ void multiply_16x8(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- wgmma ----
//
// Operands in shared memory are panels of 64 bf16 columns: rows of 128 bytes, 8-row atoms of 1024 bytes
// in the 128-byte swizzle (what the copy engine writes). Panels start at multiples of 1024 bytes.

// The high word is the same in all descriptors, so that products compute with low words only.
#define DESCRIPTOR_HIGH "0x40000040"  // 1024 bytes from 8 rows to the next, 128-byte swizzle

// An address that is the same in all lanes, so that the compiler computes with it in uniform registers, where products take
// their descriptors from: otherwise every step moves its own there, by several instructions.
__device__ __forceinline__ u32 uniform(u32 address) {
    return __shfl_sync(0xffffffff, address, 0);
}

// Rows are M or N, columns are the reduction (Q, and K in Q K^T). 16 columns further is `+ 2`.
__device__ __forceinline__ u64 descriptor_rows(u32 address) {
    return (u64)((uniform(address) & 0x3FFFF) >> 4) | ((u64)1 << 16) | ((u64)64 << 32) | ((u64)1 << 62);
}

// Rows are the reduction, columns are N (V in P V); `panel` bytes lead from one 64-column panel to the next.
// 16 rows further is `+ 128`.
__device__ __forceinline__ u64 descriptor_columns(u32 address, u32 panel) {
    return (u64)((uniform(address) & 0x3FFFF) >> 4) | ((u64)(panel >> 4) << 16) | ((u64)64 << 32) | ((u64)1 << 62);
}

__device__ __forceinline__ void mma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void mma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int pending>
__device__ __forceinline__ void mma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Keeps the compiler from moving uses of an accumulator across the wait before it.
template <int count>
__device__ __forceinline__ void mma_settle(float (&d)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define APUS_REGS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define APUS_REGS_16 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define APUS_REGS_24 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23"
#define APUS_REGS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define APUS_REGS_40 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39"
#define APUS_REGS_48 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define APUS_REGS_56 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55"
#define APUS_REGS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define APUS_REGS_80 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define APUS_REGS_96 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define APUS_REGS_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define APUS_ACC_8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define APUS_ACC_16(d, i) APUS_ACC_8(d, i), APUS_ACC_8(d, i + 8)
#define APUS_ACC_24(d, i) APUS_ACC_16(d, i), APUS_ACC_8(d, i + 16)
#define APUS_ACC_32(d, i) APUS_ACC_16(d, i), APUS_ACC_16(d, i + 16)
#define APUS_ACC_40(d, i) APUS_ACC_32(d, i), APUS_ACC_8(d, i + 32)
#define APUS_ACC_48(d, i) APUS_ACC_32(d, i), APUS_ACC_16(d, i + 32)
#define APUS_ACC_56(d, i) APUS_ACC_48(d, i), APUS_ACC_8(d, i + 48)
#define APUS_ACC_64(d, i) APUS_ACC_32(d, i), APUS_ACC_32(d, i + 32)
#define APUS_ACC_80(d, i) APUS_ACC_64(d, i), APUS_ACC_16(d, i + 64)
#define APUS_ACC_96(d, i) APUS_ACC_64(d, i), APUS_ACC_32(d, i + 64)
#define APUS_ACC_128(d, i) APUS_ACC_64(d, i), APUS_ACC_64(d, i + 64)

// d[64 x N] (+)= A B with A (64 x 16) and B (16 x N); `accumulate` 0 overwrites d. `ss`: A and B from shared
// memory, `rs`: A from registers; both with B's reduction along its columns. `ss_columns`, `rs_columns`: B's
// reduction along its rows; `ss_transposed`: A's too.
template <int N>
struct Mma;

#define APUS_MMA(N, COUNT, A, B, P, A0, A1, A2, A3, RB, RP)                                                            \
    template <>                                                                                                        \
    struct Mma<N> {                                                                                                    \
        APUS_MMA_SS(ss, "0, 0", N, COUNT, A, B, P)                                                                     \
        APUS_MMA_SS(ss_columns, "0, 1", N, COUNT, A, B, P)                                                             \
        APUS_MMA_SS(ss_transposed, "1, 1", N, COUNT, A, B, P)                                                          \
        APUS_MMA_RS(rs, "0", N, COUNT, A0, A1, A2, A3, RB, RP)                                                         \
        APUS_MMA_RS(rs_columns, "1", N, COUNT, A0, A1, A2, A3, RB, RP)                                                 \
    };

#define APUS_MMA_SS(NAME, TRANSPOSED, N, COUNT, A, B, P)                                                               \
    static __device__ __forceinline__ void NAME(float (&d)[COUNT], u64 a, u64 b, int accumulate) {                     \
        asm volatile("{\n.reg .pred p;\n.reg .b64 a, b;\nsetp.ne.b32 p, %" P ", 0;\n"                                   \
                     "mov.b64 a, {%" A ", " DESCRIPTOR_HIGH "};\nmov.b64 b, {%" B ", " DESCRIPTOR_HIGH "};\n"          \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" APUS_REGS_##COUNT "}, a, b"          \
                     ", p, 1, 1, " TRANSPOSED ";\n}\n"                                                                 \
                     : APUS_ACC_##COUNT(d, 0)                                                                          \
                     : "r"((u32)a), "r"((u32)b), "r"(accumulate));                                                     \
    }

#define APUS_MMA_RS(NAME, TRANSPOSED, N, COUNT, A0, A1, A2, A3, RB, RP)                                                \
    static __device__ __forceinline__ void NAME(                                                                       \
        float (&d)[COUNT], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int accumulate                                       \
    ) {                                                                                                                \
        asm volatile("{\n.reg .pred p;\n.reg .b64 b;\nsetp.ne.b32 p, %" RP ", 0;\n"                                     \
                     "mov.b64 b, {%" RB ", " DESCRIPTOR_HIGH "};\n"                                                    \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" APUS_REGS_##COUNT "}, {%" A0         \
                     ", %" A1 ", %" A2 ", %" A3 "}, b, p, 1, 1, " TRANSPOSED ";\n}\n"                                  \
                     : APUS_ACC_##COUNT(d, 0)                                                                          \
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"((u32)b), "r"(accumulate));                              \
    }

APUS_MMA(16, 8, "8", "9", "10", "8", "9", "10", "11", "12", "13")
APUS_MMA(32, 16, "16", "17", "18", "16", "17", "18", "19", "20", "21")
APUS_MMA(48, 24, "24", "25", "26", "24", "25", "26", "27", "28", "29")
APUS_MMA(64, 32, "32", "33", "34", "32", "33", "34", "35", "36", "37")
APUS_MMA(80, 40, "40", "41", "42", "40", "41", "42", "43", "44", "45")
APUS_MMA(96, 48, "48", "49", "50", "48", "49", "50", "51", "52", "53")
APUS_MMA(112, 56, "56", "57", "58", "56", "57", "58", "59", "60", "61")
APUS_MMA(128, 64, "64", "65", "66", "64", "65", "66", "67", "68", "69")
APUS_MMA(160, 80, "80", "81", "82", "80", "81", "82", "83", "84", "85")
APUS_MMA(192, 96, "96", "97", "98", "96", "97", "98", "99", "100", "101")
APUS_MMA(256, 128, "128", "129", "130", "128", "129", "130", "131", "132", "133")
