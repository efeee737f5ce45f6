// What serving_rank.py needs beside Apus's kernels: the experts of a mixture with e4m3 weights and bf16 activations, their
// routing, norms that also add and split, and rotary embedding of absorbed queries.
//
// Set at compile time: MODEL (d_model), QUERY_LATENT, LATENT, ROPE (widths), NOPE (of a head), HEADS, EXPERTS, EXPERT_GROUPS,
// GROUPS_KEPT, PICKS (routed experts a token), SHARED_EXPERTS (taken by all tokens, after the routed ones), WIDTH (of an
// expert on this rank).
//
// A slot is (token, pick): token x ALL_PICKS + pick, the shared experts' last. Pairs are slots in the order of their experts.
#include "fp8_codes.cuh"
#include "rows.cuh"

#define ALL_PICKS (PICKS + SHARED_EXPERTS)
#define CHUNK 16  // pairs of an expert that a block takes at once
#define MAX_TOKENS 256
#define PER_LANE (EXPERTS / 32)
#define LANES_PER_GROUP (32 / EXPERT_GROUPS)

static_assert(EXPERTS % 32 == 0 && EXPERTS <= 256 && 32 % EXPERT_GROUPS == 0, "a lane's experts are of one group");
static_assert(PICKS % 2 == 0 && ALL_PICKS % 2 == 0, "rows are added by halves");
static_assert(MODEL % 512 == 0 && WIDTH % 64 == 0 && WIDTH % 16 == 0, "widths");

struct alignas(16) Chunk {
    int expert;  // -1: none
    int first, count;
    int unused;
};

// ---- routing ----

// bf16 logits order as the integers in the upper half, and what is below tells equal ones apart.
__device__ __forceinline__ u32 order_key(bf16_bits x, int index) {
    const u32 bits = (u32)x << 16;
    return ((bits & 0x80000000u) ? ~bits & 0xffff0000u : bits | 0x80000000u) | (255 - index);
}

// Group-limited choice of a token, by a warp: the GROUPS_KEPT groups with the largest logit, of them the PICKS largest logits.
// Calls write(pick, expert, softmax over all experts); of equal logits the first expert wins.
template <typename Write>
__device__ __forceinline__ void choose_experts(const bf16_bits *logits, int lane, Write write) {
    u32 keys[PER_LANE];
    float sum = 0.0f;
    u32 best = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const bf16_bits x = logits[lane * PER_LANE + i];
        keys[i] = order_key(x, lane * PER_LANE + i);
        best = max(best, keys[i]);
        sum += __expf(bf16_to_float(x));
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, i);
#pragma unroll
    for (int i = 1; i < LANES_PER_GROUP; i *= 2) best = max(best, __shfl_xor_sync(FULL_WARP, best, i));
    bool kept = false;
    for (int i = 0; i < GROUPS_KEPT; ++i) {
        const u32 top = __reduce_max_sync(FULL_WARP, kept ? 0 : best);
        kept = kept || best == top;
    }
    for (int pick = 0; pick < PICKS; ++pick) {
        u32 mine = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) mine = max(mine, kept ? keys[i] : 0);
        const u32 top = __reduce_max_sync(FULL_WARP, mine);
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) keys[i] = keys[i] == top ? 0 : keys[i];
        const int expert = 255 - (int)(top & 0xff);
        if (mine == top) write(pick, expert, __expf(bf16_to_float(logits[expert])) / sum);
    }
}

// experts and weights [token][pick] of many tokens, a warp each; weights are `factor` x softmax.
extern "C" __global__ void __launch_bounds__(256) choose(
    const bf16_bits *logits, int tokens, float factor, short *experts, float *weights
) {
    const int token = blockIdx.x * 8 + threadIdx.x / 32;
    if (token >= tokens) return;
    choose_experts(logits + token * EXPERTS, threadIdx.x % 32, [&](int pick, int expert, float share) {
        experts[token * PICKS + pick] = expert;
        weights[token * PICKS + pick] = factor * share;
    });
}

// The same for a decode step: writes the chunks (the shared experts' first, as they are the longest), the pairs, the weights of
// slots, and adds the number of routed experts that have tokens to `touched`. One block of 1024 threads.
extern "C" __global__ void __launch_bounds__(1024) route(
    const bf16_bits *logits, int tokens, float factor, Chunk *chunks, int max_chunks, int *pairs, float *weights, int *touched
) {
    __shared__ int counts[EXPERTS], starts[EXPERTS];
    __shared__ unsigned short experts[MAX_TOKENS * PICKS], places[MAX_TOKENS * PICKS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i < EXPERTS; i += 1024) counts[i] = 0;
    __syncthreads();
    for (int token = warp; token < tokens; token += 32) {
        choose_experts(logits + token * EXPERTS, lane, [&](int pick, int expert, float share) {
            experts[token * PICKS + pick] = expert;
            places[token * PICKS + pick] = atomicAdd(counts + expert, 1);
            weights[token * ALL_PICKS + pick] = factor * share;
        });
        if (lane < SHARED_EXPERTS) {
            weights[token * ALL_PICKS + PICKS + lane] = 1.0f;
            pairs[lane * tokens + token] = token * ALL_PICKS + PICKS + lane;
        }
    }
    __syncthreads();
    if (warp == 0) {
        const int shared_chunks = (tokens + CHUNK - 1) / CHUNK;
        for (int i = lane; i < SHARED_EXPERTS * shared_chunks; i += 32) {
            const int expert = i / shared_chunks, first = i % shared_chunks * CHUNK;
            chunks[i] = {EXPERTS + expert, expert * tokens + first, min(CHUNK, tokens - first), 0};
        }
        int own[2] = {0, 0}, found = 0;  // pairs, chunks
        for (int i = 0; i < PER_LANE; ++i) {
            const int count = counts[lane * PER_LANE + i];
            own[0] += count;
            own[1] += (count + CHUNK - 1) / CHUNK;
            found += count > 0;
        }
        int before[2] = {own[0], own[1]};
        for (int step = 1; step < 32; step *= 2)
            for (int j = 0; j < 2; ++j) {
                const int other = __shfl_up_sync(FULL_WARP, before[j], step);
                before[j] += lane >= step ? other : 0;
            }
        const int end = SHARED_EXPERTS * shared_chunks + __shfl_sync(FULL_WARP, before[1], 31);
        int pair = SHARED_EXPERTS * tokens + before[0] - own[0], chunk = SHARED_EXPERTS * shared_chunks + before[1] - own[1];
        for (int i = 0; i < PER_LANE; ++i) {
            const int expert = lane * PER_LANE + i, count = counts[expert];
            starts[expert] = pair;
            for (int first = 0; first < count; first += CHUNK)
                chunks[chunk++] = {expert, pair + first, min(CHUNK, count - first), 0};
            pair += count;
        }
        for (int i = end + lane; i < max_chunks; i += 32) chunks[i] = {-1, 0, 0, 0};
        found = __reduce_add_sync(FULL_WARP, found);
        if (lane == 0) *touched += found;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tokens * PICKS; i += 1024)
        pairs[starts[experts[i]] + places[i]] = i / PICKS * ALL_PICKS + i % PICKS;
}

// ---- experts ----

// sum[two tiles of 16 rows][TILES of 8 tokens] over STEPS x 64 columns. The order of columns inside a product is free as long
// as both operands keep it, so a thread takes 16 columns that lie side by side: rows[] point at its columns in rows g and g + 8
// of the first tile, then of the second, input(j) at those of a token of tile j. AHEAD steps of weights are on their way, the
// first before the tokens are looked up.
template <int TILES, int STEPS, int AHEAD, typename Input>
__device__ __forceinline__ void multiply(float (&sum)[2][TILES][4], const unsigned char *const (&rows)[4], Input input) {
    static_assert(AHEAD <= STEPS, "steps of weights");
    uint4 ring[AHEAD][4];
#pragma unroll
    for (int step = 0; step < AHEAD; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i) ring[step][i] = load_once_16(rows[i] + step * 64);
    const bf16_bits *inputs[TILES];
#pragma unroll
    for (int j = 0; j < TILES; ++j) inputs[j] = input(j);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[i][j][k] = 0.0f;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        u32 x[TILES][8];
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint4 part = *reinterpret_cast<const uint4 *>(inputs[j] + step * 64 + half * 8);
                x[j][4 * half] = part.x, x[j][4 * half + 1] = part.y, x[j][4 * half + 2] = part.z, x[j][4 * half + 3] = part.w;
            }
        uint4 codes[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            codes[i] = ring[step % AHEAD][i];
            if (step + AHEAD < STEPS) ring[step % AHEAD][i] = load_once_16(rows[i] + (step + AHEAD) * 64);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32 upper[4] = {codes[2 * i].x, codes[2 * i].y, codes[2 * i].z, codes[2 * i].w};
            const u32 lower[4] = {codes[2 * i + 1].x, codes[2 * i + 1].y, codes[2 * i + 1].z, codes[2 * i + 1].w};
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const u32 a[4] = {
                    e4m3_pair(spread_bytes<0, 1>(upper[part])), e4m3_pair(spread_bytes<0, 1>(lower[part])),
                    e4m3_pair(spread_bytes<2, 3>(upper[part])), e4m3_pair(spread_bytes<2, 3>(lower[part]))};
#pragma unroll
                for (int j = 0; j < TILES; ++j) multiply_16x8(sum[i][j], a, x[j][2 * part], x[j][2 * part + 1]);
            }
        }
    }
}

// The row of inputs of a chunk's token j, `width` wide; the last token's where there are fewer.
__device__ __forceinline__ int chunk_pair(const Chunk &chunk, int j) {
    return chunk.first + min(j, chunk.count - 1);
}

#define GATE_UP_WARPS 8
#define GATE_UP_STEPS (MODEL / 64 / GATE_UP_WARPS)

template <int TILES>
__device__ __forceinline__ void gate_up(
    const Chunk &chunk, const bf16_bits *x, const unsigned char *weights, const float *scales, const int *pairs,
    bf16_bits *hidden, float (*parts)[2][2][4][32]
) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int column = warp * (MODEL / GATE_UP_WARPS) + lane % 4 * 16, row = blockIdx.x * 16 + lane / 4;
    const unsigned char *base = weights + (long long)chunk.expert * (2 * WIDTH * MODEL) + column;
    const unsigned char *const rows[4] = {
        base + row * MODEL, base + (row + 8) * MODEL, base + (row + WIDTH) * MODEL, base + (row + WIDTH + 8) * MODEL};
    float sum[2][TILES][4];
    multiply<TILES, GATE_UP_STEPS, 2>(
        sum, rows, [&](int j) { return x + pairs[chunk_pair(chunk, j * 8 + lane / 4)] / ALL_PICKS * MODEL + column; });
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) parts[warp][i][j][k][lane] = sum[i][j][k];
    __syncthreads();
    const int part = threadIdx.x / 32;  // (tile of tokens, register): 4 TILES of them
    if (part >= 4 * TILES) return;
    float gate = 0.0f, up = 0.0f;
#pragma unroll
    for (int i = 0; i < GATE_UP_WARPS; ++i) {
        gate += parts[i][0][part / 4][part % 4][lane];
        up += parts[i][1][part / 4][part % 4][lane];
    }
    const float scale = scales[chunk.expert];
    gate *= scale;
    const int token = part / 4 * 8 + lane % 4 * 2 + part % 2, out = blockIdx.x * 16 + lane / 4 + part % 4 / 2 * 8;
    if (token < chunk.count)
        hidden[(chunk.first + token) * WIDTH + out] = (bf16_bits)pack_bf16(gate * logistic(gate) * up * scale, 0.0f);
}

// hidden[pair][WIDTH] = SwiGLU of the pair's token; weights [expert][gate rows, then up rows][MODEL] with a scale an expert.
// A block takes 16 gate and the same up rows of a chunk's expert, each warp an eighth of the columns.
// Floor: the weights of the experts that have tokens are read once (again for each further chunk, from L2).
extern "C" __global__ void __launch_bounds__(32 * GATE_UP_WARPS, 2) experts_gate_up(
    const Chunk *chunks, const bf16_bits *x, const unsigned char *weights, const float *scales, const int *pairs,
    bf16_bits *hidden
) {
    __shared__ float parts[GATE_UP_WARPS][2][2][4][32];
    const Chunk chunk = chunks[blockIdx.y];
    if (chunk.expert < 0) return;
    if (chunk.count > 8) gate_up<2>(chunk, x, weights, scales, pairs, hidden, parts);
    else gate_up<1>(chunk, x, weights, scales, pairs, hidden, parts);
}

template <int TILES>
__device__ __forceinline__ void down(
    const Chunk &chunk, const bf16_bits *hidden, const unsigned char *weights, const float *scales, const int *pairs,
    bf16_bits *y
) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = lane % 4 * 16;
    const int row = (blockIdx.x * 8 + warp) * 32 + lane / 4;
    const unsigned char *base = weights + ((long long)chunk.expert * MODEL + row) * WIDTH + column;
    const unsigned char *const rows[4] = {base, base + 8 * WIDTH, base + 16 * WIDTH, base + 24 * WIDTH};
    float sum[2][TILES][4];
    multiply<TILES, WIDTH / 64, WIDTH / 64>(
        sum, rows, [&](int j) { return hidden + chunk_pair(chunk, j * 8 + lane / 4) * WIDTH + column; });
    const float scale = scales[chunk.expert];
#pragma unroll
    for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int token = j * 8 + lane % 4 * 2 + odd;
            if (token >= chunk.count) continue;
            bf16_bits *out = y + (long long)pairs[chunk.first + token] * MODEL + row;
#pragma unroll
            for (int i = 0; i < 4; ++i)
                out[8 * i] = (bf16_bits)pack_bf16(sum[i / 2][j][i % 2 * 2 + odd] * scale, 0.0f);
        }
}

// y[slot][MODEL] from hidden[pair][WIDTH]; weights [expert][MODEL][WIDTH] with a scale an expert. A warp takes 32 rows.
// Floor: as of experts_gate_up.
extern "C" __global__ void __launch_bounds__(256, 2) experts_down(
    const Chunk *chunks, const bf16_bits *hidden, const unsigned char *weights, const float *scales, const int *pairs,
    bf16_bits *y
) {
    const Chunk chunk = chunks[blockIdx.y];
    if (chunk.expert < 0) return;
    if (chunk.count > 8) down<2>(chunk, hidden, weights, scales, pairs, y);
    else down<1>(chunk, hidden, weights, scales, pairs, y);
}

// ---- norms and positions ----

#define NORM_THREADS (MODEL / 8)

__device__ __forceinline__ void store_e4m3(unsigned char *target, const float (&x)[8]) {
    u32 words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
        words[i] = pack_e4m3(x[4 * i], x[4 * i + 1]) | (u32)pack_e4m3(x[4 * i + 2], x[4 * i + 3]) << 16;
    *reinterpret_cast<uint2 *>(target) = make_uint2(words[0], words[1]);
}

// SwiGLU of rows [gate | up], each `width` wide, in e4m3 with scale 1. A thread takes 8 columns.
extern "C" __global__ void __launch_bounds__(256) swiglu_codes(const bf16_bits *rows, unsigned char *codes, int count, int width) {
    const int parts = width / 8, i = blockIdx.x * 256 + threadIdx.x, row = i / parts, first = i % parts * 8;
    if (row >= count) return;
    float gate[8], up[8];
    load_wide(rows + (long long)row * 2 * width + first, gate);
    load_wide(rows + (long long)row * 2 * width + width + first, up);
#pragma unroll
    for (int j = 0; j < 8; ++j) gate[j] *= logistic(gate[j]) * up[j];
    store_e4m3(codes + (long long)row * width + first, gate);
}

// Half of the rows are read before the first is added.
template <int COUNT>
__device__ __forceinline__ void add_rows(
    float (&sum)[8], const bf16_bits *y, const float *weights, const int *places, int token
) {
#pragma unroll 1
    for (int slot = token * COUNT; slot < (token + 1) * COUNT; slot += COUNT / 2) {
        uint4 rows[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i)
            rows[i] = *reinterpret_cast<const uint4 *>(y + (long long)(places ? places[slot + i] : slot + i) * MODEL);
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const float weight = weights[slot + i];
            const u32 words[4] = {rows[i].x, rows[i].y, rows[i].z, rows[i].w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                sum[2 * j] += weight * __uint_as_float(words[j] << 16);
                sum[2 * j + 1] += weight * __uint_as_float(words[j] & 0xffff0000u);
            }
        }
    }
}

// residual += other's row, where there is `other`, and the sum over a token's `addends` rows of y (0, PICKS or ALL_PICKS) times
// their weights; x = RMSNorm(residual), in bf16 and in e4m3 with scale 1. Row i of a token is y[places[token x addends + i]]
// (without places: in order). A block a token.
extern "C" __global__ void __launch_bounds__(NORM_THREADS, 2) add_norm(
    bf16_bits *residual, const bf16_bits *other, const bf16_bits *y, const float *weights, const int *places, int addends,
    const float *norm, float epsilon, bf16_bits *x, unsigned char *codes
) {
    __shared__ float warps[NORM_THREADS / 32];
    const int token = blockIdx.x, first = threadIdx.x * 8;
    float sum[8], gain[8];
    load_wide(residual + (long long)token * MODEL + first, sum);
    if (other) {
        load_wide(other + (long long)token * MODEL + first, gain);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += gain[j];
    }
    if (addends == ALL_PICKS) add_rows<ALL_PICKS>(sum, y + first, weights, places, token);
    if (addends == PICKS) add_rows<PICKS>(sum, y + first, weights, places, token);
    load_wide(norm + first, gain);
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) squares += sum[j] * sum[j];
    const float inverse = rsqrtf(group_sum<NORM_THREADS>(squares, warps) / MODEL + epsilon);
    if (other || addends) store_wide(residual + (long long)token * MODEL + first, sum);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] *= inverse * gain[j];
    store_wide(x + (long long)token * MODEL + first, sum);
    store_e4m3(codes + (long long)token * MODEL + first, sum);
}

#define SPLIT_THREADS (QUERY_LATENT / 8)

// A row [query latent | latent | rope key] to RMSNorm(query latent) in e4m3 with scale 1, and the other two apart, as `append`
// wants them. A block a token.
extern "C" __global__ void __launch_bounds__(SPLIT_THREADS) split_norm(
    const bf16_bits *rows, const float *norm, float epsilon, unsigned char *query, bf16_bits *latent, bf16_bits *key
) {
    __shared__ float warps[SPLIT_THREADS / 32];
    const int token = blockIdx.x, first = threadIdx.x * 8;
    const bf16_bits *row = rows + (long long)token * (QUERY_LATENT + LATENT + ROPE);
    float x[8], gain[8];
    load_wide(row + first, x);
    load_wide(norm + first, gain);
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) squares += x[j] * x[j];
    const float inverse = rsqrtf(group_sum<SPLIT_THREADS>(squares, warps) / QUERY_LATENT + epsilon);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] *= inverse * gain[j];
    store_e4m3(query + (long long)token * QUERY_LATENT + first, x);
    for (int i = first; i < LATENT + ROPE; i += SPLIT_THREADS * 8) {
        const uint4 part = *reinterpret_cast<const uint4 *>(row + QUERY_LATENT + i);
        bf16_bits *target = i < LATENT ? latent + (long long)token * LATENT + i : key + (long long)token * ROPE + i - LATENT;
        *reinterpret_cast<uint4 *>(target) = part;
    }
}

// Rotates the last ROPE columns of queries [token][HEADS][NOPE + ROPE] (pairs i and i + ROPE / 2) to
// target + token x token_stride + head x head_stride. New token t of a sequence of `length` tokens stands at
// length - new_tokens + t; angles [position][ROPE / 2] of cosine and sine. A block a token, a thread a pair of a head.
extern "C" __global__ void rotate_queries(
    const bf16_bits *queries, const float2 *angles, const int *lengths, int new_tokens, bf16_bits *target, int token_stride,
    int head_stride
) {
    const int token = blockIdx.x, position = lengths[token / new_tokens] - new_tokens + token % new_tokens;
    for (int i = threadIdx.x; i < HEADS * ROPE / 2; i += blockDim.x) {
        const int head = i / (ROPE / 2), pair = i % (ROPE / 2);
        const bf16_bits *from = queries + (long long)(token * HEADS + head) * (NOPE + ROPE) + NOPE + pair;
        const float2 angle = angles[(long long)position * (ROPE / 2) + pair];
        const float x = bf16_to_float(from[0]), y = bf16_to_float(from[ROPE / 2]);
        bf16_bits *to = target + (long long)token * token_stride + head * head_stride + pair;
        to[0] = (bf16_bits)pack_bf16(x * angle.x - y * angle.y, 0.0f);
        to[ROPE / 2] = (bf16_bits)pack_bf16(y * angle.x + x * angle.y, 0.0f);
    }
}
