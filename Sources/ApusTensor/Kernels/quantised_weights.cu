// Weights in GGUF's quantised types on their way: from a file's blocks into the order of quantised_weights.cuh, from there to
// bf16 for products of many rows, embeddings of tokens, and random ones to measure.
//
// Set at compile time: FORMAT.
//
// Floor: what is read and written once over the bandwidth.
#include "quantised_weights.cuh"
#include "residual_rows.cuh"

// ---- from files ----

__device__ __forceinline__ u32 half_at(const unsigned char *source) {
    return source[0] | (u32)source[1] << 8;
}

// The code of element k of a row.
__device__ __forceinline__ u32 file_code(const unsigned char *row, int k) {
    if (FORMAT == Q8_0) return row[k / 32 * 34 + 2 + k % 32];
    if (FORMAT == Q4_0 || FORMAT == Q4_1) {
        const int header = FORMAT == Q4_0 ? 2 : 4;
        return row[k / 32 * (16 + header) + header + k % 16] >> k % 32 / 16 * 4 & 15;
    }
    const int i = k % 256;
    if (FORMAT == Q4_K) return row[k / 256 * 144 + 16 + i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15;
    const unsigned char *block = row + k / 256 * 210;
    const int half = i / 128, part = i % 128 / 32, l = i % 32;
    const u32 low = block[half * 64 + part % 2 * 32 + l] >> part / 2 * 4 & 15;
    const u32 high = block[128 + half * 32 + l] >> part * 2 & 3;
    return (low | high << 4) - 32 & 255;
}

// What the block of 32 elements from k on has beside its codes, in the low bits.
__device__ __forceinline__ u32 file_scales(const unsigned char *row, int k) {
    if (FORMAT == Q8_0) return half_at(row + k / 32 * 34);
    if (FORMAT == Q4_0) return half_at(row + k / 32 * 18);
    if (FORMAT == Q4_1) return half_at(row + k / 32 * 20) | half_at(row + k / 32 * 20 + 2) << 16;
    const int j = k % 256 / 32;
    if (FORMAT == Q6_K) return half_at(row + k / 256 * 210 + 192 + 2 * j);
    const unsigned char *s = row + k / 256 * 144 + 4;
    if (j < 4) return s[j] & 63 | (s[j + 4] & 63) << 8;
    return s[j + 4] & 15 | s[j - 4] >> 6 << 4 | (s[j + 4] >> 4 | s[j] >> 6 << 4) << 8;
}

__device__ __forceinline__ u32 file_super(const unsigned char *row, int k) {
    if (FORMAT == Q4_K) return half_at(row + k / 256 * 144) | half_at(row + k / 256 * 144 + 2) << 16;
    return half_at(row + k / 256 * 210 + 208);
}

// Rows of a file's blocks to rows of the target, which is zero where nothing is written: row i becomes first + i / run x step +
// i % run. A thread takes a lane's share of a row of a unit.
extern "C" __global__ void __launch_bounds__(256) repack_rows(
    const unsigned char *source, unsigned char *target, int rows, int width, long long row_bytes, int first, int run, int step
) {
    const int units = (width + 63) / 64;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < (long long)rows * units * 4;
         i += (long long)gridDim.x * 256) {
        const int t = (int)(i % 4), unit = (int)(i / 4 % units);
        const long long from = i / 4 / units, to = first + from / run * step + from % run;
        const unsigned char *row = source + from * row_bytes;
        const int g = (int)(to % 8), upper = (int)(to % 16 / 8);
        unsigned char *super = target + to / 16 * tile_bytes(units) + unit / 4 * SUPER_BYTES;
        unsigned char *place =
            HAS_SUPER ? super + 64 + unit % 4 * UNIT_BYTES : target + to / 16 * tile_bytes(units) + (long long)unit * UNIT_BYTES;
        u32 *codes = reinterpret_cast<u32 *>(place + (4 * g + t) * 16);
#pragma unroll
        for (int block = 0; block < 2; ++block) {
            const int k = unit * 64 + block * 32;
            if (k >= width) continue;
            u32 words[2] = {0, 0};
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                const u32 code = file_code(row, k + (BY_16 ? 4 * t + e % 4 + e / 4 * 16 : 8 * t + e));
                if (CODE_BITS == 8) words[e / 4] |= code << 8 * (e % 4 / 2 + e % 2 * 2);
                else words[0] |= code << 4 * (e / 2 + e % 2 * 4);
            }
            if (CODE_BITS == 8) codes[block * 128 + upper * 2] = words[0], codes[block * 128 + upper * 2 + 1] = words[1];
            else codes[block * 2 + upper] = words[0];
            if (t != 0) continue;
            unsigned char *scales = place + CODE_BITS * 128 + g * (SCALE_BYTES / 8);
            if (FORMAT == Q4_1) reinterpret_cast<u32 *>(scales)[block * 2 + upper] = file_scales(row, k);
            else reinterpret_cast<unsigned short *>(scales)[block * 2 + upper] = (unsigned short)file_scales(row, k);
        }
        if (HAS_SUPER && t == 0 && unit % 4 == 0) reinterpret_cast<u32 *>(super + g * 8)[upper] = file_super(row, unit * 64);
    }
}

// ---- to bf16 ----

// out[rows][width]; a warp takes a unit of 16 rows. `width` is a multiple of 32.
extern "C" __global__ void __launch_bounds__(256) expand_rows(const unsigned char *weight, bf16_bits *out, int rows, int width) {
    grid_wait();
    grid_launch_dependents();
    const int units = (width + 63) / 64, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const long long all = (rows + 15) / 16 * (long long)units;
    for (long long i = (long long)blockIdx.x * 8 + threadIdx.x / 32; i < all; i += (long long)gridDim.x * 8) {
        const int tile = (int)(i / units), unit = (int)(i % units);
        const QuantisedUnit w = load_unit(weight + tile * tile_bytes(units), unit, lane);
#pragma unroll
        for (int block = 0; block < 2; ++block)
#pragma unroll
            for (int upper = 0; upper < 2; ++upper) {
                const int row = tile * 16 + upper * 8 + g, k = unit * 64 + block * 32;
                u32 pairs[4], words[4];
                unit_pairs(pairs, w, block, upper);
                expand_pairs(words, pairs, unit_scales(w, block, upper));
                if (row >= rows || k >= width) continue;
                bf16_bits *target = out + (long long)row * width + k;
                if (BY_16) {
                    *reinterpret_cast<uint2 *>(target + 4 * t) = make_uint2(words[0], words[1]);
                    *reinterpret_cast<uint2 *>(target + 16 + 4 * t) = make_uint2(words[2], words[3]);
                } else {
                    *reinterpret_cast<uint4 *>(target + 8 * t) = make_uint4(words[0], words[1], words[2], words[3]);
                }
            }
    }
}

// ---- embeddings ----

// As embed_rows of decoder_step.cu.
extern "C" __global__ void __launch_bounds__(RESIDUAL_THREADS) embed_quantised(
    const int *tokens, const unsigned char *table, float scale, const float *weight, float *residual, bf16_bits *y,
    float *squares, int parts, int width, int vocabulary
) {
    grid_wait();
    grid_launch_dependents();
    const long long row = blockIdx.x, token = tokens[row];
    const bool exists = token >= 0 && token < vocabulary;
    begin_row(
        QuantisedRow(table, exists ? token : 0, (width + 63) / 64), scale, exists, weight, residual + row * width, y + row * width,
        squares + row * parts, parts, width);
}

// ---- at random ----

// Random codes; the same scales everywhere, as words of two rows and (HAS_SUPER) of one.
extern "C" __global__ void __launch_bounds__(256) fill_quantised(
    u32 *words, long long count, u64 seed, u32 scales, u32 super
) {
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < count; i += (long long)gridDim.x * 256) {
        const long long in_super = i * 4 % SUPER_BYTES - 64, in_unit = HAS_SUPER ? in_super % UNIT_BYTES : i * 4 % UNIT_BYTES;
        u64 z = seed + (u64)i * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        words[i] = HAS_SUPER && in_super < 0 ? super : in_unit < CODE_BITS * 128 ? (u32)(z >> 32) : scales;
    }
}
