// What checks and measurements need beside the kernels: random numbers, cache pages, the read bandwidth.
#include "ptx.cuh"

// A mix of 64 bits (splitmix64's finaliser).
__device__ __forceinline__ u64 mix(u64 x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

// Nearly normal, of variance 1: the sum of four uniform numbers.
__device__ __forceinline__ float random_normal(u64 seed, u64 index) {
    const u64 x = mix(seed + index * 0x9e3779b97f4a7c15ull);
    const u32 sum = (u32)(x & 0xffff) + (u32)(x >> 16 & 0xffff) + (u32)(x >> 32 & 0xffff) + (u32)(x >> 48);
    return ((float)sum / 65536.0f - 2.0f) * 1.7320508f;
}

extern "C" __global__ void fill_random(bf16_bits *target, long long count, u64 seed, float gain) {
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll)
        target[i] = (bf16_bits)pack_bf16(random_normal(seed, i) * gain, 0.0f);
}

struct Pages {
    unsigned char *cache;
    const int *page_table;
    const int *lengths;
    long long page_bytes;
    int page_stride, page_size, groups, row_width, key_width, fp8;  // key_width: of the key kept once
};

// Random rows, keys and scales for the tokens that exist; the rest of the pages stays as it is. Blocks: (token, sequence).
extern "C" __global__ void fill_pages(Pages p, u64 seed) {
    const int sequence = blockIdx.y;
    const long long row_bytes = p.row_width * (p.fp8 ? 1 : 2);
    for (int token = blockIdx.x; token < p.lengths[sequence]; token += gridDim.x) {
        const int page = p.page_table[(long long)sequence * p.page_stride + token / p.page_size];
        const int in_page = token % p.page_size;
        unsigned char *plane = p.cache + page * p.page_bytes;
        unsigned char *keys = plane + p.groups * p.page_size * row_bytes, *scales = keys + p.page_size * p.key_width * 2ll;
        const u64 first = ((u64)sequence << 40) + (u64)token * (p.groups * p.row_width + p.key_width + p.groups);
        for (int i = threadIdx.x; i < p.groups * p.row_width; i += blockDim.x) {
            const int group = i / p.row_width, column = i % p.row_width;
            unsigned char *row = plane + ((long long)group * p.page_size + in_page) * row_bytes;
            const float x = random_normal(seed, first + i);
            if (p.fp8) row[column] = (unsigned char)pack_e4m3(x, 0.0f);
            else reinterpret_cast<bf16_bits *>(row)[column] = (bf16_bits)pack_bf16(x, 0.0f);
        }
        for (int i = threadIdx.x; i < p.key_width; i += blockDim.x)
            reinterpret_cast<bf16_bits *>(keys)[in_page * p.key_width + i] =
                (bf16_bits)pack_bf16(random_normal(seed, first + p.groups * p.row_width + i), 0.0f);
        for (int i = threadIdx.x; p.fp8 && i < p.groups; i += blockDim.x)
            reinterpret_cast<float *>(scales)[i * p.page_size + in_page] =
                exp2f(0.7f * random_normal(seed, first + p.groups * p.row_width + p.key_width + i));
    }
}

// Reads `count` 16-byte words once: the read bandwidth that the floors are taken from.
extern "C" __global__ void __launch_bounds__(512) read_all(const uint4 *source, long long count, unsigned *result) {
    unsigned sum = 0;
    long long stride = (long long)gridDim.x * blockDim.x * 4;
    for (long long i = (long long)blockIdx.x * blockDim.x * 4 + threadIdx.x; i < count; i += stride) {
        uint4 x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] = source[i + j * blockDim.x];
#pragma unroll
        for (int j = 0; j < 4; ++j) sum += x[j].x ^ x[j].y ^ x[j].z ^ x[j].w;
    }
    if (sum == 0x12345678) *result = sum;
}
