// What CUDA C++ knows without a header: qualifiers, vector types, indices, intrinsics.
#pragma once

#define __device__
#define __host__
#define __global__
#define __constant__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ thread_local
#define __restrict__ __restrict
// The standard's alignas may not stand between other specifiers, where nvcc takes it.
#define alignas(n) __attribute__((aligned(n)))

#define threadIdx (emulator::self().thread)
#define blockIdx (emulator::block().index)
#define blockDim (emulator::block().launch->threads)
#define gridDim (emulator::block().launch->grid)
static const int warpSize = 32;

#define EMULATED_VECTORS(T, NAME)                                                                                     \
    struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                                               \
    struct NAME##3 { T x, y, z; };                                                                                    \
    struct alignas(sizeof(T) > 4 ? 16 : 4 * sizeof(T)) NAME##4 { T x, y, z, w; };                                    \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                                        \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                                                \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(unsigned, uint)
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(double, double)
EMULATED_VECTORS(short, short)
EMULATED_VECTORS(unsigned short, ushort)
EMULATED_VECTORS(signed char, char)
EMULATED_VECTORS(unsigned char, uchar)
EMULATED_VECTORS(long long, longlong)
EMULATED_VECTORS(unsigned long long, ulonglong)

// ---- arithmetic ----

using std::isfinite;
using std::isinf;
using std::isnan;

template <typename A, typename B>
inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(b) < T(a) ? T(b) : T(a);
}

template <typename A, typename B>
inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(a) < T(b) ? T(b) : T(a);
}

template <typename To, typename From>
inline To emulated_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "bits of the same size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __saturatef(float x) { return x > 0.0f ? x < 1.0f ? x : 1.0f : 0.0f; }
inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
    return y;
}

template <typename T> inline T __ldg(const T *p) { return *p; }
template <typename T> inline T __ldcg(const T *p) { return *p; }
template <typename T> inline T __ldcs(const T *p) { return *p; }
template <typename T> inline T __ldca(const T *p) { return *p; }
template <typename T> inline void __stcs(T *p, T x) { *p = x; }
template <typename T> inline void __stcg(T *p, T x) { *p = x; }

[[noreturn]] inline void __trap() { emulator::fail("__trap"); }
[[noreturn]] inline void emulated_assert(const char *what) { emulator::fail("assertion %s", what); }

// ---- threads of a block ----

inline void __syncthreads() { emulator::sync_all(false); }
inline int __syncthreads_or(int x) { return emulator::sync_all(x); }
inline int __syncthreads_and(int x) { return !emulator::sync_all(!x); }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() {}
inline void __threadfence_system() { __threadfence(); }
inline void __nanosleep(unsigned) { emulator::pause(); }

// Every lane gets what `pick` says: the number of the lane whose value it takes.
template <typename T, typename Pick>
inline T emulated_shuffle(unsigned mask, T value, Pick pick) {
    struct Sent {
        T value;
        int from;
    };
    const int lane = emulator::self().lane, from = pick(lane);
    if (from < 0 || from > 31 || !(mask >> from & 1)) emulator::fail("a shuffle from lane %d, not in mask %#x", from, mask);
    const unsigned char *got = emulator::meet(mask, Sent{value, from}, [mask](auto in, auto out) {
        for (int i = 0; i < 32; ++i) {
            if (!(mask >> i & 1)) continue;
            Sent sent;
            memcpy(&sent, in[i], sizeof sent);
            memcpy(out[i], in[sent.from], sizeof(T));
        }
    });
    T result;
    memcpy(&result, got, sizeof result);
    return result;
}

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    return emulated_shuffle(mask, value, [=](int lane) { return lane / width * width + (from & (width - 1)); });
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    return emulated_shuffle(mask, value, [=](int lane) {
        const int from = lane ^ bits;
        return from / width <= lane / width ? from : lane;
    });
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return emulated_shuffle(mask, value, [=](int lane) { return lane % width + (int)by < width ? lane + (int)by : lane; });
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return emulated_shuffle(mask, value, [=](int lane) { return lane % width >= (int)by ? lane - (int)by : lane; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const int mine = predicate != 0;
    const unsigned char *got = emulator::meet(mask, mine, [mask](auto in, auto out) {
        unsigned votes = 0;
        for (int i = 0; i < 32; ++i) {
            int vote = 0;
            if (mask >> i & 1) memcpy(&vote, in[i], sizeof vote);
            votes |= (unsigned)vote << i;
        }
        for (int i = 0; i < 32; ++i) memcpy(out[i], &votes, sizeof votes);
    });
    unsigned votes;
    memcpy(&votes, got, sizeof votes);
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline void __syncwarp(unsigned mask = 0xffffffff) { __ballot_sync(mask, 0); }

template <typename T>
inline T emulated_reduce(unsigned mask, T value, T (*combine)(T, T)) {
    const unsigned char *got = emulator::meet(mask, value, [mask, combine](auto in, auto out) {
        T all{};
        bool first = true;
        for (int i = 0; i < 32; ++i) {
            if (!(mask >> i & 1)) continue;
            T one;
            memcpy(&one, in[i], sizeof one);
            all = first ? one : combine(all, one);
            first = false;
        }
        for (int i = 0; i < 32; ++i) memcpy(out[i], &all, sizeof all);
    });
    T result;
    memcpy(&result, got, sizeof result);
    return result;
}
template <typename T> inline T __reduce_add_sync(unsigned m, T x) { return emulated_reduce<T>(m, x, [](T a, T b) { return T(a + b); }); }
template <typename T> inline T __reduce_max_sync(unsigned m, T x) { return emulated_reduce<T>(m, x, [](T a, T b) { return a < b ? b : a; }); }
template <typename T> inline T __reduce_min_sync(unsigned m, T x) { return emulated_reduce<T>(m, x, [](T a, T b) { return b < a ? b : a; }); }

// ---- atomics: blocks are threads of the operating system ----

template <typename T, typename Change>
inline T emulated_atomic(T *target, Change change) {
    T old, wanted;
    __atomic_load(target, &old, __ATOMIC_SEQ_CST);
    do wanted = change(old);
    while (!__atomic_compare_exchange(target, &old, &wanted, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}

template <typename T, typename U> inline T atomicAdd(T *p, U x) { return emulated_atomic(p, [x](T old) { return T(old + T(x)); }); }
template <typename T, typename U> inline T atomicSub(T *p, U x) { return emulated_atomic(p, [x](T old) { return T(old - T(x)); }); }
template <typename T, typename U> inline T atomicMax(T *p, U x) { return emulated_atomic(p, [x](T old) { return old < T(x) ? T(x) : old; }); }
template <typename T, typename U> inline T atomicMin(T *p, U x) { return emulated_atomic(p, [x](T old) { return T(x) < old ? T(x) : old; }); }
template <typename T, typename U> inline T atomicOr(T *p, U x) { return emulated_atomic(p, [x](T old) { return T(old | T(x)); }); }
template <typename T, typename U> inline T atomicAnd(T *p, U x) { return emulated_atomic(p, [x](T old) { return T(old & T(x)); }); }
template <typename T, typename U> inline T atomicExch(T *p, U x) { return emulated_atomic(p, [x](T) { return T(x); }); }
template <typename T, typename U, typename V>
inline T atomicCAS(T *p, U expected, V x) {
    return emulated_atomic(p, [=](T old) { return old == T(expected) ? T(x) : old; });
}
