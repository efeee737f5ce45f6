#include "weight.h"

#include <stdlib.h>

#include "arena.h"

/* Places one file block of row `lane` into its panel. */
static void pack_block(apus_dtype dtype, const uint8_t *block, int lane, uint8_t *panel) {
    switch (dtype) {
    case APUS_Q8_0:
        memcpy(panel + lane * 2, block, 2);
        for (int v = 0; v < 8; v++) {
            uint32_t q;
            memcpy(&q, block + 2 + v * 4, 4);
            q ^= 0x80808080;
            memcpy(panel + 32 + v * 64 + lane * 4, &q, 4);
        }
        break;
    case APUS_Q4_0:
        memcpy(panel + lane * 2, block, 2);
        for (int v = 0; v < 4; v++) memcpy(panel + 32 + v * 64 + lane * 4, block + 2 + v * 4, 4);
        break;
    case APUS_Q4_1:
        memcpy(panel + lane * 2, block, 2);
        memcpy(panel + 32 + lane * 2, block + 2, 2);
        for (int v = 0; v < 4; v++) memcpy(panel + 64 + v * 64 + lane * 4, block + 4 + v * 4, 4);
        break;
    case APUS_Q4_K: {
        const block_q4_k *b = (const block_q4_k *)block;
        memcpy(panel + lane * 2, &b->d, 2);
        memcpy(panel + 32 + lane * 2, &b->dmin, 2);
        for (int j = 0; j < 8; j++) {
            uint8_t *pair = panel + 64 + j / 2 * PANEL_Q4_K_PAIR;
            q4_k_scale(b->scales, j, pair + (j & 1) * 16 + lane, pair + 32 + (j & 1) * 16 + lane);
        }
        for (int j = 0; j < 4; j++)
            for (int v = 0; v < 8; v++)
                memcpy(panel + 64 + j * PANEL_Q4_K_PAIR + 64 + v * 64 + lane * 4, b->qs + j * 32 + v * 4, 4);
        break;
    }
    case APUS_Q6_K: {
        const block_q6_k *b = (const block_q6_k *)block;
        memcpy(panel + lane * 2, &b->d, 2);
        for (int j = 0; j < 8; j++) {
            uint8_t *p = panel + 32 + j * PANEL_Q6_K_BLOCK;
            p[lane] = (uint8_t)b->scales[2 * j];
            p[16 + lane] = (uint8_t)b->scales[2 * j + 1];
            for (int i = 0; i < 16; i++) {
                int low = q6_k_quant(b, j * 32 + i), high = q6_k_quant(b, j * 32 + 16 + i);
                p[32 + i / 4 * 64 + lane * 4 + i % 4] = (uint8_t)((low & 15) | (high & 15) << 4);
                uint8_t *h = p + 288 + lane * 4 + i % 4;
                if (i < 4) h[0] = h[64] = 0;
                h[0] |= (uint8_t)(low >> 4 << (i / 4 * 2));
                h[64] |= (uint8_t)(high >> 4 << (i / 4 * 2));
            }
        }
        break;
    }
    default: break;
    }
}

typedef struct {
    const apus_weight *weight;
    const uint8_t *data;
} pack_job;

static void pack_panels(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const pack_job *job = context;
    const apus_weight *w = job->weight;
    int64_t bytes = apus_block_bytes(w->dtype), panel_block = apus_panel_block_bytes(w->dtype);
    int64_t blocks = w->k / apus_block_elements(w->dtype);
    for (int64_t p = begin; p < end; p++) {
        uint8_t *panel = w->panels + p * w->panel_bytes;
        int rows = apus_panel_rows(w, p);
        if (rows < PANEL_ROWS) memset(panel, 0, (size_t)w->panel_bytes);
        const uint8_t *source = job->data + p * PANEL_ROWS * blocks * bytes;
        for (int64_t b = 0; b < blocks; b++)
            for (int lane = 0; lane < rows; lane++)
                pack_block(w->dtype, source + (lane * blocks + b) * bytes, lane, panel + b * panel_block);
    }
}

static void copy_rows(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const pack_job *job = context;
    const apus_weight *w = job->weight;
    memcpy(w->panels + begin * w->row_bytes, job->data + begin * w->row_bytes, (size_t)((end - begin) * w->row_bytes));
}

static apus_weight *create(apus_pool *pool, apus_dtype dtype, const void *data, int64_t n, int64_t k, int copies) {
    if (n <= 0 || k <= 0 || k % apus_block_elements(dtype) != 0) return NULL;
    apus_weight *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->dtype = dtype;
    w->n = n;
    w->k = k;
    w->row_bytes = k / apus_block_elements(dtype) * apus_block_bytes(dtype);
    const int quantised = apus_is_quantised(dtype);
    if (!quantised && !copies) {
        w->rows = data;
        return w;
    }
    w->panel_bytes = quantised ? k / apus_block_elements(dtype) * apus_panel_block_bytes(dtype) : 0;
    w->panel_bytes = (w->panel_bytes + 63) / 64 * 64;
    w->owned_bytes = (size_t)(quantised ? apus_weight_panels(w) * w->panel_bytes : n * w->row_bytes);
    w->panels = apus_arena_allocate(w->owned_bytes);
    if (!w->panels) {
        free(w);
        return NULL;
    }
    if (!quantised) w->rows = w->panels;
    pack_job job = {w, data};
    if (quantised) apus_pool_run(pool, apus_weight_panels(w), 4, pack_panels, &job);
    else apus_pool_run(pool, n, 64, copy_rows, &job);
    return w;
}

apus_weight *apus_weight_create(apus_pool *pool, apus_dtype dtype, const void *data, int64_t n, int64_t k) {
    return create(pool, dtype, data, n, k, 0);
}

apus_weight *apus_weight_create_copy(apus_pool *pool, apus_dtype dtype, const void *data, int64_t n, int64_t k) {
    return create(pool, dtype, data, n, k, 1);
}

void apus_weight_destroy(apus_weight *w) {
    if (!w) return;
    apus_arena_free(w->panels);
    free(w);
}

size_t apus_weight_owned_bytes(const apus_weight *w) { return w->owned_bytes; }

static int nibble(const uint8_t *q, int lane, int i) {
    uint8_t byte = q[i % 16 / 4 * 64 + lane * 4 + i % 4];
    return i < 16 ? byte & 15 : byte >> 4;
}

/* Expands `lane` of one panel block: the inverse of pack_block followed by apus_dequantize. */
static void expand_lane(apus_dtype dtype, const uint8_t *p, int lane, float *out) {
    float d = f16_to_f32(load_u16(p + lane * 2));
    switch (dtype) {
    case APUS_Q8_0:
        for (int i = 0; i < 32; i++) out[i] = d * (float)(p[32 + i / 4 * 64 + lane * 4 + i % 4] - 128);
        break;
    case APUS_Q4_0:
        for (int i = 0; i < 32; i++) out[i] = d * (float)(nibble(p + 32, lane, i) - 8);
        break;
    case APUS_Q4_1: {
        float m = f16_to_f32(load_u16(p + 32 + lane * 2));
        for (int i = 0; i < 32; i++) out[i] = d * (float)nibble(p + 64, lane, i) + m;
        break;
    }
    case APUS_Q4_K: {
        float dmin = f16_to_f32(load_u16(p + 32 + lane * 2));
        for (int j = 0; j < 8; j++) {
            const uint8_t *pair = p + 64 + j / 2 * PANEL_Q4_K_PAIR;
            int scale = pair[(j & 1) * 16 + lane], min = pair[32 + (j & 1) * 16 + lane];
            for (int i = 0; i < 32; i++) {
                uint8_t byte = pair[64 + i / 4 * 64 + lane * 4 + i % 4];
                out[j * 32 + i] = d * (float)scale * (float)(j & 1 ? byte >> 4 : byte & 15) - dmin * (float)min;
            }
        }
        break;
    }
    case APUS_Q6_K:
        for (int j = 0; j < 8; j++) {
            const uint8_t *b = p + 32 + j * PANEL_Q6_K_BLOCK;
            for (int i = 0; i < 32; i++) {
                int high = b[288 + i / 16 * 64 + lane * 4 + i % 4] >> (i % 16 / 4 * 2) & 3;
                int scale = (int8_t)b[i / 16 * 16 + lane];
                out[j * 32 + i] = d * (float)scale * (float)((nibble(b + 32, lane, i) | high << 4) - 32);
            }
        }
        break;
    default: break;
    }
}

int apus_weight_row(const apus_weight *w, int64_t row, float *out) {
    if (row < 0 || row >= w->n) return -1;
    if (w->rows) {
        apus_dequantize(w->dtype, w->rows + row * w->row_bytes, w->k, out);
        return 0;
    }
    int64_t elements = apus_block_elements(w->dtype), bytes = apus_panel_block_bytes(w->dtype);
    const uint8_t *p = w->panels + row / PANEL_ROWS * w->panel_bytes;
    for (int64_t i = 0; i < w->k; i += elements, p += bytes) expand_lane(w->dtype, p, (int)(row % PANEL_ROWS), out + i);
    return 0;
}
