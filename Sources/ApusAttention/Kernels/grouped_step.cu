// A decode step's grouped attention (MHA, GQA, MQA) in one launch, for contexts that one block reads in little time: norm and
// rotation of the new query and key, the new token into the pages, attention over all tokens.
//
//   qkv     [sequence][query heads | key heads | value heads] bf16
//   cache   a page: [group][token][value | key], as for decode.cu
//   output  [sequence][query head][HEAD] bf16
// A sequence of lengths[i] tokens, the new one included, sees the last `window` of them; one of length 0 does not exist.
//
// A block takes a group of a sequence. Its warps take tiles of 16 tokens in turn and keep running maxima and sums of their own,
// which meet at the end, in the same order in every run. Keys and values go from memory to registers and from there into tensor
// cores as operands of 16 rows, tokens or columns; the group's heads, at most 8, are the other operand. In which order a row's
// columns are multiplied is free as long as both operands have the same: a lane takes 16 bytes of a row. Tokens of earlier steps
// are asked for before the kernel before this one has finished: it writes none of them.
//
// Set at compile time, beside what grouped_rows.cuh says: HEADS (query heads of a group), WARPS, AHEAD (tiles of a warp on their
// way).
//
// Floor: the cache over the bandwidth.
#include "grouped_rows.cuh"

#define THREADS (32 * WARPS)
#define TILE 16
#define PARTS (HEAD > 128 ? HEAD / 128 : 1)  // warps that share out the columns of values
#define TEAMS (WARPS / PARTS)
#define COLUMNS (HEAD / PARTS)
#define KEY_UNITS ((HEAD + 31) / 32)         // of 32 columns of keys
#define VALUE_UNITS ((COLUMNS + 63) / 64)    // of 64 columns of values

static_assert(HEADS <= 8 && PAGE_SIZE % TILE == 0 && WARPS % PARTS == 0, "shapes of this kernel");

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

// Of a tile: keys of tokens lane / 4 and 8 further, columns 8 (lane % 4) of each unit and the next 7; values of tokens
// 2 (lane % 4), the next, and both 8 further, columns 8 (lane / 4) of each unit and the next 7.
struct Tile {
    uint4 keys[2][KEY_UNITS], values[VALUE_UNITS][4];
};

// Running results of a lane's heads 2 (lane % 4) and the next: the largest score, this lane's part of the sum, and
// columns 8 (lane / 4) of each unit and the next 7.
struct State {
    float largest[2], sum[2], output[VALUE_UNITS][4][4];
};

// Tokens from `first` on, those before `last`; elsewhere 0.
__device__ __forceinline__ void load_tile(Tile &tile, const bf16_bits *rows, int first, int last, int part, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int token = half * 8 + g;
#pragma unroll
        for (int unit = 0; unit < KEY_UNITS; ++unit) {
            const int column = unit * 32 + t * 8;
            tile.keys[half][unit] = first + token < last && column < HEAD
                ? *reinterpret_cast<const uint4 *>(rows + token * (2 * HEAD) + HEAD + column) : make_uint4(0, 0, 0, 0);
        }
    }
#pragma unroll
    for (int unit = 0; unit < VALUE_UNITS; ++unit) {
        const int column = unit * 64 + g * 8;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = i / 2 * 8 + t * 2 + i % 2;
            tile.values[unit][i] = first + token < last && column < COLUMNS
                ? *reinterpret_cast<const uint4 *>(rows + token * (2 * HEAD) + part * COLUMNS + column) : make_uint4(0, 0, 0, 0);
        }
    }
}

// Scores of tokens lane / 4 (s[0], s[1]) and 8 further (s[2], s[3]) for the lane's heads.
__device__ __forceinline__ void multiply_keys(float (&s)[4], const Tile &tile, const uint4 (&q)[KEY_UNITS]) {
    s[0] = s[1] = s[2] = s[3] = 0.0f;
#pragma unroll
    for (int unit = 0; unit < KEY_UNITS; ++unit) {
        const uint4 &low = tile.keys[0][unit], &high = tile.keys[1][unit];
        multiply_16x8(s, {low.x, high.x, low.y, high.y}, q[unit].x, q[unit].y);
        multiply_16x8(s, {low.z, high.z, low.w, high.w}, q[unit].z, q[unit].w);
    }
}

// output += weights x values; `low` and `high` are the weights of the first and the last 8 tokens.
__device__ __forceinline__ void add_values(State &state, const Tile &tile, u32 low, u32 high) {
#pragma unroll
    for (int unit = 0; unit < VALUE_UNITS; ++unit) {
        const uint4 *v = tile.values[unit];
        const u32 words[4][4] = {
            {v[0].x, v[1].x, v[2].x, v[3].x}, {v[0].y, v[1].y, v[2].y, v[3].y}, {v[0].z, v[1].z, v[2].z, v[3].z},
            {v[0].w, v[1].w, v[2].w, v[3].w}};
#pragma unroll
        for (int i = 0; i < 4; ++i)
            multiply_16x8(
                state.output[unit][i],
                {low_halves(words[i][0], words[i][1]), high_halves(words[i][0], words[i][1]),
                 low_halves(words[i][2], words[i][3]), high_halves(words[i][2], words[i][3])}, low, high);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) grouped_step(const __grid_constant__ GroupedStep p) {
    __shared__ __align__(16) float heads[HEADS + 1][HEAD];  // the queries, and the new key
    __shared__ __align__(16) float outputs[TEAMS][HEADS][HEAD];
    __shared__ float maxima[TEAMS + 1][HEADS], totals[TEAMS][HEADS];  // the last maximum: the new token's score
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, team = warp / PARTS, part = warp % PARTS;
    const int group = blockIdx.x, sequence = blockIdx.y;
    const int length = p.lengths[sequence], last = length - 1, first = max(0, length - p.window);
    const int *pages = p.page_table + (long long)sequence * p.page_stride;

    // Tokens before the new one. Tiles begin at multiples of 16, so each lies in one page.
    Tile tiles[AHEAD];
    const auto fetch = [&](Tile &tile, int from) {
        if (from < last) load_tile(tile, cache_row(p.cache, pages, p.page_elements, group, from), from, last, part, lane);
    };
    const int begin = first / TILE * TILE + team * TILE;
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) fetch(tiles[i], begin + i * (TEAMS * TILE));
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

    // As the operand of 8 columns: head lane / 4.
    uint4 q[KEY_UNITS];
#pragma unroll
    for (int unit = 0; unit < KEY_UNITS; ++unit) {
        const int column = unit * 32 + lane % 4 * 8;
        q[unit] = make_uint4(0, 0, 0, 0);
        if (lane / 4 >= HEADS || column >= HEAD) continue;
        const float *from = &heads[lane / 4][column];
        q[unit] = make_uint4(
            pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]), pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7]));
    }
    for (int head = warp; head < HEADS; head += WARPS) {
        float sum = 0.0f;
        for (int i = lane; i < HEAD; i += 32) sum += rounded(heads[head][i]) * rounded(heads[HEADS][i]);
        sum = group_sum<32>(sum, maxima[0]);
        if (lane == 0) maxima[TEAMS][head] = sum * p.scale_log2;
    }

    State state = {{-infinity(), -infinity()}};
#pragma unroll 1
    for (int from = begin; from < last; from += AHEAD * TEAMS * TILE) {
        float s[AHEAD][4], largest[2] = {-infinity(), -infinity()};
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int tile = from + i * (TEAMS * TILE);
            multiply_keys(s[i], tiles[i], q);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int token = tile + j / 2 * 8 + lane / 4;
                s[i][j] = token >= first && token < last ? s[i][j] * p.scale_log2 : -infinity();
                largest[j % 2] = fmaxf(largest[j % 2], s[i][j]);
            }
        }
        float subtract[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int bit = 4; bit < 32; bit *= 2) largest[j] = fmaxf(largest[j], __shfl_xor_sync(FULL_WARP, largest[j], bit));
            largest[j] = fmaxf(largest[j], state.largest[j]);
            subtract[j] = largest[j] == -infinity() ? 0.0f : largest[j];
            const float factor = exp2_approximate(state.largest[j] - subtract[j]);
            state.largest[j] = largest[j];
            state.sum[j] *= factor;
#pragma unroll
            for (int unit = 0; unit < VALUE_UNITS; ++unit)
#pragma unroll
                for (int i = 0; i < 4; ++i) state.output[unit][i][j] *= factor, state.output[unit][i][2 + j] *= factor;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int tile = from + i * (TEAMS * TILE);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                s[i][j] = exp2_approximate(s[i][j] - subtract[j % 2]);
                state.sum[j % 2] += s[i][j];
            }
            if (tile < last)
                add_values(
                    state, tiles[i], transpose_matrix(pack_bf16(s[i][0], s[i][1])), transpose_matrix(pack_bf16(s[i][2], s[i][3])));
            fetch(tiles[i], tile + AHEAD * TEAMS * TILE);
        }
    }

#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int bit = 4; bit < 32; bit *= 2) state.sum[j] += __shfl_xor_sync(FULL_WARP, state.sum[j], bit);
        const int head = lane % 4 * 2 + j;
        if (head >= HEADS) continue;
        if (lane < 4 && part == 0) maxima[team][head] = state.largest[j], totals[team][head] = state.sum[j];
#pragma unroll
        for (int unit = 0; unit < VALUE_UNITS; ++unit) {
            const int column = unit * 64 + lane / 4 * 8;
            if (column >= COLUMNS) continue;
            const auto &o = state.output[unit];
            float4 *to = reinterpret_cast<float4 *>(&outputs[team][head][part * COLUMNS + column]);
            to[0] = make_float4(o[0][j], o[0][2 + j], o[1][j], o[1][2 + j]);
            to[1] = make_float4(o[2][j], o[2][2 + j], o[3][j], o[3][2 + j]);
        }
    }
    __syncthreads();
    bf16_bits *target = p.output + ((long long)sequence * p.groups + group) * HEADS * HEAD;
    for (int i = threadIdx.x; i < HEADS * HEAD / 2; i += THREADS) {
        const int head = 2 * i / HEAD, at = 2 * i % HEAD;
        float largest = maxima[TEAMS][head];
        for (int w = 0; w < TEAMS; ++w) largest = fmaxf(largest, maxima[w][head]);
        const u32 value = *reinterpret_cast<const u32 *>(new_value + at);
        float sum = exp2_approximate(maxima[TEAMS][head] - largest);
        float x = sum * __uint_as_float(value << 16), y = sum * __uint_as_float(value & 0xffff0000u);
        for (int w = 0; w < TEAMS; ++w) {
            const float factor = exp2_approximate(maxima[w][head] - largest);
            sum += factor * totals[w][head];
            x += factor * outputs[w][head][at], y += factor * outputs[w][head][at + 1];
        }
        *reinterpret_cast<u32 *>(target + 2 * i) = pack_bf16(x / sum, y / sum);
    }
}
