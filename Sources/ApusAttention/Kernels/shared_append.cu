// New tokens of attention that keeps one rotated key for all heads (GTA, MLA, GLA): states and key into the pages, and what is
// to be done with the queries before attention or before their next product. For prompts and for steps.
//
//   projected  [token][queries | group states | key] bf16. Queries are `parts` parts of PART elements, or whatever the row
//              has before its states where PART is 0, which is left alone
//   first      [token][part][PART] bf16: with NORM query latents, normalised; without it heads [shared | key], rotated
//   cache      a page: [group][token][shared | value], then [token][key]; with NORM states are normalised first
//   sequences  [token]: the row of the page table; none: token i belongs to sequence i
//   positions  [token]; none: sequence i's new token stands at lengths[i] - 1, a negative one does not exist
//
// Set at compile time: SHARED, VALUE, KEY (of CacheGeometry), PAGE_SIZE, ROTATED, INTERLEAVED, NORM (latents), PART.
//
// A warp takes a part of a token. Floor: projected read, first and cache written once.
#include "rotary_rows.cuh"

#define V_WIDTH (SHARED + VALUE)
#define THREADS 128
#define WARPS (THREADS / 32)

static_assert(SHARED % 16 == 0 && VALUE % 16 == 0 && KEY % 16 == 0 && PART % 8 == 0, "rows are read 16 bytes at a time");
static_assert(NORM || PART == SHARED + KEY, "heads are [shared | key]");

struct SharedAppend {
    const bf16_bits *projected;
    const float *first_norm;     // [part][PART]
    const float *norm;           // [group][shared]
    const float *cosine, *sine;  // [position][ROTATED / 2]
    bf16_bits *first;
    bf16_bits *cache;
    const int *page_table;
    const int *sequences, *positions, *lengths;
    long long page_elements;
    int page_stride, tokens, parts, groups;
    int width;  // of a row of `projected`
    float epsilon;
};

// WIDTH elements, with NORMED over their root mean square and times `weight`.
template <int WIDTH, bool NORMED>
__device__ __forceinline__ void copy_row(
    const bf16_bits *source, const float *weight, float epsilon, bf16_bits *target, int lane
) {
    constexpr int STEPS = (WIDTH + 255) / 256;
    float x[STEPS][8];
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
        const int at = 8 * (lane + 32 * i);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[i][j] = 0.0f;
        if (at < WIDTH) load_wide(source + at, x[i]);
    }
    if (NORMED) {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < STEPS; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) squares += x[i][j] * x[i][j];
        const float inverse = 1.0f / sqrtf(group_sum<32>(squares, (float *)nullptr) / (float)WIDTH + epsilon);
#pragma unroll
        for (int i = 0; i < STEPS; ++i) {
            const int at = 8 * (lane + 32 * i);
            float weights[8];
            if (at >= WIDTH) continue;
            load_wide(weight + at, weights);
#pragma unroll
            for (int j = 0; j < 8; ++j) x[i][j] *= inverse * weights[j];
        }
    }
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
        const int at = 8 * (lane + 32 * i);
        if (at < WIDTH) store_wide(target + at, x[i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) shared_append(const __grid_constant__ SharedAppend p) {
    grid_wait();
    grid_launch_dependents();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, per_token = p.parts + p.groups + 1;
    const long long all = (long long)p.tokens * per_token;
#pragma unroll 1
    for (long long i = (long long)blockIdx.x * WARPS + warp; i < all; i += gridDim.x * WARPS) {
        const int token = i / per_token, part = i - (long long)token * per_token, group = part - p.parts;
        const int sequence = p.sequences != nullptr ? p.sequences[token] : token;
        const int position = p.positions != nullptr ? p.positions[token] : p.lengths[token] - 1;
        if (position < 0) continue;
        const bf16_bits *row = p.projected + (long long)token * p.width;
        const float *cosine = p.cosine + (long long)position * (ROTATED / 2), *sine = p.sine + (long long)position * (ROTATED / 2);
#if PART > 0
        if (part < p.parts) {
            const bf16_bits *source = row + part * PART;
            bf16_bits *target = p.first + ((long long)token * p.parts + part) * PART;
#if NORM
            copy_row<PART, true>(source, p.first_norm + part * PART, p.epsilon, target, lane);
#else
            copy_row<SHARED, false>(source, nullptr, 0.0f, target, lane);
            rotate_row(source + SHARED, cosine, sine, target + SHARED, lane);
#endif
            continue;
        }
#endif
        const long long page = p.page_table[(long long)sequence * p.page_stride + position / PAGE_SIZE];
        const int in_page = position % PAGE_SIZE;
        bf16_bits *plane = p.cache + page * p.page_elements;
        if (group < p.groups)
            copy_row<V_WIDTH, NORM>(
                row + p.width - KEY - (p.groups - group) * V_WIDTH, p.norm + group * V_WIDTH, p.epsilon,
                plane + (group * PAGE_SIZE + in_page) * V_WIDTH, lane);
        else
            rotate_row(row + p.width - KEY, cosine, sine, plane + p.groups * PAGE_SIZE * V_WIDTH + in_page * KEY, lane);
    }
}
