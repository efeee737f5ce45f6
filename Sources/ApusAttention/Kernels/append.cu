// Writes the new tokens of a step into the pages of a GPU cache: rotary position embedding on the key part and, for
// latents, RMSNorm on what is read as value, so that neither takes a pass of its own.
//
//   rows    [sequence][new token][group][shared | value | own key] bf16
//   key     [sequence][new token][once key] bf16, where the key is kept once
//   cache   a page: [group][token][shared | value | own key], then [token][once key]; with FP8 the rows in e4m3 and,
//           after the keys, [group][token] float32 scales (the largest magnitude becomes 448)
// New token t of a sequence of `length` tokens (these included) stands at length - tokens + t; negative ones do not exist.
//
// Set at compile time: SHARED, VALUE, KEY, KEY_ONCE, PAGE_SIZE, FP8, NORM (RMSNorm of shared | value), ROTATED (elements
// of the key that are rotated, the first ones), INTERLEAVED (pairs 2 i and 2 i + 1, otherwise i and i + ROTATED / 2).
//
// One block a (group, new token, sequence), and one a (new token, sequence) for the key kept once. Floor: a launch's
// latency; the bytes are few.
#include "ptx.cuh"

#define V_WIDTH (SHARED + VALUE)
#define ROW_WIDTH (V_WIDTH + (KEY_ONCE ? 0 : KEY))
#define ROW_BYTES (ROW_WIDTH * (FP8 ? 1 : 2))
#define THREADS 128
#define PER_THREAD ((V_WIDTH + 2 * THREADS - 1) / (2 * THREADS))  // pairs of elements

static_assert(SHARED % 16 == 0 && VALUE % 16 == 0 && KEY % 16 == 0 && ROTATED % 2 == 0 && ROTATED <= KEY, "widths");
static_assert(!FP8 || KEY_ONCE, "an FP8 cache keeps the key once");

struct Append {
    const bf16_bits *rows;
    const bf16_bits *key;
    const float *weight;                // [group][shared | value], of the norm
    const double *inverse_frequencies;  // [ROTATED / 2]
    unsigned char *cache;
    const int *page_table;  // [sequence][page_stride]
    const int *lengths;
    long long page_bytes;
    int page_stride;
    int tokens;
    int groups;
    float epsilon;
    float magnitude;  // of cosine and sine
};

// Over the block; `shared` has room for a number a warp.
template <typename Combine>
__device__ __forceinline__ float combine_block(float x, float *shared, Combine combine) {
    for (int i = 16; i > 0; i /= 2) x = combine(x, __shfl_xor_sync(0xffffffff, x, i));
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
    for (int i = 1; i < THREADS / 32; ++i) x = combine(x, shared[i]);
    return x;
}

__device__ __forceinline__ bf16_bits bf16_of(float x) {
    return (bf16_bits)pack_bf16(x, 0.0f);
}

__device__ __forceinline__ void append_key(const Append &p, const bf16_bits *source, bf16_bits *target, int position) {
    for (int i = threadIdx.x; i < ROTATED / 2; i += THREADS) {
        const int first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? 2 * i + 1 : i + ROTATED / 2;
        const double angle = position * p.inverse_frequencies[i];
        const float cosine = (float)cos(angle) * p.magnitude, sine = (float)sin(angle) * p.magnitude;
        const float x = bf16_to_float(source[first]), y = bf16_to_float(source[second]);
        target[first] = bf16_of(x * cosine - y * sine);
        target[second] = bf16_of(y * cosine + x * sine);
    }
    for (int i = ROTATED + threadIdx.x; i < KEY; i += THREADS) target[i] = source[i];
}

extern "C" __global__ void __launch_bounds__(THREADS) append(const __grid_constant__ Append p) {
#if NORM || FP8
    __shared__ float shared[THREADS / 32];
#endif
    const int group = blockIdx.x, token = blockIdx.y, sequence = blockIdx.z;
    const int position = p.lengths[sequence] - p.tokens + token;
    if (position < 0) return;
    const int page = p.page_table[(long long)sequence * p.page_stride + position / PAGE_SIZE], in_page = position % PAGE_SIZE;
    unsigned char *plane = p.cache + page * p.page_bytes;
    const long long index = (long long)sequence * p.tokens + token;
#if KEY_ONCE
    if (group == p.groups) {
        unsigned char *keys = plane + p.groups * PAGE_SIZE * ROW_BYTES;
        append_key(p, p.key + index * KEY, reinterpret_cast<bf16_bits *>(keys) + in_page * KEY, position);
        return;
    }
#endif
    const bf16_bits *source = p.rows + (index * p.groups + group) * ROW_WIDTH;
    unsigned char *target = plane + (group * PAGE_SIZE + in_page) * ROW_BYTES;
    float x[2 * PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
        const int at = 2 * (threadIdx.x + i * THREADS);
        const u32 pair = at < V_WIDTH ? *reinterpret_cast<const u32 *>(source + at) : 0;
        x[2 * i] = __uint_as_float(pair << 16);
        x[2 * i + 1] = __uint_as_float(pair & 0xffff0000);
    }
#if NORM
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 2 * PER_THREAD; ++i) squares += x[i] * x[i];
    squares = combine_block(squares, shared, [](float a, float b) { return a + b; });
    const float inverse = rsqrtf(squares / V_WIDTH + p.epsilon);
#pragma unroll
    for (int i = 0; i < 2 * PER_THREAD; ++i) {
        const int at = 2 * (threadIdx.x + i / 2 * THREADS) + i % 2;
        if (at < V_WIDTH) x[i] *= inverse * p.weight[group * V_WIDTH + at];
    }
#endif
#if FP8
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 2 * PER_THREAD; ++i) largest = fmaxf(largest, fabsf(x[i]));
    largest = combine_block(largest, shared, [](float a, float b) { return fmaxf(a, b); });
    const float scale = largest > 0.0f ? largest / 448.0f : 1.0f;
    if (threadIdx.x == 0) {
        float *scales = reinterpret_cast<float *>(plane + p.groups * PAGE_SIZE * ROW_BYTES + PAGE_SIZE * KEY * 2);
        scales[group * PAGE_SIZE + in_page] = scale;
    }
#endif
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
        const int at = 2 * (threadIdx.x + i * THREADS);
        if (at >= V_WIDTH) continue;
#if FP8
        *reinterpret_cast<unsigned short *>(target + at) = pack_e4m3(x[2 * i] / scale, x[2 * i + 1] / scale);
#else
        *reinterpret_cast<u32 *>(target + at * 2) = pack_bf16(x[2 * i], x[2 * i + 1]);
#endif
    }
#if !KEY_ONCE
    append_key(p, source + V_WIDTH, reinterpret_cast<bf16_bits *>(target) + V_WIDTH, position);
#endif
}
