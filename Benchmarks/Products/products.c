/* Times the matrix products of the CPU kernels on whole models' shapes: the products of one token (share of the measured
 * read bandwidth) and of 16, 128 and 512 tokens (operations per second).
 *
 *   clang -O2 -I Sources/CApusKernels/include Benchmarks/Products/products.c $(find Sources/CApusKernels -name '*.c') \
 *       -lm -lpthread -ldl -o products
 *   ./products [threads] [model dtype] [most tokens]      e.g. ./products 2 smollm2 q4_1 16
 *
 * COPY=1 in the environment copies float weights (apus_weight_create_copy). Times are the least of several runs. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "apus_kernels.h"

typedef struct {
    const char *name;
    int64_t d, layers, kv, ffn, vocabulary;
} model_shape;

static const model_shape models[] = {
    {"smollm2", 576, 30, 192, 1536, 49152},
    {"125m", 768, 12, 256, 2048, 32000},
    {"1b", 2048, 4, 512, 8192, 32000},
};

static const char *const dtype_names[] = {"f32", "bf16", "f16", "q8_0", "q4_0", "q4_1", "q4_k", "q6_k"};

typedef struct {
    apus_weight *q, *k, *v, *o, *gate, *up, *down;
} layer;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t total_bytes;

static apus_weight *random_weight(apus_pool *pool, apus_dtype dtype, int64_t n, int64_t k) {
    if (k % apus_block_elements(dtype) != 0) dtype = APUS_Q8_0;
    size_t block = (size_t)apus_block_bytes(dtype), blocks = (size_t)(n * k / apus_block_elements(dtype));
    uint8_t *data = aligned_alloc(64, (block * blocks + 63) / 64 * 64);
    uint32_t state = 1;
    for (size_t i = 0; i + 4 <= block * blocks; i += 4) {
        state = state * 1664525u + 1013904223u;
        uint32_t word = dtype <= APUS_F16 ? state & 0x3bff3bff : state;
        memcpy(data + i, &word, 4);
    }
    uint16_t scale = 0x1400;
    for (size_t b = 0; b < blocks && dtype > APUS_F16; b++) {
        memcpy(data + b * block + (dtype == APUS_Q6_K ? 208 : 0), &scale, 2);
        if (dtype == APUS_Q4_1 || dtype == APUS_Q4_K) memcpy(data + b * block + 2, &scale, 2);
    }
    total_bytes += block * blocks;
    const int copies = getenv("COPY") != NULL;
    apus_weight *w = (copies ? apus_weight_create_copy : apus_weight_create)(pool, dtype, data, n, k);
    if (copies || dtype > APUS_F16) free(data);
    return w;
}

typedef struct {
    const uint8_t *data;
    uint64_t sums[64];
} read_job;

static void read_items(void *context, int64_t begin, int64_t end, int worker) {
    read_job *job = context;
    typedef uint64_t vector __attribute__((vector_size(64)));
    vector sum = {0};
    for (const uint8_t *p = job->data + begin * 65536; p < job->data + end * 65536; p += 64) sum += *(const vector *)p;
    job->sums[worker % 64] += sum[0] + sum[7];
}

static double least_of(const double *times, int count) {
    double least = times[0];
    for (int i = 1; i < count; i++)
        if (times[i] < least) least = times[i];
    return least;
}

static double read_bandwidth(apus_pool *pool) {
    enum { CHUNKS = 4096 };
    uint8_t *data = aligned_alloc(2 << 20, (size_t)CHUNKS * 65536);
    madvise(data, (size_t)CHUNKS * 65536, MADV_HUGEPAGE);
    memset(data, 1, (size_t)CHUNKS * 65536);
    read_job job = {data, {0}};
    double times[7];
    for (int i = 0; i < 7; i++) {
        double start = seconds();
        apus_pool_run(pool, CHUNKS, 1, read_items, &job);
        times[i] = seconds() - start;
    }
    free(data);
    return (double)CHUNKS * 65536 / least_of(times, 7);
}

static void nothing(void *context, int64_t begin, int64_t end, int worker) {
    (void)context, (void)begin, (void)end, (void)worker;
}

static float *x, *hidden, *query, *key, *value, *logits;

static void forward(apus_pool *pool, const model_shape *s, const layer *layers, const apus_weight *head, int64_t m) {
    for (int64_t i = 0; i < s->layers; i++) {
        const layer *l = &layers[i];
        apus_linear_output qkv[3] = {
            {l->q, query, s->d, NULL, 0}, {l->k, key, s->kv, NULL, 0}, {l->v, value, s->kv, NULL, 0}};
        apus_linear(pool, APUS_PRECISION_DEFAULT, x, m, s->d, qkv, 3);
        apus_linear_output o = {l->o, hidden, s->d, NULL, 0};
        apus_linear(pool, APUS_PRECISION_DEFAULT, query, m, s->d, &o, 1);
        apus_linear_swiglu(pool, APUS_PRECISION_DEFAULT, x, m, s->d, l->gate, l->up, hidden, s->ffn);
        apus_linear_output down = {l->down, query, s->d, NULL, 0};
        apus_linear(pool, APUS_PRECISION_DEFAULT, hidden, m, s->ffn, &down, 1);
    }
    if (head) {
        apus_linear_output out = {head, logits, s->vocabulary, NULL, 0};
        apus_linear(pool, APUS_PRECISION_DEFAULT, x, m < 16 ? m : 16, s->d, &out, 1);
    }
}

static void bench(apus_pool *pool, const model_shape *s, apus_dtype dtype, double bandwidth, int64_t most) {
    total_bytes = 0;
    layer *layers = calloc((size_t)s->layers, sizeof *layers);
    for (int64_t i = 0; i < s->layers; i++)
        layers[i] = (layer){random_weight(pool, dtype, s->d, s->d),   random_weight(pool, dtype, s->kv, s->d),
                            random_weight(pool, dtype, s->kv, s->d),  random_weight(pool, dtype, s->d, s->d),
                            random_weight(pool, dtype, s->ffn, s->d), random_weight(pool, dtype, s->ffn, s->d),
                            random_weight(pool, dtype, s->d, s->ffn)};
    apus_weight *head = random_weight(pool, dtype == APUS_Q4_1 ? APUS_Q8_0 : dtype, s->vocabulary, s->d);
    double layer_macs = (double)s->layers * (double)(s->d * (2 * s->d + 2 * s->kv + 3 * s->ffn));
    static const int64_t sizes[] = {1, 2, 4, 8, 16, 32, 128, 512};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t m = sizes[i];
        if (m > most) break;
        double times[9];
        int repeats = m > 32 ? 3 : 9;
        const apus_weight *used = m > 32 ? NULL : head;
        forward(pool, s, layers, used, m);
        for (int r = 0; r < repeats; r++) {
            double start = seconds();
            forward(pool, s, layers, used, m);
            times[r] = seconds() - start;
        }
        double t = least_of(times, repeats);
        double macs = layer_macs + (used ? (double)(s->vocabulary * s->d) : 0);
        printf("%-8s %-5s m %4lld: %8.3f ms %9.1f tok/s %7.1f GOP/s", s->name, dtype_names[dtype], (long long)m, t * 1e3,
               (double)m / t, 2e-9 * macs * (double)m / t);
        if (used) printf("  %5.1f GB/s, %3.0f %% of reading", 1e-9 * (double)total_bytes / t,
                         100 * (double)total_bytes / t / bandwidth);
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    apus_pool *pool = apus_pool_create(threads);
    double bandwidth = read_bandwidth(pool), start = seconds();
    for (int i = 0; i < 10000; i++) apus_pool_run(pool, apus_pool_threads(pool), 1, nothing, NULL);
    printf("%s, %d threads, reading %.1f GB/s, fork and join %.2f us\n", apus_isa(), apus_pool_threads(pool),
           1e-9 * bandwidth, (seconds() - start) * 100);
    x = calloc(512 * 8192, 4), hidden = calloc(512 * 8192, 4), query = calloc(512 * 8192, 4);
    key = calloc(512 * 2048, 4), value = calloc(512 * 2048, 4), logits = calloc(16 * 49152, 4);
    for (int i = 0; i < 512 * 8192; i++) x[i] = hidden[i] = query[i] = (float)(i % 251) / 125 - 1;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (int dtype = APUS_F32; dtype <= APUS_Q6_K; dtype++) {
            if (argc > 2 && strcmp(argv[2], models[i].name) != 0) continue;
            if (argc > 3 && strcmp(argv[3], dtype_names[dtype]) != 0) continue;
            bench(pool, &models[i], (apus_dtype)dtype, bandwidth, argc > 4 ? atoi(argv[4]) : 512);
        }
    apus_pool_destroy(pool);
    return 0;
}
