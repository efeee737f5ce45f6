/* The driver of linear layers: prepares activations once, then cuts panels of 16 rows x groups of tokens over the pool. */
#include <stdatomic.h>
#include <stdlib.h>

#include "../Pool/pool_internal.h"
#include "kernels.h"
#include "weight.h"

/* From this many tokens on, bf16 weights take bf16 activations in default precision. */
enum { EXACT_BF16_TOKENS = 128 };

/* Most tokens of one item of work: whole tiles and cuts, and their prepared activations fit a core's L2. */
enum { GROUP_TOKENS = 96 };

/* Bytes of weights in one chunk of work: large enough to stream, small enough to share out evenly. */
enum { CHUNK_BYTES = 32 * 1024 };

enum { MAX_OUTPUTS = 16, PACKED_F32_SLOT = CORRECTIONS, PACKED_BF16_SLOT, SLOTS };
_Static_assert(SLOTS <= APUS_SHARED_SLOTS, "the pool has too few shared buffers");
_Static_assert(GROUP_TOKENS % TILE_TOKENS == 0 && TILE_TOKENS % PACKED_CUT == 0, "groups are whole tiles and cuts");

/* How a weight takes its activations: as int8 tiles, as they are, or packed. */
typedef enum { USE_TILES, USE_ROWS, USE_PACKED_F32, USE_PACKED_BF16 } activation_use;

typedef struct {
    const apus_kernels *kernels;
    apus_pool *pool;
    const float *x;
    int64_t m, k, x_stride;
    const apus_linear_output *outputs;
    int count, swiglu;
    activation_use use[MAX_OUTPUTS];
    int64_t first_panel[MAX_OUTPUTS + 1];
    void *prepared[SLOTS]; /* by slot: tiles of each correction, packed activations */
    int64_t group_count, panel_count;
    int expands; /* some weight is expanded to f32 */
    _Atomic int failed;
} linear_job;

static int64_t exact_tokens(const apus_kernels *kernels, apus_precision precision, apus_dtype dtype) {
    if (precision == APUS_PRECISION_F32) return INT64_MAX;
    if (apus_is_quantised(dtype)) return 0;
    return dtype == APUS_BF16 && kernels->packed && kernels->packed->panel_bf16_pairs ? EXACT_BF16_TOKENS : INT64_MAX;
}

int64_t apus_linear_exact_tokens(apus_precision precision, apus_dtype dtype) {
    return exact_tokens(apus_active_kernels(), precision, dtype);
}

static activation_use use_of(const linear_job *job, apus_precision precision, apus_dtype dtype) {
    if (apus_is_quantised(dtype) && precision == APUS_PRECISION_DEFAULT) return USE_TILES;
    if (!job->kernels->packed || job->m <= TILE_TOKENS) return USE_ROWS;
    int narrow = job->m > exact_tokens(job->kernels, precision, dtype);
    return narrow ? USE_PACKED_BF16 : USE_PACKED_F32;
}

static int slot_of(activation_use use, apus_dtype dtype) {
    if (use == USE_TILES) return (int)apus_correction_of(dtype);
    return use == USE_PACKED_F32 ? PACKED_F32_SLOT : PACKED_BF16_SLOT;
}

/* Whether panels of the weight are expanded to f32 for each group of tokens. */
static int expands(const linear_job *job, activation_use use, apus_dtype dtype) {
    if (apus_is_quantised(dtype)) return use != USE_TILES;
    return use == USE_PACKED_F32 && !job->kernels->packed->panel[dtype];
}

static void expand(const linear_job *job, const apus_weight *w, int64_t p, float *out) {
    const int64_t row = p * PANEL_ROWS;
    if (!apus_is_quantised(w->dtype))
        job->kernels->packed->widen(w->rows + row * w->row_bytes, apus_panel_rows(w, p) * w->k, out);
    else
        for (int r = 0; r < apus_panel_rows(w, p); r++) apus_weight_row(w, row + r, out + r * w->k);
}

/* Groups are as even as whole tiles allow; only the last may end inside one. */
static int64_t group_begin(const linear_job *job, int64_t group) {
    if (group == job->group_count) return job->m;
    return (job->m * group / job->group_count + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
}

/* A group's tiles: as even as can be, so that none runs with few tokens. */
static int64_t tile_count(int64_t tokens) { return (tokens + TILE_TOKENS - 1) / TILE_TOKENS; }

static void prepare_tile(linear_job *job, apus_correction kind, int64_t first, int tokens) {
    uint8_t *tile = (uint8_t *)job->prepared[kind] + apus_tile_bytes(first, job->k);
    for (int t = 0; t < tokens; t++)
        job->kernels->quantise(job->x + (first + t) * job->x_stride, job->k, kind, tile, tokens, t);
}

/* An item is one tile of one group. */
static void prepare_items(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    linear_job *job = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t group = item / (GROUP_TOKENS / TILE_TOKENS), index = item % (GROUP_TOKENS / TILE_TOKENS);
        int64_t first = group_begin(job, group), tokens = group_begin(job, group + 1) - first, tiles = tile_count(tokens);
        if (index >= tiles) continue;
        int64_t from = first + tokens * index / tiles, to = first + tokens * (index + 1) / tiles;
        for (int kind = 0; kind < CORRECTIONS; kind++)
            if (job->prepared[kind]) prepare_tile(job, (apus_correction)kind, from, (int)(to - from));
        const apus_packed_kernels *packed = job->kernels->packed;
        if (job->prepared[PACKED_F32_SLOT])
            packed->pack_f32(job->x, job->x_stride, from, to, job->k, job->prepared[PACKED_F32_SLOT]);
        if (job->prepared[PACKED_BF16_SLOT])
            packed->pack_f32_as_bf16(job->x, job->x_stride, from, to, job->k, job->prepared[PACKED_BF16_SLOT]);
    }
}

/* Where one item's results and working memory are. */
typedef struct {
    float *expanded; /* a panel of a weight in f32 */
    float *partial;
    float sums[2][GROUP_TOKENS * PANEL_ROWS];
} item_memory;

/* sums[t * 16 + row] of tokens [first, last) with panel `p` of output `i`. */
static void multiply(const linear_job *job, int i, int64_t p, int64_t first, int64_t last, const item_memory *memory,
                     float *sums) {
    const apus_kernels *kernels = job->kernels;
    const apus_weight *w = job->outputs[i].weight;
    const int rows = apus_panel_rows(w, p);
    const int64_t k = job->k, tokens = last - first;
    const activation_use use = job->use[i];
    const int wide = expands(job, use, w->dtype);
    const void *data = wide || use == USE_TILES ? (const void *)memory->expanded
                                                : (const void *)(w->rows + p * PANEL_ROWS * w->row_bytes);
    const apus_dtype dtype = wide ? APUS_F32 : w->dtype;
    if (wide) expand(job, w, p, memory->expanded);
    if (use == USE_PACKED_F32 || use == USE_PACKED_BF16) {
        const int64_t size = use == USE_PACKED_F32 ? 4 : 2;
        const char *x = (const char *)job->prepared[slot_of(use, w->dtype)] + apus_packed_bytes(first, k, size);
        apus_packed_panel_kernel kernel =
            use == USE_PACKED_F32 ? kernels->packed->panel[dtype] : kernels->packed->panel_bf16_pairs;
        kernel(data, k, rows, x, tokens, k, memory->partial, sums);
        return;
    }
    for (int64_t tile = 0, tiles = tile_count(tokens); tile < tiles; tile++) {
        int64_t from = tokens * tile / tiles;
        int count = (int)(tokens * (tile + 1) / tiles - from);
        float *out = sums + from * PANEL_ROWS;
        if (use == USE_TILES)
            kernels->panel[w->dtype](w->panels + p * w->panel_bytes, k,
                                     (const uint8_t *)job->prepared[slot_of(use, w->dtype)] + apus_tile_bytes(first + from, k),
                                     count, out);
        else
            kernels->rows[dtype](data, k, rows, job->x + (first + from) * job->x_stride, job->x_stride, count, k, out);
    }
}

static void store(const apus_linear_output *o, int64_t p, int64_t first, int64_t last, const float *sums) {
    const int rows = apus_panel_rows(o->weight, p);
    const float *bias = o->bias ? o->bias + p * PANEL_ROWS : NULL;
    float *out = o->out + first * o->out_stride + p * PANEL_ROWS;
    for (int64_t t = first; t < last; t++, out += o->out_stride, sums += PANEL_ROWS) {
        if (rows == PANEL_ROWS && !bias && !o->accumulate) {
            memcpy(out, sums, sizeof(float) * PANEL_ROWS);
            continue;
        }
        for (int r = 0; r < rows; r++) {
            float value = bias ? sums[r] + bias[r] : sums[r];
            out[r] = o->accumulate ? out[r] + value : value;
        }
    }
}

static void linear_item(linear_job *job, int64_t panel, int64_t group, item_memory *memory) {
    int i = 0;
    while (panel >= job->first_panel[i + 1]) i++;
    int64_t p = panel - job->first_panel[i], first = group_begin(job, group), last = group_begin(job, group + 1);
    multiply(job, i, p, first, last, memory, memory->sums[0]);
    if (job->swiglu) {
        multiply(job, 1, p, first, last, memory, memory->sums[1]);
        if (apus_panel_rows(job->outputs[0].weight, p) < PANEL_ROWS && job->use[0] != USE_TILES)
            for (int64_t t = 0; t < last - first; t++)
                for (int r = apus_panel_rows(job->outputs[0].weight, p); r < PANEL_ROWS; r++)
                    memory->sums[0][t * PANEL_ROWS + r] = memory->sums[1][t * PANEL_ROWS + r] = 0;
        job->kernels->swiglu(memory->sums[0], memory->sums[1], (last - first) * PANEL_ROWS);
    }
    store(&job->outputs[i], p, first, last, memory->sums[0]);
}

/* Items run over the panels of one token group after the other, so that a worker's share is a stretch of weights. */
static void linear_items(void *context, int64_t begin, int64_t end, int worker) {
    linear_job *job = context;
    item_memory memory;
    int64_t expanded = job->expands ? PANEL_ROWS * job->k : 0;
    int64_t partial = job->m > TILE_TOKENS && job->kernels->packed ? (GROUP_TOKENS + PACKED_CUT) * APUS_PARTIAL_FLOATS : 0;
    if (expanded + partial > 0) {
        memory.partial = apus_pool_product_scratch(job->pool, worker, sizeof(float) * (size_t)(expanded + partial));
        if (!memory.partial) {
            atomic_store_explicit(&job->failed, 1, memory_order_relaxed);
            return;
        }
        memory.expanded = memory.partial + partial;
    }
    for (int64_t item = begin; item < end; item++)
        linear_item(job, item % job->panel_count, item / job->panel_count, &memory);
}

/* Memory for prepared activations: the pool's, or inside a run, where the pool's is in use, our own. */
static void *activation_memory(linear_job *job, int slot, int64_t bytes, int nested) {
    if (nested) return aligned_alloc(64, ((size_t)bytes + 63) / 64 * 64);
    return apus_pool_shared_scratch(job->pool, slot, (size_t)bytes);
}

static int prepare(linear_job *job, int nested) {
    int any = 0;
    for (int i = 0; i < job->count; i++) {
        activation_use use = job->use[i];
        int slot = slot_of(use, job->outputs[i].weight->dtype);
        if (use == USE_ROWS || job->prepared[slot]) continue;
        int64_t bytes = use == USE_TILES ? apus_tile_bytes(job->m, job->k)
                                         : apus_packed_bytes(job->m, job->k, use == USE_PACKED_F32 ? 4 : 2);
        job->prepared[slot] = activation_memory(job, slot, bytes, nested);
        if (!job->prepared[slot]) return -1;
        any = 1;
    }
    if (!any) return 0;
    int64_t items = job->group_count * (GROUP_TOKENS / TILE_TOKENS);
    if (job->m * job->k <= 32 * 1024) prepare_items(job, 0, items, 0);
    else apus_pool_run(job->pool, items, 1, prepare_items, job);
    return 0;
}

static int run_linear(linear_job *job, apus_precision precision) {
    int64_t row_bytes = 0;
    for (int i = 0; i < job->count; i++) {
        const apus_weight *w = job->outputs[i].weight;
        job->use[i] = use_of(job, precision, w->dtype);
        job->expands |= expands(job, job->use[i], w->dtype);
        job->first_panel[i + 1] = job->first_panel[i] + apus_weight_panels(w);
        if (w->row_bytes > row_bytes) row_bytes = w->row_bytes;
    }
    job->panel_count = job->swiglu ? job->first_panel[1] : job->first_panel[job->count];
    job->group_count = (job->m + GROUP_TOKENS - 1) / GROUP_TOKENS;

    apus_pool_entry entry = apus_pool_enter(job->pool);
    int nested = apus_pool_is_nested(job->pool);
    int result = prepare(job, nested);
    if (result == 0) {
        int64_t grain = job->m > TILE_TOKENS ? 1 : CHUNK_BYTES / (row_bytes * PANEL_ROWS);
        apus_pool_run(job->pool, job->panel_count * job->group_count, grain, linear_items, job);
        if (atomic_load_explicit(&job->failed, memory_order_relaxed)) result = -1;
    }
    if (nested)
        for (int slot = 0; slot < SLOTS; slot++) free(job->prepared[slot]);
    apus_pool_leave(job->pool, entry);
    return result;
}

int apus_linear(apus_pool *pool, apus_precision precision, const float *x, int64_t m, int64_t x_stride,
                const apus_linear_output *outputs, int count) {
    if (m <= 0 || count <= 0) return 0;
    for (int i = 1; i < count; i++)
        if (outputs[i].weight->k != outputs[0].weight->k) return -1;
    for (int i = 0; i < count; i += MAX_OUTPUTS) {
        linear_job job = {.kernels = apus_active_kernels(), .pool = pool, .x = x, .m = m, .k = outputs[0].weight->k,
                          .x_stride = x_stride, .outputs = outputs + i,
                          .count = count - i < MAX_OUTPUTS ? count - i : MAX_OUTPUTS};
        if (run_linear(&job, precision) != 0) return -1;
    }
    return 0;
}

int apus_linear_swiglu(apus_pool *pool, apus_precision precision, const float *x, int64_t m, int64_t x_stride,
                       const apus_weight *gate, const apus_weight *up, float *out, int64_t out_stride) {
    if (m <= 0) return 0;
    if (gate->k != up->k || gate->n != up->n) return -1;
    apus_linear_output outputs[2] = {{gate, out, out_stride, NULL, 0}, {up, NULL, 0, NULL, 0}};
    linear_job job = {.kernels = apus_active_kernels(), .pool = pool, .x = x, .m = m, .k = gate->k, .x_stride = x_stride,
                      .outputs = outputs, .count = 2, .swiglu = 1};
    return run_linear(&job, precision);
}
