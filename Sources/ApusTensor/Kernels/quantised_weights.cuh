// Weights in GGUF's quantised types, as the products of row_products.cu and tall_products.cu read them: the file's codes and
// scales, bit for bit, in an order fit for tensor cores.
//
// Rows come in tiles of 16, and a tile in units of 64 elements along the row (the last one filled up with zeros). Of a unit lane
// 4 g + t of a warp multiplies rows g and g + 8. It has 16 bytes of codes, or twice 16 of 8 bits, beside those of its neighbours:
// a warp's load is one run of memory. Behind the codes follow the scales of the unit's two blocks of 32 elements.
//
//   Q8_0  codes 2 x 512 bytes [block][lane][row][element], d f16 [g][block][row]                1088 bytes a unit
//   Q4_0  codes 512 [lane][block][row][element], d f16 likewise                                  576
//   Q4_1  codes as Q4_0, (d, m) f16 [g][block][row]                                              640
//   Q4_K  codes as Q4_0, (scale, min) u8 [g][block][row]; before every 4 units (d, dmin) f16 [g][row]      592
//   Q6_K  codes as Q8_0, less 32, scales i8 of 16 elements [g][block][row][half]; (d, 0) likewise         1104
//
// Elements of a lane in a block: 8 t ... 8 t + 7, the first four of them for the first product of 16 and the others for the
// second; of Q6_K, whose scales are of 16 elements, 4 t ... 4 t + 3 and those 16 on. A word of codes is unpacked as pairs of
// bf16, which represent codes exactly: two halves of a word by one mask, so 8-bit elements lie in the order 0, 2, 1, 3 and 4-bit
// ones in the order 0, 2, 4, 6, 1, 3, 5, 7.
//
// Set at compile time: FORMAT.
#pragma once

#include "rows.cuh"

#define BF16 0
#define Q8_0 1
#define Q4_0 2
#define Q4_1 3
#define Q4_K 4
#define Q6_K 5

#if FORMAT != BF16

#define CODE_BITS (FORMAT == Q8_0 || FORMAT == Q6_K ? 8 : 4)
#define CODE_LOADS (CODE_BITS / 4)  // of 16 bytes, of a lane
#define HAS_SUPER (FORMAT == Q4_K || FORMAT == Q6_K)
#define HAS_MINIMUM (FORMAT == Q4_1 || FORMAT == Q4_K)
#define BY_16 (FORMAT == Q6_K)
#define SCALE_BYTES (FORMAT == Q4_1 ? 128 : 64)
#define UNIT_BYTES (CODE_BITS * 128 + SCALE_BYTES)
#define SUPER_BYTES (64 + 4 * UNIT_BYTES)

// Bytes of 16 rows of so many units.
__device__ __forceinline__ long long tile_bytes(int units) {
    return HAS_SUPER ? (long long)units / 4 * SUPER_BYTES : (long long)units * UNIT_BYTES;
}

// A lane's share of a unit.
struct QuantisedUnit {
    uint4 codes[CODE_LOADS];
    uint4 scales;  // Q4_1: (d, m) [block][row]; otherwise x, y: a block's scales of both rows
    uint2 super;   // HAS_SUPER: of both rows
};

__device__ __forceinline__ QuantisedUnit load_unit(const unsigned char *tile, int unit, int lane) {
    const unsigned char *super = tile + unit / 4 * SUPER_BYTES;
    const unsigned char *place = HAS_SUPER ? super + 64 + unit % 4 * UNIT_BYTES : tile + (long long)unit * UNIT_BYTES;
    QuantisedUnit w;
#pragma unroll
    for (int i = 0; i < CODE_LOADS; ++i) w.codes[i] = load_once_16(place + i * 512 + lane * 16);
    const unsigned char *scales = place + CODE_BITS * 128 + lane / 4 * (SCALE_BYTES / 8);
    if (FORMAT == Q4_1) {
        w.scales = load_once_16(scales);
    } else {
        const uint2 both = *reinterpret_cast<const uint2 *>(scales);
        w.scales = make_uint4(both.x, both.y, 0, 0);
    }
    w.super = HAS_SUPER ? *reinterpret_cast<const uint2 *>(super + lane / 4 * 8) : make_uint2(0, 0);
    return w;
}

// Byte `index` of a word as a float.
__device__ __forceinline__ float unsigned_byte(u32 word, int index) {
    return __uint_as_float(0x4b000000u | (word >> 8 * index & 255u)) - 8388608.0f;
}

__device__ __forceinline__ float signed_byte(u32 word, int index) {
    return __uint_as_float(0x4b000000u | ((word >> 8 * index ^ 128u) & 255u)) - 8388736.0f;
}

// What codes of a row are multiplied by in a block, by the halves of its elements, and what is added to the product.
struct Scales {
    float factor[2], minimum;
};

// `words`: the scales of a block as they lie, of row `row` (0: g, 1: g + 8), and what its super-block has.
__device__ __forceinline__ Scales block_scales(u32 word, int row, u32 super) {
    const u32 own = FORMAT == Q4_1 ? word : row ? word >> 16 : word & 0xffff;
    Scales s;
    s.minimum = 0.0f;
    if (FORMAT == Q4_1) {
        s.factor[0] = half_to_float((unsigned short)own);
        s.minimum = half_to_float((unsigned short)(own >> 16));
    } else if (FORMAT == Q4_K) {
        s.factor[0] = half_to_float((unsigned short)super) * unsigned_byte(own, 0);
        s.minimum = -(half_to_float((unsigned short)(super >> 16)) * unsigned_byte(own, 1));
    } else if (FORMAT == Q6_K) {
        const float d = half_to_float((unsigned short)super);
        s.factor[0] = d * signed_byte(own, 0);
        s.factor[1] = d * signed_byte(own, 1);
        return s;
    } else {
        s.factor[0] = half_to_float((unsigned short)own);
    }
    s.factor[1] = s.factor[0];
    return s;
}

__device__ __forceinline__ Scales unit_scales(const QuantisedUnit &w, int block, int row) {
    const u32 super = row ? w.super.y : w.super.x;
    if (FORMAT == Q4_1) return block_scales(block ? row ? w.scales.w : w.scales.z : row ? w.scales.y : w.scales.x, row, super);
    return block_scales(block ? w.scales.y : w.scales.x, row, super);
}

// Four codes of 8 bits as pairs of bf16: 128 and seven bits, less 128 or, of a negative one, 256.
__device__ __forceinline__ void pairs_of_8(u32 word, u32 &first, u32 &second) {
    first = subtract_bf16(word & 0x007f007fu | 0x43004300u, word & 0x00800080u | 0x43004300u);
    word >>= 8;
    second = subtract_bf16(word & 0x007f007fu | 0x43004300u, word & 0x00800080u | 0x43004300u);
}

// Two of the eight codes of 4 bits: 128 and the code, less 128 (less 136 where they count from -8).
__device__ __forceinline__ u32 pair_of_4(u32 word, int pair) {
    return subtract_bf16(word >> 4 * pair & 0x000f000fu | 0x43004300u, FORMAT == Q4_0 ? 0x43084308u : 0x43004300u);
}

// Pairs of a lane's 8 codes of a row in a block: the first two for the first product of 16, the others for the second.
__device__ __forceinline__ void unit_pairs(u32 (&pairs)[4], const QuantisedUnit &w, int block, int row) {
    if (CODE_BITS == 8) {
        const uint4 words = w.codes[block * (CODE_LOADS - 1)];
        pairs_of_8(row ? words.z : words.x, pairs[0], pairs[1]);
        pairs_of_8(row ? words.w : words.y, pairs[2], pairs[3]);
    } else {
        const uint4 words = w.codes[0];
        const u32 word = block ? row ? words.w : words.z : row ? words.y : words.x;
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = pair_of_4(word, i);
    }
}

// Pairs of codes as rounded weights.
__device__ __forceinline__ void expand_pairs(u32 (&words)[4], const u32 (&pairs)[4], const Scales &s) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
        words[i] = pack_bf16(
            __uint_as_float(pairs[i] << 16) * s.factor[i / 2] + s.minimum,
            __uint_as_float(pairs[i] & 0xffff0000u) * s.factor[i / 2] + s.minimum);
}

// A row of a matrix of `units` a row.
struct QuantisedRow {
    const unsigned char *tile;
    int row;

    __device__ __forceinline__ QuantisedRow(const unsigned char *weight, long long number, int units)
        : tile(weight + number / 16 * tile_bytes(units)), row((int)(number % 16)) {}
};

__device__ __forceinline__ bool aligned(const QuantisedRow &) {
    return true;
}

// Elements first ... first + 3 of a row, as float32.
__device__ __forceinline__ void load(const QuantisedRow &row, long long first, long long width, bool, float (&x)[4]) {
    const int unit = (int)(first / 64), block = (int)(first / 32 % 2), in_block = (int)(first % 32);
    const int t = BY_16 ? in_block % 16 / 4 : in_block / 8, half = BY_16 ? in_block / 16 : in_block / 4 % 2;
    const int g = row.row % 8, upper = row.row / 8;
    const unsigned char *super = row.tile + unit / 4 * SUPER_BYTES;
    const unsigned char *place = HAS_SUPER ? super + 64 + unit % 4 * UNIT_BYTES : row.tile + (long long)unit * UNIT_BYTES;
    const u32 *codes = reinterpret_cast<const u32 *>(place + (4 * g + t) * 16);
    const u32 *scales = reinterpret_cast<const u32 *>(place + CODE_BITS * 128 + g * (SCALE_BYTES / 8));
    u32 pairs[2];
    if (CODE_BITS == 8) {
        pairs_of_8(codes[block * 128 + upper * 2 + half], pairs[0], pairs[1]);
    } else {
        const u32 word = codes[block * 2 + upper] >> 8 * half;
        pairs[0] = pair_of_4(word, 0), pairs[1] = pair_of_4(word, 1);
    }
    const Scales s = block_scales(
        scales[FORMAT == Q4_1 ? block * 2 + upper : block], upper,
        HAS_SUPER ? reinterpret_cast<const u32 *>(super + g * 8)[upper] : 0);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float code = __uint_as_float(i % 2 ? pairs[i / 2] & 0xffff0000u : pairs[i / 2] << 16);
        x[i] = first + i < width ? code * (half ? s.factor[1] : s.factor[0]) + s.minimum : 0.0f;
    }
}

#endif
