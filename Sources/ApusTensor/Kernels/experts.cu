// A mixture of experts around its products: the router's logits, the choice of each row's experts, rows in the order of their
// experts, and what the experts gave on its way into the residual stream.
//
// A pair is a row and one of its picks. Pairs lie in the order of their experts, cut into chunks of one expert and at most
// `height` pairs, which is what a block of the products takes (EXPERTS of row_products.cuh).
//
// Set at compile time: ROWS of a block of the router (1, 2, 4 or 8).
//
// Floor: the router's weights, and each row and what its experts gave, once over the bandwidth; in a step a launch's latency.
#include "residual_rows.cuh"

#ifndef ROWS
#define ROWS 8
#endif

#define MOST_EXPERTS 256
#define MOST_PICKS 32
#define ROUTE_WARPS 32

// ---- logits ----

// logits[row][expert] = RMSNorm(residual row) . router row, in float32; the norm's weight is in the router's. A warp an expert.
extern "C" __global__ void __launch_bounds__(256) router_logits(
    const float *residual, const float *router, float *logits, int rows, int experts, int width, float epsilon
) {
    grid_wait();
    grid_launch_dependents();
    const int expert = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.y * ROWS;
    if (expert >= experts) return;
    const float *weights = router + (long long)expert * width;
    float products[ROWS] = {}, squares[ROWS] = {};
#pragma unroll 4
    for (int k = lane * 4; k < width; k += 128) {
        const float4 w = *reinterpret_cast<const float4 *>(weights + k);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const float4 x = *reinterpret_cast<const float4 *>(residual + (long long)min(first + i, rows - 1) * width + k);
            products[i] += x.x * w.x + x.y * w.y + x.z * w.z + x.w * w.w;
            squares[i] += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int bit = 16; bit > 0; bit /= 2) {
            products[i] += __shfl_xor_sync(FULL_WARP, products[i], bit);
            squares[i] += __shfl_xor_sync(FULL_WARP, squares[i], bit);
        }
        if (lane == 0 && first + i < rows)
            logits[(long long)(first + i) * experts + expert] = products[i] / sqrtf(squares[i] / (float)width + epsilon);
    }
}

// ---- the choice ----

struct Routing {
    const float *logits;      // [rows][experts]
    const float *correction;  // [experts], added for the choice alone, or none
    const int *lengths;       // [rows]: rows of length 0 visit no expert; or none
    int *picks;               // [rows][count]
    float *weights;           // [rows][count]
    int *positions;           // [rows][count]: the pair's number
    int *tokens;              // [pairs]: the pair's row
    int4 *chunks;             // [chunks]: expert, first pair, pairs
    int rows, experts, count, groups, kept, best, height, chunk_count;
    int is_logistic, is_normalised;
    int excludes;             // experts of other groups are out, otherwise they count as 0
    float scale;
};

// The larger of two; of equal ones, and where neither is a number, that of the lower index.
__device__ __forceinline__ void keep_larger(float &value, int &index, float other, int other_index) {
    if (other > value || (!(value > other) && other_index < index)) value = other, index = other_index;
}

__device__ __forceinline__ void warp_largest(float &value, int &index) {
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        const float other = __shfl_xor_sync(FULL_WARP, value, bit);
        const int other_index = __shfl_xor_sync(FULL_WARP, index, bit);
        keep_larger(value, index, other, other_index);
    }
}

// The experts of a row, by a warp, which has room for all candidates. Whatever the logits, they are different experts.
__device__ __forceinline__ void choose_row(const Routing &r, int row, float *candidates, int lane) {
    constexpr int OWN = MOST_EXPERTS / 32;
    const float *logits = r.logits + (long long)row * r.experts;
    float affinities[OWN];
    float most = -infinity(), sum = 0.0f;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        affinities[i] = lane + 32 * i < r.experts ? logits[lane + 32 * i] : -infinity();
        most = fmaxf(most, affinities[i]);
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, bit));
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        affinities[i] = r.is_logistic ? 1.0f / (1.0f + expf(-affinities[i])) : expf(affinities[i] - most);
        sum += lane + 32 * i < r.experts ? affinities[i] : 0.0f;
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, bit);
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int expert = lane + 32 * i;
        if (!r.is_logistic) affinities[i] /= sum;
        if (expert < r.experts)
            candidates[expert] = affinities[i] + (r.correction != nullptr ? r.correction[expert] : 0.0f);
    }
    __syncwarp();
    if (r.groups > 1) {
        // A lane's group scores by the sum of its largest, one or two.
        const int size = r.experts / r.groups;
        float score = -infinity();
        if (lane < r.groups) {
            float first = -infinity(), second = -infinity();
            for (int i = 0; i < size; ++i) {
                const float x = candidates[lane * size + i];
                if (x > first) second = first, first = x;
                else if (x > second) second = x;
            }
            score = r.best > 1 && size > 1 ? first + second : first;
        }
        bool stays = false;
        for (int i = 0; i < r.kept; ++i) {
            float value = lane < r.groups && !stays ? score : -infinity();
            int group = lane < r.groups && !stays ? lane : 32 + lane;
            warp_largest(value, group);
            if (group == lane) stays = true;
        }
        if (lane < r.groups && !stays)
            for (int i = 0; i < size; ++i) candidates[lane * size + i] = r.excludes ? -infinity() : 0.0f;
        __syncwarp();
    }
    int own_pick = 0;
    u32 taken = 0;
    for (int pick = 0; pick < r.count; ++pick) {
        float value = -infinity();
        int index = MOST_EXPERTS + lane;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int expert = lane + 32 * i;
            if (expert < r.experts && !(taken >> i & 1)) keep_larger(value, index, candidates[expert], expert);
        }
        warp_largest(value, index);
        if (index % 32 == lane) taken |= 1u << index / 32;
        if (lane == pick) own_pick = index;
    }
    float weight = 0.0f;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const float there = __shfl_sync(FULL_WARP, affinities[i], own_pick % 32);
        if (own_pick / 32 == i) weight = there;
    }
    float total = lane < r.count ? weight : 0.0f;
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) total += __shfl_xor_sync(FULL_WARP, total, bit);
    if (lane < r.count) {
        r.picks[(long long)row * r.count + lane] = own_pick;
        r.weights[(long long)row * r.count + lane] = weight * (r.is_normalised ? r.scale / (total + 1e-20f) : r.scale);
    }
    __syncwarp();
}

// Many rows, a warp each.
extern "C" __global__ void __launch_bounds__(256) choose_experts(const __grid_constant__ Routing r) {
    __shared__ float candidates[8][MOST_EXPERTS];
    grid_wait();
    grid_launch_dependents();
    const int warp = threadIdx.x / 32, row = blockIdx.x * 8 + warp;
    if (row < r.rows) choose_row(r, row, candidates[warp], threadIdx.x % 32);
}

// One block: pairs in the order of their experts, and their chunks; before that the choice, where `chooses`.
extern "C" __global__ void __launch_bounds__(32 * ROUTE_WARPS) group_pairs(const __grid_constant__ Routing r, int chooses) {
    __shared__ float candidates[ROUTE_WARPS][MOST_EXPERTS];
    __shared__ int counts[MOST_EXPERTS], starts[MOST_EXPERTS], chunk_starts[MOST_EXPERTS + 1];
    grid_wait();
    grid_launch_dependents();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pairs = r.rows * r.count;
    for (int i = threadIdx.x; i < MOST_EXPERTS; i += 32 * ROUTE_WARPS) counts[i] = 0;
    if (chooses)
        for (int row = warp; row < r.rows; row += ROUTE_WARPS) choose_row(r, row, candidates[warp], lane);
    __syncthreads();
    const auto visits = [&](int pair) { return r.lengths == nullptr || r.lengths[pair / r.count] > 0; };
    for (int i = threadIdx.x; i < pairs; i += 32 * ROUTE_WARPS)
        if (visits(i)) r.positions[i] = atomicAdd(counts + r.picks[i], 1);
    __syncthreads();
    if (warp == 0) {
        // Pairs and chunks before each expert; a lane has 8 experts that follow each other.
        constexpr int OWN = MOST_EXPERTS / 32;
        int own[2] = {0, 0};
        for (int i = 0; i < OWN; ++i) {
            const int count = counts[lane * OWN + i];
            own[0] += count, own[1] += (count + r.height - 1) / r.height;
        }
        int before[2] = {own[0], own[1]};
#pragma unroll
        for (int step = 1; step < 32; step *= 2)
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int other = __shfl_up_sync(FULL_WARP, before[j], step);
                before[j] += lane >= step ? other : 0;
            }
        int pair = before[0] - own[0], chunk = before[1] - own[1];
        for (int i = 0; i < OWN; ++i) {
            const int expert = lane * OWN + i, count = counts[expert];
            starts[expert] = pair, chunk_starts[expert] = chunk;
            pair += count, chunk += (count + r.height - 1) / r.height;
        }
        if (lane == 31) chunk_starts[MOST_EXPERTS] = chunk;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < r.chunk_count; i += 32 * ROUTE_WARPS)
        if (i >= chunk_starts[MOST_EXPERTS]) r.chunks[i] = make_int4(0, 0, 0, 0);
    for (int expert = warp; expert < r.experts; expert += ROUTE_WARPS)
        for (int i = lane; i * r.height < counts[expert]; i += 32)
            r.chunks[chunk_starts[expert] + i] =
                make_int4(expert, starts[expert] + i * r.height, min(r.height, counts[expert] - i * r.height), 0);
    for (int i = threadIdx.x; i < pairs; i += 32 * ROUTE_WARPS) {
        if (!visits(i)) continue;
        const int position = starts[r.picks[i]] + r.positions[i];
        r.positions[i] = position;
        r.tokens[position] = i / r.count;
    }
}

// ---- rows ----

// out[pair] = x[tokens[pair]], rows of `width` bf16, a multiple of 8; pairs of the first `rows` only.
extern "C" __global__ void __launch_bounds__(256) gather_pairs(const bf16_bits *x, const int *tokens, bf16_bits *out, int pairs, int width) {
    grid_wait();
    grid_launch_dependents();
    const int parts = width / 8;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < (long long)pairs * parts; i += (long long)gridDim.x * 256) {
        const long long pair = i / parts, part = i % parts;
        reinterpret_cast<uint4 *>(out)[i] = reinterpret_cast<const uint4 *>(x)[tokens[pair] * (long long)parts + part];
    }
}

// A row of the residual stream, and what its experts gave times their weights.
struct CombinedRow {
    const float *residual;
    const bf16_bits *outputs;  // [pairs][width]
    const float *weights;      // [count]
    const int *positions;      // [count]
    int count;
};

__device__ __forceinline__ bool aligned(const CombinedRow &row) {
    return aligned(row.residual) && aligned(row.outputs);
}

__device__ __forceinline__ void load(const CombinedRow &row, long long first, long long width, bool wide, float (&x)[4]) {
    load(row.residual, first, width, wide, x);
    for (int i = 0; i < row.count; ++i) {
        const float weight = row.weights[i];
        float y[4];
        load(row.outputs + row.positions[i] * width, first, width, wide, y);
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] += weight * y[j];
    }
}

// Adds to the residual stream what the experts of each row gave, and begins the next norm; a block a row.
extern "C" __global__ void __launch_bounds__(RESIDUAL_THREADS) combine_experts(
    float *residual, const bf16_bits *outputs, const float *weights, const int *positions, const int *lengths, int count,
    const float *next_weight, bf16_bits *y, float *squares, int parts, int width
) {
    grid_wait();
    grid_launch_dependents();
    const long long row = blockIdx.x;
    if (lengths != nullptr && lengths[row] == 0) count = 0;
    const CombinedRow source = {residual + row * width, outputs, weights + row * count, positions + row * count, count};
    begin_row(
        source, 1.0f, true, next_weight, residual + row * width, y + row * width, squares + row * parts, parts, width);
}
