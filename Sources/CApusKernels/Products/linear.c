/* The driver of linear layers: prepares activations once, then cuts panels of 16 rows x groups of tokens over the pool. */
#include <stdatomic.h>
#include <stdlib.h>

#include "../Pool/pool_internal.h"
#include "kernels.h"
#include "weight.h"

/* From this many tokens on, bf16 weights take bf16 activations in default precision. */
enum { BF16_ACTIVATION_TOKENS = 33 };

/* Activations of a token group should stay in a core's L2 while the panels pass by. */
enum { GROUP_BYTES = 384 * 1024 };

/* Bytes of weights in one chunk of work: large enough to stream, small enough to share out evenly. */
enum { CHUNK_BYTES = 32 * 1024 };

enum { MAX_OUTPUTS = 16, BF16_SLOT = CORRECTIONS };

typedef enum { USE_TILES, USE_F32, USE_BF16 } activation_use;

typedef struct {
    const apus_kernels *kernels;
    apus_pool *pool;
    const float *x;
    int64_t m, k, x_stride;
    const apus_linear_output *outputs;
    int count, swiglu;
    activation_use use[MAX_OUTPUTS];
    int64_t first_panel[MAX_OUTPUTS + 1];
    uint8_t *tiles[CORRECTIONS];
    uint16_t *bf16;
    int64_t tile_count, group_count, panel_count;
    _Atomic int failed;
} linear_job;

static activation_use use_of(const linear_job *job, apus_precision precision, apus_dtype dtype) {
    if (precision == APUS_PRECISION_F32) return USE_F32;
    if (apus_is_quantised(dtype)) return USE_TILES;
    int narrow = dtype == APUS_BF16 && job->kernels->has_bf16_dot && job->m >= BF16_ACTIVATION_TOKENS;
    return narrow ? USE_BF16 : USE_F32;
}

static int64_t tile_begin(const linear_job *job, int64_t tile) { return job->m * tile / job->tile_count; }

static void prepare_tiles(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    linear_job *job = context;
    for (int64_t i = begin; i < end; i++) {
        int64_t first = tile_begin(job, i);
        int tokens = (int)(tile_begin(job, i + 1) - first);
        for (int kind = 0; kind < CORRECTIONS; kind++) {
            if (!job->tiles[kind]) continue;
            uint8_t *tile = job->tiles[kind] + apus_tile_bytes(first, job->k);
            for (int t = 0; t < tokens; t++)
                job->kernels->quantise(job->x + (first + t) * job->x_stride, job->k, (apus_correction)kind, tile, tokens, t);
        }
        if (job->bf16)
            for (int64_t t = first; t < first + tokens; t++)
                job->kernels->to_bf16(job->x + t * job->x_stride, job->k, job->bf16 + t * job->k);
    }
}

/* The sums of one tile of tokens with panel `p` of weight `w`: out[t * 16 + row]. `expanded`: the panel in f32 when a
 * quantised weight meets f32 activations. */
static void multiply(const linear_job *job, const apus_weight *w, activation_use use, int64_t p, const float *expanded,
                     int64_t first, int tokens, int streaming, float *out) {
    const apus_kernels *kernels = job->kernels;
    if (use == USE_TILES) {
        const uint8_t *tile = job->tiles[apus_correction_of(w->dtype)] + apus_tile_bytes(first, job->k);
        kernels->panel[w->dtype](w->panels + p * w->panel_bytes, job->k, tile, tokens, out);
        return;
    }
    int rows = apus_panel_rows(w, p);
    const float *x = job->x + first * job->x_stride;
    if (expanded) {
        kernels->rows_f32(expanded, job->k, rows, x, job->x_stride, tokens, job->k, out, streaming);
        return;
    }
    const uint8_t *data = w->rows + p * PANEL_ROWS * w->row_bytes;
    if (use == USE_BF16)
        kernels->rows_bf16_bf16(data, job->k, rows, job->bf16 + first * job->k, job->k, tokens, job->k, out, streaming);
    else if (w->dtype == APUS_BF16)
        kernels->rows_bf16(data, job->k, rows, x, job->x_stride, tokens, job->k, out, streaming);
    else if (w->dtype == APUS_F16)
        kernels->rows_f16(data, job->k, rows, x, job->x_stride, tokens, job->k, out, streaming);
    else
        kernels->rows_f32(data, job->k, rows, x, job->x_stride, tokens, job->k, out, streaming);
}

static void store(const apus_linear_output *o, int64_t p, int rows, int64_t first, int tokens, const float *sums) {
    const float *bias = o->bias ? o->bias + p * PANEL_ROWS : NULL;
    for (int t = 0; t < tokens; t++) {
        float *out = o->out + (first + t) * o->out_stride + p * PANEL_ROWS;
        const float *s = sums + t * PANEL_ROWS;
        for (int r = 0; r < rows; r++) {
            float value = bias ? s[r] + bias[r] : s[r];
            out[r] = o->accumulate ? out[r] + value : value;
        }
    }
}

/* A panel of a quantised weight in f32 for f32 activations; NULL when the weight needs none or memory is out. */
static const float *expand(linear_job *job, const apus_weight *w, activation_use use, int64_t p, int worker, int slot) {
    if (use != USE_F32 || !apus_is_quantised(w->dtype)) return NULL;
    int64_t floats = PANEL_ROWS * job->k;
    float *buffer = apus_pool_product_scratch(job->pool, worker, sizeof(float) * (size_t)(job->swiglu ? 2 * floats : floats));
    if (!buffer) {
        atomic_store_explicit(&job->failed, 1, memory_order_relaxed);
        return NULL;
    }
    buffer += slot * floats;
    for (int r = 0; r < apus_panel_rows(w, p); r++) apus_weight_row(w, p * PANEL_ROWS + r, buffer + r * job->k);
    return buffer;
}

static void linear_item(linear_job *job, int64_t panel, int64_t group, int worker) {
    int i = 0;
    while (panel >= job->first_panel[i + 1]) i++;
    int64_t p = panel - job->first_panel[i];
    const apus_linear_output *o = &job->outputs[i], *up = job->swiglu ? &job->outputs[1] : NULL;
    const float *expanded = expand(job, o->weight, job->use[i], p, worker, 0);
    const float *expanded_up = up ? expand(job, up->weight, job->use[1], p, worker, 1) : NULL;
    if (atomic_load_explicit(&job->failed, memory_order_relaxed)) return;
    float sums[2][TILE_TOKENS * PANEL_ROWS] = {0};
    int64_t first_tile = job->tile_count * group / job->group_count;
    int64_t last_tile = job->tile_count * (group + 1) / job->group_count;
    for (int64_t tile = first_tile; tile < last_tile; tile++) {
        int streaming = tile == first_tile;
        int64_t first = tile_begin(job, tile);
        int tokens = (int)(tile_begin(job, tile + 1) - first);
        multiply(job, o->weight, job->use[i], p, expanded, first, tokens, streaming, sums[0]);
        if (up) {
            multiply(job, up->weight, job->use[1], p, expanded_up, first, tokens, streaming, sums[1]);
            job->kernels->swiglu(sums[0], sums[1], tokens * PANEL_ROWS);
        }
        store(o, p, apus_panel_rows(o->weight, p), first, tokens, sums[0]);
    }
}

/* Items run over the panels of one token group after the other, so that a worker's share is a stretch of weights. */
static void linear_items(void *context, int64_t begin, int64_t end, int worker) {
    linear_job *job = context;
    for (int64_t item = begin; item < end; item++)
        linear_item(job, item % job->panel_count, item / job->panel_count, worker);
}

/* Memory for prepared activations: the pool's, or inside a run, where the pool's is in use, our own. */
static void *activation_memory(linear_job *job, int slot, size_t bytes, int nested) {
    return nested ? aligned_alloc(64, (bytes + 63) / 64 * 64) : apus_pool_shared_scratch(job->pool, slot, bytes);
}

static int prepare(linear_job *job, int nested) {
    for (int i = 0; i < job->count; i++) {
        apus_correction kind = apus_correction_of(job->outputs[i].weight->dtype);
        if (job->use[i] == USE_TILES && !job->tiles[kind]) {
            job->tiles[kind] = activation_memory(job, kind, (size_t)apus_tile_bytes(job->m, job->k), nested);
            if (!job->tiles[kind]) return -1;
        }
        if (job->use[i] == USE_BF16 && !job->bf16) {
            job->bf16 = activation_memory(job, BF16_SLOT, (size_t)(job->m * job->k) * 2, nested);
            if (!job->bf16) return -1;
        }
    }
    int any = job->bf16 != NULL;
    for (int kind = 0; kind < CORRECTIONS; kind++) any |= job->tiles[kind] != NULL;
    if (!any) return 0;
    if (job->m * job->k <= 32 * 1024) prepare_tiles(job, 0, job->tile_count, 0);
    else apus_pool_run(job->pool, job->tile_count, 1, prepare_tiles, job);
    return 0;
}

static int run_linear(linear_job *job, apus_precision precision) {
    int64_t row_bytes = 0;
    for (int i = 0; i < job->count; i++) {
        const apus_weight *w = job->outputs[i].weight;
        job->use[i] = use_of(job, precision, w->dtype);
        job->first_panel[i + 1] = job->first_panel[i] + apus_weight_panels(w);
        if (w->row_bytes > row_bytes) row_bytes = w->row_bytes;
    }
    job->panel_count = job->swiglu ? job->first_panel[1] : job->first_panel[job->count];
    job->tile_count = (job->m + TILE_TOKENS - 1) / TILE_TOKENS;
    int64_t group_tiles = GROUP_BYTES / (TILE_TOKENS * job->k);
    if (group_tiles < 4) group_tiles = 4;
    job->group_count = (job->tile_count + group_tiles - 1) / group_tiles;

    apus_pool_entry entry = apus_pool_enter(job->pool);
    int nested = apus_pool_is_nested(job->pool);
    int result = prepare(job, nested);
    if (result == 0) {
        int64_t grain = job->m > TILE_TOKENS ? 1 : CHUNK_BYTES / (row_bytes * PANEL_ROWS);
        apus_pool_run(job->pool, job->panel_count * job->group_count, grain, linear_items, job);
        if (atomic_load_explicit(&job->failed, memory_order_relaxed)) result = -1;
    }
    if (nested) {
        for (int kind = 0; kind < CORRECTIONS; kind++) free(job->tiles[kind]);
        free(job->bf16);
    }
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
