#include "formats.h"

int64_t apus_block_elements(apus_dtype dtype) {
    switch (dtype) {
    case APUS_Q8_0:
    case APUS_Q4_0:
    case APUS_Q4_1: return BLOCK;
    case APUS_Q4_K:
    case APUS_Q6_K: return SUPER_BLOCK;
    default: return 1;
    }
}

int64_t apus_block_bytes(apus_dtype dtype) {
    switch (dtype) {
    case APUS_F32: return 4;
    case APUS_BF16:
    case APUS_F16: return 2;
    case APUS_Q8_0: return sizeof(block_q8_0);
    case APUS_Q4_0: return sizeof(block_q4_0);
    case APUS_Q4_1: return sizeof(block_q4_1);
    case APUS_Q4_K: return sizeof(block_q4_k);
    case APUS_Q6_K: return sizeof(block_q6_k);
    }
    return 0;
}

static void expand_q8_0(const block_q8_0 *b, float *out) {
    float d = f16_to_f32(b->d);
    for (int i = 0; i < 32; i++) out[i] = d * (float)b->qs[i];
}

static void expand_q4_0(const block_q4_0 *b, float *out) {
    float d = f16_to_f32(b->d);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b->qs[i] & 15) - 8);
        out[i + 16] = d * (float)((b->qs[i] >> 4) - 8);
    }
}

static void expand_q4_1(const block_q4_1 *b, float *out) {
    float d = f16_to_f32(b->d), m = f16_to_f32(b->m);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b->qs[i] & 15) + m;
        out[i + 16] = d * (float)(b->qs[i] >> 4) + m;
    }
}

static void expand_q4_k(const block_q4_k *b, float *out) {
    float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);
    for (int j = 0; j < 8; j++) {
        uint8_t scale, min;
        q4_k_scale(b->scales, j, &scale, &min);
        for (int l = 0; l < 32; l++) {
            uint8_t byte = b->qs[j / 2 * 32 + l];
            out[j * 32 + l] = d * scale * (float)(j & 1 ? byte >> 4 : byte & 15) - dmin * min;
        }
    }
}

static void expand_q6_k(const block_q6_k *b, float *out) {
    float d = f16_to_f32(b->d);
    for (int i = 0; i < 256; i++) out[i] = d * b->scales[i / 16] * (float)(q6_k_quant(b, i) - 32);
}

void apus_dequantize(apus_dtype dtype, const void *blocks, int64_t count, float *out) {
    const char *p = blocks;
    int64_t elements = apus_block_elements(dtype), bytes = apus_block_bytes(dtype);
    if (dtype == APUS_F32) {
        memcpy(out, p, (size_t)count * 4);
        return;
    }
    for (int64_t i = 0; i < count / elements; i++, p += bytes, out += elements) {
        switch (dtype) {
        case APUS_BF16: *out = bf16_to_f32(load_u16(p)); break;
        case APUS_F16: *out = f16_to_f32(load_u16(p)); break;
        case APUS_Q8_0: expand_q8_0((const block_q8_0 *)p, out); break;
        case APUS_Q4_0: expand_q4_0((const block_q4_0 *)p, out); break;
        case APUS_Q4_1: expand_q4_1((const block_q4_1 *)p, out); break;
        case APUS_Q4_K: expand_q4_k((const block_q4_k *)p, out); break;
        case APUS_Q6_K: expand_q6_k((const block_q6_k *)p, out); break;
        default: break;
        }
    }
}
