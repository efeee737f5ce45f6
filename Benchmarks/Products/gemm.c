/* Times general products on training's shapes: our own loops with bf16 operands, with float32 operands rounded to bf16, and with
 * float32, beside oneDNN's matmul (bf16, b as it lies and packed beforehand) and sgemm. GFLOP/s of the fastest of several runs.
 *
 *   clang -O2 -I Sources/CApusKernels/include Benchmarks/Products/gemm.c $(find Sources/CApusKernels -name '*.c') \
 *       -lm -lpthread -ldl -o gemm
 *   ./gemm [threads] [repeats]
 *
 * With -DPEER -ldnnl -lgomp (Debian's libdnnl-dev 2.6) oneDNN's matmul is measured too; it runs with OpenMP at as many threads. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apus_kernels.h"

typedef struct {
    int trans_a, trans_b;
    int64_t m, n, k;
} shape;

/* c = a b^T: forward; a b: gradient of the input; a^T b, added to c: gradient of the weight. */
static const shape shapes[] = {
    {0, 1, 1024, 1024, 1024}, {0, 1, 4096, 256, 256},  {0, 1, 4096, 512, 512},  {0, 1, 4096, 704, 256},
    {0, 1, 4096, 256, 704},   {0, 1, 4096, 1408, 512}, {0, 1, 4096, 512, 1408}, {0, 1, 4096, 4096, 256},
    {0, 1, 4096, 8192, 512},  {0, 0, 4096, 256, 256},  {0, 0, 4096, 512, 512},  {0, 0, 4096, 512, 1408},
    {0, 0, 4096, 1408, 512},  {0, 0, 4096, 256, 4096}, {0, 0, 4096, 512, 8192}, {1, 0, 256, 256, 4096},
    {1, 0, 512, 512, 4096},   {1, 0, 704, 256, 4096},  {1, 0, 1408, 512, 4096}, {1, 0, 512, 1408, 4096},
    {1, 0, 4096, 256, 4096},  {1, 0, 8192, 512, 4096},
};

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *memory(int64_t bytes) {
    const size_t page = 2 << 20;
    void *p = aligned_alloc(page, ((size_t)bytes + page - 1) / page * page);
    if (!p) abort();
    return p;
}

static void fill(float *wide, uint16_t *narrow, int64_t count) {
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        wide[i] = (float)(state >> 8) / 16777216.f - .5f;
        uint32_t bits;
        memcpy(&bits, &wide[i], 4);
        narrow[i] = (uint16_t)(bits >> 16);
    }
}

/* Sets `rate` to the GFLOP/s of the fastest of `repeats` runs of `call`. */
#define MEASURE(rate, s, repeats, call)                                                  \
    do {                                                                                 \
        double least = 1e9;                                                              \
        for (int r = 0; r < (repeats); r++) {                                            \
            double start = seconds();                                                    \
            call;                                                                        \
            double t = seconds() - start;                                                \
            if (t < least) least = t;                                                    \
        }                                                                                \
        rate = 2e-9 * (double)(s)->m * (double)(s)->n * (double)(s)->k / least;          \
    } while (0)

#ifdef PEER
#include <dnnl.h>

extern void omp_set_num_threads(int);

#define CHECK(call)                                             \
    do {                                                        \
        int result = (call);                                    \
        if (result != dnnl_success) {                           \
            fprintf(stderr, "%s: error %d\n", #call, result);   \
            exit(1);                                            \
        }                                                       \
    } while (0)

static void multiply(dnnl_stream_t stream, dnnl_primitive_t product, dnnl_memory_t a, dnnl_memory_t b, dnnl_memory_t c) {
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};
    CHECK(dnnl_primitive_execute(product, stream, 3, arguments));
    CHECK(dnnl_stream_wait(stream));
}

static double peer(const shape *s, uint16_t *a, uint16_t *b, float *c, int packed, int threads, int repeats) {
    omp_set_num_threads(threads);
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    CHECK(dnnl_engine_create(&engine, dnnl_cpu, 0));
    CHECK(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    dnnl_dims_t size_a = {s->m, s->k}, size_b = {s->k, s->n}, size_c = {s->m, s->n};
    dnnl_dims_t strides_a = {s->trans_a ? 1 : s->k, s->trans_a ? s->m : 1};
    dnnl_dims_t strides_b = {s->trans_b ? 1 : s->n, s->trans_b ? s->k : 1}, strides_c = {s->n, 1};
    dnnl_memory_desc_t desc_a, desc_b, desc_c, any;
    CHECK(dnnl_memory_desc_init_by_strides(&desc_a, 2, size_a, dnnl_bf16, strides_a));
    CHECK(dnnl_memory_desc_init_by_strides(&desc_b, 2, size_b, dnnl_bf16, strides_b));
    CHECK(dnnl_memory_desc_init_by_strides(&desc_c, 2, size_c, dnnl_f32, strides_c));
    CHECK(dnnl_memory_desc_init_by_tag(&any, 2, size_b, dnnl_bf16, dnnl_format_tag_any));
    dnnl_matmul_desc_t desc;
    CHECK(dnnl_matmul_desc_init(&desc, &desc_a, packed ? &any : &desc_b, NULL, &desc_c));
    dnnl_primitive_attr_t attributes;
    CHECK(dnnl_primitive_attr_create(&attributes));
    if (s->trans_a) {
        dnnl_post_ops_t sum;
        CHECK(dnnl_post_ops_create(&sum));
        CHECK(dnnl_post_ops_append_sum(sum, 1));
        CHECK(dnnl_primitive_attr_set_post_ops(attributes, sum));
        CHECK(dnnl_post_ops_destroy(sum));
    }
    dnnl_primitive_desc_t product_desc;
    dnnl_primitive_t product;
    CHECK(dnnl_primitive_desc_create(&product_desc, &desc, attributes, engine, NULL));
    CHECK(dnnl_primitive_create(&product, product_desc));
    dnnl_memory_t memory_a, memory_b, memory_c, used;
    CHECK(dnnl_memory_create(&memory_a, &desc_a, engine, a));
    CHECK(dnnl_memory_create(&memory_b, &desc_b, engine, b));
    CHECK(dnnl_memory_create(&memory_c, &desc_c, engine, c));
    used = memory_b;
    if (packed) {
        const dnnl_memory_desc_t *best = dnnl_primitive_desc_query_md(product_desc, dnnl_query_weights_md, 0);
        CHECK(dnnl_memory_create(&used, best, engine, DNNL_MEMORY_ALLOCATE));
        dnnl_primitive_desc_t reorder_desc;
        dnnl_primitive_t reorder;
        CHECK(dnnl_reorder_primitive_desc_create(&reorder_desc, &desc_b, engine, best, engine, NULL));
        CHECK(dnnl_primitive_create(&reorder, reorder_desc));
        dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, memory_b}, {DNNL_ARG_TO, used}};
        CHECK(dnnl_primitive_execute(reorder, stream, 2, arguments));
        CHECK(dnnl_stream_wait(stream));
        CHECK(dnnl_primitive_destroy(reorder));
        CHECK(dnnl_primitive_desc_destroy(reorder_desc));
    }
    double rate;
    MEASURE(rate, s, repeats, multiply(stream, product, memory_a, used, memory_c));
    if (packed) CHECK(dnnl_memory_destroy(used));
    CHECK(dnnl_memory_destroy(memory_a));
    CHECK(dnnl_memory_destroy(memory_b));
    CHECK(dnnl_memory_destroy(memory_c));
    CHECK(dnnl_primitive_destroy(product));
    CHECK(dnnl_primitive_desc_destroy(product_desc));
    CHECK(dnnl_primitive_attr_destroy(attributes));
    CHECK(dnnl_stream_destroy(stream));
    CHECK(dnnl_engine_destroy(engine));
    omp_set_num_threads(1);
    return rate;
}
#endif

static void bench(apus_pool *pool, const shape *s, int repeats) {
    float *a = memory(4 * s->m * s->k), *b = memory(4 * s->k * s->n), *c = memory(4 * s->m * s->n);
    uint16_t *a16 = memory(2 * s->m * s->k), *b16 = memory(2 * s->k * s->n);
    fill(a, a16, s->m * s->k);
    fill(b, b16, s->k * s->n);
    memset(c, 0, 4 * (size_t)(s->m * s->n));
    const int ta = s->trans_a, tb = s->trans_b;
    const int64_t lda = ta ? s->m : s->k, ldb = tb ? s->k : s->n;
    const float beta = ta ? 1 : 0;
    double bf16, rounded, f32, sgemm = 0;
    MEASURE(bf16, s, repeats, apus_gemm_bf16(pool, ta, tb, s->m, s->n, s->k, 1, a16, lda, b16, ldb, beta, c, s->n));
    MEASURE(rounded, s, repeats,
            apus_gemm_mixed(pool, ta, tb, s->m, s->n, s->k, 1, APUS_F32, a, lda, APUS_F32, b, ldb, beta, c, s->n));
    apus_select_products("own");
    MEASURE(f32, s, repeats, apus_gemm_f32(pool, ta, tb, s->m, s->n, s->k, 1, a, lda, b, ldb, beta, c, s->n));
    if (apus_select_products("onednn") == 0)
        MEASURE(sgemm, s, repeats, apus_gemm_f32(pool, ta, tb, s->m, s->n, s->k, 1, a, lda, b, ldb, beta, c, s->n));
    printf("%s%s m %4lld n %4lld k %4lld  bf16 %4.0f rounded %4.0f f32 %4.0f", ta ? "T" : "N", tb ? "T" : "N", (long long)s->m,
           (long long)s->n, (long long)s->k, bf16, rounded, f32);
    if (sgemm > 0) printf("  oneDNN: sgemm %4.0f", sgemm);
#ifdef PEER
    const int threads = apus_pool_threads(pool);
    printf(" matmul %4.0f packed %4.0f", peer(s, a16, b16, c, 0, threads, repeats), peer(s, a16, b16, c, 1, threads, repeats));
#endif
    printf("\n");
    fflush(stdout);
    free(a), free(b), free(c), free(a16), free(b16);
}

int main(int argc, char **argv) {
    apus_pool *pool = apus_pool_create(argc > 1 ? atoi(argv[1]) : 0);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) bench(pool, &shapes[i], argc > 2 ? atoi(argv[2]) : 7);
    apus_pool_destroy(pool);
    return 0;
}
