// A decode step's grouped attention (MHA, GQA, MQA) in one launch, for contexts that one block reads in little time: norm and
// rotation of the new query and key, the new token into the pages, attention over all tokens.
//
//   qkv     [sequence][query heads | key heads | value heads] bf16
//   cache   a page: [group][token][value | key], as for decode.cu
//   output  [sequence][query head][HEAD] bf16
// A sequence of lengths[i] tokens, the new one included, sees the last `window` of them; one of length 0 does not exist.
//
// A block takes a group of a sequence. The copy engine brings a page's rows of the group, which lie side by side, through STAGES
// buffers. LANES lanes take a token, 16 bytes of its key and of its value each, for all heads of the group; such teams keep
// running maxima and sums of their own, which meet at the end, in the same order in every run. Tokens of earlier steps are asked
// for before the kernel before this one has finished: it writes none of them.
//
// Set at compile time, beside what grouped_rows.cuh says: HEADS (query heads of a group), WARPS, STAGES.
//
// Floor: the cache over the bandwidth; about 30 instructions of a lane per head and 16 bytes of key and value.
#include "grouped_rows.cuh"

#define THREADS (32 * WARPS)
#define LANES (HEAD / 8)       // of a team
#define TEAMS (32 / LANES)     // of a warp
#define STRIDE (WARPS * TEAMS)
// Tokens of a team at a time.
#define AHEAD (PAGE_SIZE >= 4 * STRIDE ? 4 : PAGE_SIZE > STRIDE ? 2 : 1)
#define ROW_BYTES (4 * HEAD)
#define STAGE_BYTES (PAGE_SIZE * ROW_BYTES)

static_assert(32 % LANES == 0, "lanes of a token");

struct GroupedStep {
    const bf16_bits *qkv;
    const float *query_norm, *key_norm;  // [HEAD]
    const float *cosine, *sine;          // [position][ROTATED / 2]
    bf16_bits *cache;
    const int *page_table;
    const int *lengths;
    bf16_bits *output;
    long long page_elements;
    int page_stride, groups, window;
    float epsilon, scale_log2;
};

struct State {
    float largest[HEADS], sum[HEADS], output[HEADS][8];
};

__device__ __forceinline__ void unpack(const uint4 &words, float (&x)[8]) {
    x[0] = __uint_as_float(words.x << 16), x[1] = __uint_as_float(words.x & 0xffff0000u);
    x[2] = __uint_as_float(words.y << 16), x[3] = __uint_as_float(words.y & 0xffff0000u);
    x[4] = __uint_as_float(words.z << 16), x[5] = __uint_as_float(words.z & 0xffff0000u);
    x[6] = __uint_as_float(words.w << 16), x[7] = __uint_as_float(words.w & 0xffff0000u);
}

// Scores of a token for every head, the same in all lanes of the team.
__device__ __forceinline__ void score(const float (&q)[HEADS][8], const uint4 &key, float (&s)[HEADS]) {
    float k[8];
    unpack(key, k);
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
        s[head] = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) s[head] += q[head][i] * k[i];
#pragma unroll
        for (int bit = 1; bit < LANES; bit *= 2) s[head] += __shfl_xor_sync(FULL_WARP, s[head], bit);
    }
}

// What two states of the same columns are together; the other is that of the lane `bit` away.
__device__ __forceinline__ void join_lanes(State &state, int bit) {
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
        const float other = __shfl_xor_sync(FULL_WARP, state.largest[head], bit), largest = fmaxf(state.largest[head], other);
        const float subtract = largest == -infinity() ? 0.0f : largest;
        const float factor = exp2_approximate(state.largest[head] - subtract);
        state.largest[head] = largest;
        state.sum[head] *= factor;
        state.sum[head] += __shfl_xor_sync(FULL_WARP, state.sum[head], bit);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            state.output[head][i] *= factor;
            state.output[head][i] += __shfl_xor_sync(FULL_WARP, state.output[head][i], bit);
        }
    }
}

// One thread: the rows of page number `number` from the first that is seen, those before the new token, to their buffer.
__device__ __forceinline__ void bring_page(
    const GroupedStep &p, const int *pages, int group, int number, int first, int last, u32 stage, u32 barrier
) {
    const int begin = max(first, number * PAGE_SIZE), end = min(last, (number + 1) * PAGE_SIZE);
    const u32 bytes = (end - begin) * ROW_BYTES;
    barrier_expect(barrier, bytes);
    copy_bulk(
        stage + begin % PAGE_SIZE * ROW_BYTES, cache_row(p.cache, pages, p.page_elements, group, begin), bytes, barrier);
}

extern "C" __global__ void __launch_bounds__(THREADS) grouped_step(const __grid_constant__ GroupedStep p) {
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ alignas(8) u64 barriers[STAGES];
    __shared__ float heads[HEADS + 1][HEAD];  // the queries, and the new key
    __shared__ float maxima[WARPS][HEADS], totals[WARPS][HEADS], outputs[WARPS][HEADS][HEAD];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, team = warp * TEAMS + lane / LANES, column = lane % LANES * 8;
    const int group = blockIdx.x, sequence = blockIdx.y;
    const int length = p.lengths[sequence], last = length - 1, first = max(0, length - p.window);
    const int *pages = p.page_table + (long long)sequence * p.page_stride;

    const u32 stage = shared_address(memory), barrier = shared_address(barriers);
    const int first_page = first / PAGE_SIZE, end_page = last > first ? (last - 1) / PAGE_SIZE + 1 : first_page;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) barrier_init(barrier + 8 * i, 1);
        barrier_init_fence();
        for (int i = 0; i < STAGES && first_page + i < end_page; ++i)
            bring_page(p, pages, group, first_page + i, first, last, stage + i * STAGE_BYTES, barrier + 8 * i);
    }
    grid_wait();
    grid_launch_dependents();
    if (length == 0) return;

    const bf16_bits *qkv = p.qkv + (long long)sequence * (HEADS + 2) * p.groups * HEAD;
    const bf16_bits *new_key = qkv + (HEADS * p.groups + group) * HEAD, *new_value = new_key + p.groups * HEAD;
    const float *cosine = p.cosine + (long long)last * (ROTATED / 2), *sine = p.sine + (long long)last * (ROTATED / 2);
    for (int head = warp; head <= HEADS; head += WARPS) {
        const bool is_key = head == HEADS;
        prepare_head(
            is_key ? new_key : qkv + (group * HEADS + head) * HEAD, nullptr, is_key ? p.key_norm : p.query_norm, p.epsilon,
            cosine, sine, heads[head], lane);
        if (is_key)
            append_row(cache_row(p.cache, pages, p.page_elements, group, last), heads[head], new_value, nullptr, lane);
    }
    __syncthreads();

    float q[HEADS][8];
    State state;
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
        state.largest[head] = -infinity();
        state.sum[head] = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            q[head][i] = heads[head][column + i] * p.scale_log2;
            state.output[head][i] = 0.0f;
        }
    }
    // The new token, by the first team; the others compute along, for the lanes of a warp work together.
    {
        float s[HEADS], v[8];
        const float *key = &heads[HEADS][column];
        score(
            q, make_uint4(pack_bf16(key[0], key[1]), pack_bf16(key[2], key[3]), pack_bf16(key[4], key[5]), pack_bf16(key[6], key[7])),
            s);
        unpack(*reinterpret_cast<const uint4 *>(new_value + column), v);
        if (team == 0) {
#pragma unroll
            for (int head = 0; head < HEADS; ++head) {
                state.largest[head] = s[head];
                state.sum[head] = 1.0f;
#pragma unroll
                for (int i = 0; i < 8; ++i) state.output[head][i] = v[i];
            }
        }
    }

#pragma unroll 1
    for (int page = first_page; page < end_page; ++page) {
        const int number = page - first_page, slot = number % STAGES;
        barrier_wait(barrier + 8 * slot, number / STAGES & 1);
        const u32 rows = stage + slot * STAGE_BYTES + column * 2;
#pragma unroll 1
        for (int from = 0; from < PAGE_SIZE; from += AHEAD * STRIDE) {
            float s[AHEAD][HEADS], largest[HEADS];
            bool seen[AHEAD];
#pragma unroll
            for (int head = 0; head < HEADS; ++head) largest[head] = state.largest[head];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const int in_page = from + i * STRIDE + team, token = page * PAGE_SIZE + in_page;
                seen[i] = in_page < PAGE_SIZE && token >= first && token < last;
                score(q, seen[i] ? load_shared_16(rows + in_page * ROW_BYTES + 2 * HEAD) : make_uint4(0, 0, 0, 0), s[i]);
#pragma unroll
                for (int head = 0; head < HEADS; ++head) {
                    if (!seen[i]) s[i][head] = -infinity();
                    largest[head] = fmaxf(largest[head], s[i][head]);
                }
            }
#pragma unroll
            for (int head = 0; head < HEADS; ++head) {
                const float subtract = largest[head] == -infinity() ? 0.0f : largest[head];
                const float factor = exp2_approximate(state.largest[head] - subtract);
                state.largest[head] = largest[head];
                state.sum[head] *= factor;
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    s[i][head] = exp2_approximate(s[i][head] - subtract);
                    state.sum[head] += s[i][head];
                }
#pragma unroll
                for (int i = 0; i < 8; ++i) state.output[head][i] *= factor;
            }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                float v[8];
                unpack(
                    seen[i] ? load_shared_16(rows + (from + i * STRIDE + team) * ROW_BYTES) : make_uint4(0, 0, 0, 0), v);
#pragma unroll
                for (int head = 0; head < HEADS; ++head)
#pragma unroll
                    for (int j = 0; j < 8; ++j) state.output[head][j] += s[i][head] * v[j];
            }
        }
        if (page + STAGES < end_page) {
            __syncthreads();  // all have done with the buffer
            if (threadIdx.x == 0)
                bring_page(p, pages, group, page + STAGES, first, last, stage + slot * STAGE_BYTES, barrier + 8 * slot);
        }
    }

#pragma unroll
    for (int bit = LANES; bit < 32; bit *= 2) join_lanes(state, bit);
    if (lane < LANES) {
#pragma unroll
        for (int head = 0; head < HEADS; ++head) {
            if (lane == 0) maxima[warp][head] = state.largest[head], totals[warp][head] = state.sum[head];
#pragma unroll
            for (int i = 0; i < 8; ++i) outputs[warp][head][column + i] = state.output[head][i];
        }
    }
    __syncthreads();
    bf16_bits *target = p.output + ((long long)sequence * p.groups + group) * HEADS * HEAD;
    for (int i = threadIdx.x; i < HEADS * HEAD / 2; i += THREADS) {
        const int head = 2 * i / HEAD, at = 2 * i % HEAD;
        float largest = maxima[0][head];
        for (int w = 1; w < WARPS; ++w) largest = fmaxf(largest, maxima[w][head]);
        float sum = 0.0f, x = 0.0f, y = 0.0f;
        for (int w = 0; w < WARPS; ++w) {
            const float factor = exp2_approximate(maxima[w][head] - largest);
            sum += factor * totals[w][head];
            x += factor * outputs[w][head][at], y += factor * outputs[w][head][at + 1];
        }
        *reinterpret_cast<u32 *>(target + 2 * i) = pack_bf16(x / sum, y / sum);
    }
}
