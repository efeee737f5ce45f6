// The functions of the kernels' ptx.cuh in plain C++, for the emulator (emulator.h). Each does what its PTX instruction is
// documented to do; the layouts of operands are those of the PTX ISA.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short bf16_bits;

// What a CUtensorMap says; emulate.py fills it.
struct alignas(64) TensorMap {
    u64 address;
    unsigned char rank, element_bytes, swizzle, unused[5];
    u64 shape[5];
    u64 strides[4];  // bytes, from the second dimension on
    u32 box[5];
};
static_assert(sizeof(TensorMap) == 128, "as large as a CUtensorMap");

inline void keep_in_place(u32 &) {}
inline void keep_in_place(int &) {}

inline u32 shared_address(const void *pointer) {
    return (u32)(static_cast<const char *>(pointer) - emulator::shared_origin());
}

template <typename T>
inline T emulated_load(u32 source) {
    T value;
    memcpy(&value, emulator::shared_pointer(source, sizeof value, sizeof value), sizeof value);
    return value;
}

template <typename T>
inline void emulated_store(u32 target, T value) {
    memcpy(emulator::shared_pointer(target, sizeof value, sizeof value), &value, sizeof value);
}

// ---- mbarrier ----

struct EmulatedBarrier {
    u64 phase : 1, expected : 12, pending : 12, mark : 7;
    signed long long bytes : 32;
};

#define EMULATED_BARRIER_MARK 0x2a

inline EmulatedBarrier &emulated_barrier(u32 barrier) {
    auto &b = *reinterpret_cast<EmulatedBarrier *>(emulator::shared_pointer(barrier, 8, 8));
    if (b.mark != EMULATED_BARRIER_MARK) emulator::fail("the barrier at %#x was not initialised", barrier);
    return b;
}

inline void emulated_complete(EmulatedBarrier &b) {
    if (b.pending || b.bytes) return;
    b.phase ^= 1;
    b.pending = b.expected;
}

inline void emulated_bytes(u32 barrier, long long bytes) {
    EmulatedBarrier &b = emulated_barrier(barrier);
    b.bytes += bytes;
    if (bytes < 0) emulated_complete(b);
}

inline void barrier_init(u32 barrier, u32 arrivals) {
    EmulatedBarrier b = {};
    b.expected = b.pending = arrivals;
    b.mark = EMULATED_BARRIER_MARK;
    memcpy(emulator::shared_pointer(barrier, 8, 8), &b, 8);
}

inline void barrier_init_fence() {}

inline void barrier_arrive(u32 barrier) {
    EmulatedBarrier &b = emulated_barrier(barrier);
    if (!b.pending) emulator::fail("more arrivals than the barrier at %#x counts", barrier);
    --b.pending;
    emulated_complete(b);
}

inline void barrier_expect(u32 barrier, u32 bytes) {
    emulated_bytes(barrier, bytes);
    barrier_arrive(barrier);
}

inline void barrier_wait(u32 barrier, u32 parity) {
    EmulatedBarrier &b = emulated_barrier(barrier);
    emulator::wait_until("an mbarrier", [&b, parity] { return b.phase != (parity & 1); });
}

// ---- named barriers of a block ----

inline void named_sync(u32 id, u32 threads) {
    emulator::sync_named(id, threads);
}

inline void named_arrive(u32 id, u32 threads) {
    uint64_t turn;
    emulator::arrive_named(id, threads, false, turn);
}

inline bool named_sync_any(u32 id, u32 threads, bool mine) {
    return emulator::sync_named(id, threads, mine);
}

// ---- ordering and launch overlap ----

inline void fence_async_proxy() {}
inline void fence_proxies() {}
inline void grid_launch_dependents() {}
inline void grid_wait() {}

// ---- flags between GPUs: launches from several threads ----

inline void raise_flag(u32 *flag, u32 number) {
    __atomic_store_n(flag, number, __ATOMIC_RELEASE);
}

inline void await_flag(const u32 *flag, u32 number) {
    const auto start = std::chrono::steady_clock::now();
    while ((int)(__atomic_load_n(flag, __ATOMIC_ACQUIRE) - number) < 0) {
        std::this_thread::yield();
        if (std::chrono::steady_clock::now() - start > std::chrono::seconds(60)) emulator::fail("nobody raises a flag");
    }
}

template <int registers>
inline void registers_grow() {}

template <int registers>
inline void registers_shrink() {}

// ---- copies ----

inline void prefetch_map(const TensorMap *) {}

// The swizzles permute the 16-byte chunks of an address by its higher bits: 3 is 128 bytes, 2 is 64, 1 is 32.
inline u32 emulated_swizzle(u32 address, int bits) {
    return address ^ (address >> 3 & (((1u << bits) - 1) << 4));
}

// Calls `each(shared address, global address or 0 outside of the tensor, bytes)` for the runs of a box that lie in one
// 16-byte chunk of shared memory.
template <typename Each>
inline void emulated_tile(u32 shared, const TensorMap &map, const int (&at)[5], Each each) {
    if (shared % (map.swizzle == 3 ? 1024 : map.swizzle == 2 ? 512 : 128)) emulator::fail("a tile at %#x", shared);
    const int size = map.element_bytes, chunk = 16 / size, width = (int)map.shape[0];
    u32 index[5] = {}, place = shared;
    while (true) {
        u64 row = map.address;
        bool inside = true;
        for (int i = 1; i < map.rank; ++i) {
            const long long x = (long long)at[i] + index[i];
            inside = inside && x >= 0 && x < (long long)map.shape[i];
            row += x * map.strides[i - 1];
        }
        for (int first = 0; first < (int)map.box[0]; first += chunk) {
            const int count = std::min(chunk, (int)map.box[0] - first), x = at[0] + first;
            const u32 target = emulated_swizzle(place + first * size, map.swizzle);
            if (inside && x >= 0 && x + count <= width) {
                each(target, row + x * size, count * size);
            } else {
                for (int i = 0; i < count; ++i)
                    each(target + i * size, inside && x + i >= 0 && x + i < width ? row + (x + i) * size : 0, size);
            }
        }
        place += map.box[0] * size;
        int i = 1;
        while (i < map.rank && ++index[i] == map.box[i]) index[i++] = 0;
        if (i >= map.rank) return;
    }
}

inline void emulated_copy_tile(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2, int c3, int c4) {
    const TensorMap m = *map;
    emulator::soon([=] {
        u32 all = 0;
        emulated_tile(target, m, {c0, c1, c2, c3, c4}, [&](u32 place, u64 address, int bytes) {
            char *to = emulator::shared_pointer(place, bytes);
            if (address) memcpy(to, reinterpret_cast<const void *>(address), bytes);
            else memset(to, 0, bytes);
            all += bytes;
        });
        emulated_bytes(barrier, -(long long)all);
    });
}

inline void copy_tile_5d(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2, int c3, int c4) {
    if (map->rank != 5) emulator::fail("a tensor map of rank %d where 5 is asked for", map->rank);
    emulated_copy_tile(target, map, barrier, c0, c1, c2, c3, c4);
}

inline void copy_tile_3d(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2) {
    if (map->rank != 3) emulator::fail("a tensor map of rank %d where 3 is asked for", map->rank);
    emulated_copy_tile(target, map, barrier, c0, c1, c2, 0, 0);
}

#define READ_ONCE 0x12f0000000000000ull
#define READ_AGAIN 0x1000000000000000ull

inline void stream_tile_3d(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2) {
    copy_tile_3d(target, map, barrier, c0, c1, c2);
}

inline void stream_tile_5d(u32 target, const TensorMap *map, u32 barrier, int c0, int c1, int c2, int c3, int c4) {
    copy_tile_5d(target, map, barrier, c0, c1, c2, c3, c4);
}

inline void copy_bulk(u32 target, const void *source, u32 bytes, u32 barrier) {
    if (bytes % 16 || (uintptr_t)source % 16) emulator::fail("a bulk copy of %u bytes from %p", bytes, source);
    emulator::soon([=] {
        memcpy(emulator::shared_pointer(target, bytes, 16), source, bytes);
        emulated_bytes(barrier, -(long long)bytes);
    });
}

inline void prefetch_tile_5d(const TensorMap *, int, int, int, int, int) {}

inline void copy_16(u32 target, const void *source, u32 bytes) {
    if ((uintptr_t)source % 16) emulator::fail("a copy of 16 bytes from %p", source);
    emulator::Task task = [=] {
        char *to = emulator::shared_pointer(target, 16, 16);
        memset(to, 0, 16);
        if (bytes) memcpy(to, source, bytes);
    };
    if (emulator::block().launch->lazy) emulator::self().copies.push_back(task);
    else task();
}

inline void stream_16(u32 target, const void *source, u32 bytes, u64) {
    copy_16(target, source, bytes);
}

inline uint4 load_once_16(const void *source) { return *reinterpret_cast<const uint4 *>(source); }

inline void prefetch_line(const void *) {}

inline float2 load_shared_2_floats(u32 source) { return emulated_load<float2>(source); }
inline float load_shared_float(u32 source) { return emulated_load<float>(source); }
inline float4 load_shared_4_floats(u32 source) { return emulated_load<float4>(source); }
inline void store_shared_4_floats(u32 target, float4 words) { emulated_store(target, words); }
inline uint4 load_shared_16(u32 source) { return emulated_load<uint4>(source); }
inline void store_shared_16(u32 target, uint4 words) { emulated_store(target, words); }
inline void store_shared_4(u32 target, u32 word) { emulated_store(target, word); }
inline void store_shared_zero_16(u32 target) { emulated_store(target, uint4{0, 0, 0, 0}); }

// Lane t has the address of row t % 8 of matrix t / 8.
inline uint4 load_matrices_transposed(u32 row) {
    const unsigned char *got = emulator::meet(0xffffffff, row, [](auto in, auto out) {
        for (int matrix = 0; matrix < 4; ++matrix)
            for (int lane = 0; lane < 32; ++lane)
                for (int half = 0; half < 2; ++half) {
                    u32 address;
                    memcpy(&address, in[matrix * 8 + lane % 4 * 2 + half], 4);
                    memcpy(out[lane] + matrix * 4 + half * 2, emulator::shared_pointer(address, 16, 16) + lane / 4 * 2, 2);
                }
    });
    uint4 words;
    memcpy(&words, got, sizeof words);
    return words;
}

inline void store_matrices(u32 row, u32 a, u32 b, u32 c, u32 d) {
    struct Sent {
        u32 row, words[4];
    };
    emulator::meet(0xffffffff, Sent{row, {a, b, c, d}}, [](auto in, auto) {
        for (int lane = 0; lane < 32; ++lane) {
            Sent sent;
            memcpy(&sent, in[lane], sizeof sent);
            for (int matrix = 0; matrix < 4; ++matrix) {
                u32 address;
                memcpy(&address, in[matrix * 8 + lane / 4], 4);
                memcpy(emulator::shared_pointer(address, 16, 16) + lane % 4 * 4, &sent.words[matrix], 4);
            }
        }
    });
}

// Runs all but the last `pending` groups.
inline void emulated_finish(std::deque<std::vector<emulator::Task>> &groups, size_t pending) {
    while (groups.size() > pending) {
        for (auto &task : groups.front()) task();
        groups.pop_front();
    }
}

inline void copies_commit() {
    emulator::Fiber &f = emulator::self();
    f.copy_groups.push_back(std::move(f.copies));
    f.copies.clear();
}

template <int pending>
inline void copies_wait() {
    emulated_finish(emulator::self().copy_groups, pending);
}

inline void copies_arrive(u32 barrier) {
    if (!emulator::block().launch->lazy) return barrier_arrive(barrier);
    emulator::Fiber *f = &emulator::self();
    emulator::block().later.push_back([f, barrier] {
        emulated_finish(f->copy_groups, 0);
        for (auto &task : f->copies) task();
        f->copies.clear();
        barrier_arrive(barrier);
    });
}

// ---- between blocks ----

inline u32 add_release(u32 *counter) {
    return __atomic_fetch_add(counter, 1u, __ATOMIC_ACQ_REL);
}

inline u32 load_acquire(const u32 *counter) {
    emulator::pause();
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

inline u32 block_index() {
    return blockIdx.x;
}

// ---- arithmetic ----

inline float emulated_flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
inline float exp2_approximate(float x) { return emulated_flush(std::exp2(emulated_flush(x))); }
inline float reciprocal_approximate(float x) { return emulated_flush(1.0f / emulated_flush(x)); }
inline float log2_approximate(float x) { return std::log2(emulated_flush(x)); }
inline void mma_16x8x16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    struct Words {
        u32 a[4], b[2];
    };
    const unsigned char *got = emulator::meet(0xffffffff, Words{{a0, a1, a2, a3}, {b0, b1}}, [](auto in, auto out) {
        float a[16][16], b[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            Words words;
            memcpy(&words, in[lane], sizeof words);
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 2; ++j)
                    a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8 + j] =
                        __uint_as_float(words.a[i] >> 16 * j << 16);
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 2; ++j) b[lane % 4 * 2 + i * 8 + j][lane / 4] = __uint_as_float(words.b[i] >> 16 * j << 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
            float sums[4] = {};
            for (int i = 0; i < 4; ++i)
                for (int k = 0; k < 16; ++k) sums[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
            memcpy(out[lane], sums, sizeof sums);
        }
    });
    float sums[4];
    memcpy(sums, got, sizeof sums);
    for (int i = 0; i < 4; ++i) d[i] += sums[i];
}

inline float bf16_to_float(bf16_bits x) { return __uint_as_float((u32)x << 16); }
inline float infinity() { return __int_as_float(0x7f800000); }

inline bf16_bits emulated_bf16(float x) {
    const u32 bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (bf16_bits)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline u32 pack_bf16(float low, float high) { return emulated_bf16(low) | (u32)emulated_bf16(high) << 16; }

inline float rounded(float x) { return bf16_to_float(emulated_bf16(x)); }
inline u32 low_halves(u32 a, u32 b) { return (a & 0xffff) | b << 16; }
inline u32 high_halves(u32 a, u32 b) { return a >> 16 | (b & 0xffff0000); }

inline u32 transpose_matrix(u32 pair) {
    const unsigned char *got = emulator::meet(0xffffffff, pair, [](auto in, auto out) {
        bf16_bits matrix[8][8], transposed[8][8];
        for (int lane = 0; lane < 32; ++lane) memcpy(&matrix[lane / 4][lane % 4 * 2], in[lane], 4);
        for (int i = 0; i < 8; ++i)
            for (int j = 0; j < 8; ++j) transposed[i][j] = matrix[j][i];
        for (int lane = 0; lane < 32; ++lane) memcpy(out[lane], &transposed[lane / 4][lane % 4 * 2], 4);
    });
    memcpy(&pair, got, 4);
    return pair;
}

inline unsigned char emulated_e4m3(float x) {
    if (x != x) return 0x7f;
    const unsigned char sign = std::signbit(x) ? 0x80 : 0;
    const float magnitude = std::min(std::fabs(x), 448.0f);
    int exponent;
    std::frexp(magnitude, &exponent);                       // magnitude < 2^exponent
    const int scale = std::max(exponent - 1, -6) - 3;       // of the last bit
    const int units = (int)std::nearbyint(std::ldexp(magnitude, -scale));
    if (units == 0) return sign;
    const int carry = units == 16, biased = scale + 3 + 7 + carry, mantissa = carry ? 0 : units - 8;
    return units < 8 ? sign | units : sign | biased << 3 | mantissa;
}

inline unsigned short pack_e4m3(float low, float high) {
    return (unsigned short)(emulated_e4m3(low) | emulated_e4m3(high) << 8);
}

inline u32 multiply_bf16(u32 a, u32 b) {
    return pack_bf16(
        bf16_to_float((bf16_bits)a) * bf16_to_float((bf16_bits)b),
        bf16_to_float((bf16_bits)(a >> 16)) * bf16_to_float((bf16_bits)(b >> 16)));
}

inline u32 subtract_bf16(u32 a, u32 b) {
    return pack_bf16(
        bf16_to_float((bf16_bits)a) - bf16_to_float((bf16_bits)b),
        bf16_to_float((bf16_bits)(a >> 16)) - bf16_to_float((bf16_bits)(b >> 16)));
}

inline float half_to_float(unsigned short bits) {
    const float magnitude = std::ldexp(__uint_as_float((u32)(bits & 0x7fff) << 13), 112);
    return bits & 0x8000 ? -magnitude : magnitude;
}

template <int FIRST, int SECOND>
inline u32 spread_bytes(u32 bytes) {
    const auto half = [bytes](int i) {
        const u32 byte = bytes >> 8 * i & 255;
        return byte | (byte & 128 ? 0xff00u : 0u);
    };
    return half(FIRST) | half(SECOND) << 16;
}

// ---- products ----

inline void multiply_16x8(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Operands {
        float *d;
        const u32 *a;
        u32 b[2];
    };
    const u32 all = 0xffffffff;
    emulator::meet(all, Operands{d, a, {b0, b1}}, [](auto in, auto) {
        const auto halves = [](u32 x, float *to, int stride) {
            to[0] = bf16_to_float((bf16_bits)x);
            to[stride] = bf16_to_float((bf16_bits)(x >> 16));
        };
        Operands lanes[32];
        float rows[16][16], columns[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            memcpy(&lanes[lane], in[lane], sizeof(Operands));
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; ++i) halves(lanes[lane].a[i], &rows[g + i % 2 * 8][2 * t + i / 2 * 8], 1);
            for (int i = 0; i < 2; ++i) halves(lanes[lane].b[i], &columns[2 * t + i * 8][g], 8);
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i)
                for (int k = 0; k < 16; ++k)
                    lanes[lane].d[i] += rows[lane / 4 + i / 2 * 8][k] * columns[k][lane % 4 * 2 + i % 2];
    });
}

// ---- wgmma ----

inline u32 uniform(u32 address) { return __shfl_sync(0xffffffff, address, 0); }

inline u64 descriptor_rows(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | ((u64)1 << 16) | ((u64)64 << 32) | ((u64)1 << 62);
}

inline u64 descriptor_columns(u32 address, u32 panel) {
    return (u64)((address & 0x3FFFF) >> 4) | ((u64)(panel >> 4) << 16) | ((u64)64 << 32) | ((u64)1 << 62);
}

// A matrix in shared memory as its descriptor says: swizzle mode, leading and stride offsets.
struct EmulatedMatrix {
    u32 start, leading, stride;
    int swizzle;   // as in emulated_swizzle
    u32 row;       // bytes of a row of an atom

    explicit EmulatedMatrix(u64 descriptor) {
        start = (u32)(descriptor & 0x3fff) << 4;
        leading = (u32)(descriptor >> 16 & 0x3fff) << 4;
        stride = (u32)(descriptor >> 32 & 0x3fff) << 4;
        const int mode = (int)(descriptor >> 62);
        if (mode == 0 || (descriptor >> 49 & 7)) emulator::fail("a descriptor without swizzle, or with a base offset");
        swizzle = 4 - mode;
        row = 16u << swizzle;
    }

    // Of two elements side by side in memory. `i` counts along M or N, `k` along the reduction.
    template <bool TRANSPOSED>
    u32 address(int i, int k) const {
        if (TRANSPOSED) {  // i runs along a row of an atom, k down its 8 rows
            const int across = row / 2;
            return emulated_swizzle(start + i / across * leading + k / 8 * stride + k % 8 * row + i % across * 2, swizzle);
        }
        return emulated_swizzle(start + i / 8 * stride + i % 8 * row + k * 2, swizzle);
    }
};

inline void emulated_run(emulator::Task task) {
    if (emulator::block().launch->lazy) emulator::self().products.push_back(std::move(task));
    else task();
}

inline void mma_fence() {}

inline void mma_commit() {
    emulator::Fiber &f = emulator::self();
    f.product_groups.push_back(std::move(f.products));
    f.products.clear();
}

// A step of the whole warp: no lane goes on before the others' products are done.
template <int pending>
inline void mma_wait() {
    emulated_finish(emulator::self().product_groups, pending);
    __syncwarp();
}

template <int count>
inline void mma_settle(float (&)[count]) {}

// One thread's share of d (+)= A B: rows `16 warp + lane / 4` and 8 further, columns 8 i + 2 (lane % 4) and the next.
template <int N, bool TRANSPOSED>
inline void emulated_product(float *d, const float (&a)[2][16], const EmulatedMatrix &b, int accumulate) {
    const int first = emulator::self().lane % 4 * 2;
    for (int i = 0; i < N / 8; ++i) {
        float columns[2][16];
        if (TRANSPOSED) {
            for (int k = 0; k < 16; ++k) {
                u32 pair;
                memcpy(&pair, emulator::shared_pointer(b.address<true>(8 * i + first, k), 4), 4);
                columns[0][k] = bf16_to_float((bf16_bits)pair);
                columns[1][k] = bf16_to_float((bf16_bits)(pair >> 16));
            }
        } else {
            for (int j = 0; j < 2; ++j)
                for (int k = 0; k < 16; k += 8) {
                    bf16_bits eight[8];
                    memcpy(eight, emulator::shared_pointer(b.address<false>(8 * i + first + j, k), 16), 16);
                    for (int l = 0; l < 8; ++l) columns[j][k + l] = bf16_to_float(eight[l]);
                }
        }
        for (int half = 0; half < 2; ++half)
            for (int j = 0; j < 2; ++j) {
                float sum = 0.0f;
                for (int k = 0; k < 16; ++k) sum += a[half][k] * columns[j][k];
                float &target = d[4 * i + 2 * half + j];
                target = accumulate ? target + sum : sum;
            }
    }
}

template <bool TRANSPOSED>
inline void emulated_operand(float (&a)[2][16], u64 descriptor) {
    const EmulatedMatrix matrix(descriptor);
    const emulator::Fiber &f = emulator::self();
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < 16; ++k) {
            bf16_bits x;
            const int row = f.warp % 4 * 16 + f.lane / 4 + half * 8;
            memcpy(&x, emulator::shared_pointer(matrix.address<TRANSPOSED>(row, k), 2), 2);
            a[half][k] = bf16_to_float(x);
        }
}

// A from registers: words {row, columns 2 t..}, {row + 8, ..}, {row, 8 further}, {row + 8, 8 further} of four lanes t. The
// other lanes' are asked for, so this is a step of the whole warp.
inline void emulated_registers(float (&a)[2][16], u32 a0, u32 a1, u32 a2, u32 a3) {
    struct Words {
        u32 words[4];
    };
    const unsigned char *got = emulator::meet(0xffffffff, Words{{a0, a1, a2, a3}}, [](auto in, auto out) {
        memcpy(out, in, 32 * 32);
    });
    const unsigned char *quad = got - emulator::self().lane % 4 * 32;
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < 16; ++k) {
            u32 word;
            memcpy(&word, quad + k % 8 / 2 * 32 + (half + k / 8 * 2) * 4, 4);
            a[half][k] = bf16_to_float((bf16_bits)(k % 2 ? word >> 16 : word));
        }
}

template <int N>
struct Mma {
    template <bool A, bool B>
    static void shared(float *d, u64 a, u64 b, int accumulate) {
        emulated_run([=] {
            float rows[2][16];
            emulated_operand<A>(rows, a);
            emulated_product<N, B>(d, rows, EmulatedMatrix(b), accumulate);
        });
    }

    template <bool B>
    static void registers(float *d, u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int accumulate) {
        struct Rows {
            float a[2][16];
        } rows;
        emulated_registers(rows.a, a0, a1, a2, a3);
        emulated_run([=] { emulated_product<N, B>(d, rows.a, EmulatedMatrix(b), accumulate); });
    }

    static void ss(float (&d)[N / 2], u64 a, u64 b, int accumulate) { shared<false, false>(d, a, b, accumulate); }
    static void ss_columns(float (&d)[N / 2], u64 a, u64 b, int accumulate) { shared<false, true>(d, a, b, accumulate); }
    static void ss_transposed(float (&d)[N / 2], u64 a, u64 b, int accumulate) { shared<true, true>(d, a, b, accumulate); }
    static void rs(float (&d)[N / 2], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int accumulate) {
        registers<false>(d, a0, a1, a2, a3, b, accumulate);
    }
    static void rs_columns(float (&d)[N / 2], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int accumulate) {
        registers<true>(d, a0, a1, a2, a3, b, accumulate);
    }
};
