/* Large general products of float32 go to oneDNN where it is installed: it is a few percent faster than our own tiles
 * (docs/kernels/cpu-products.md), and far faster than what there is without AVX-512. The declarations are ours; nothing of oneDNN is needed to build.
 *
 * The pool cuts the product and each worker calls oneDNN on its tile with OpenMP at one thread, so that two pools never spin
 * against each other. */
#include "onednn.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "apus_linear.h"

/* dnnl_sgemm of oneDNN's C API, version 1 to 3: row-major, dimensions of 64 bits. */
typedef int (*sgemm_function)(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
typedef struct {
    int major, minor, patch;
} version_head;

/* Below these a product is too small for the call's own work. */
enum { LEAST_ROWS = 64, LEAST_DEPTH = 32, TILE_ROWS = 64 };
static const int64_t least_operations = 1 << 23;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static sgemm_function sgemm;
static void (*set_openmp_threads)(int);
static char status[256] = "not loaded";
static atomic_int in_use = 1;
static _Thread_local int is_single;

static void load(void) {
    void *library = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen("libdnnl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(status, sizeof(status), "not found: libdnnl.so.2 (Debian's package libdnnl2); own products instead");
        return;
    }
    sgemm_function function = (sgemm_function)dlsym(library, "dnnl_sgemm");
    const version_head *(*version)(void) = (const version_head *(*)(void))dlsym(library, "dnnl_version");
    set_openmp_threads = (void (*)(int))dlsym(library, "omp_set_num_threads");
    if (!function || !version || !set_openmp_threads) {
        snprintf(status, sizeof(status), "unusable: dnnl_sgemm, dnnl_version or its OpenMP is missing; own products instead");
        return;
    }
    const version_head *v = version();
    snprintf(status, sizeof(status), "loaded: version %d.%d.%d", v->major, v->minor, v->patch);
    sgemm = function;
}

const char *apus_onednn_status(void) {
    pthread_once(&once, load);
    return status;
}

int apus_select_products(const char *name) {
    pthread_once(&once, load);
    int wanted = name && name[0] == 'o' && name[1] == 'n'; /* "onednn", else "own" */
    if (wanted && !sgemm) return -1;
    atomic_store_explicit(&in_use, wanted, memory_order_relaxed);
    return 0;
}

int apus_onednn_serves(int64_t m, int64_t n, int64_t k) {
    if (m < LEAST_ROWS || n < LEAST_ROWS || k < LEAST_DEPTH || m * n < least_operations / k) return 0;
    pthread_once(&once, load);
    return sgemm && atomic_load_explicit(&in_use, memory_order_relaxed);
}

typedef struct {
    int trans_a, trans_b;
    int64_t m, n, k, lda, ldb, ldc, tile_rows;
    float alpha, beta;
    const float *a, *b;
    float *c;
    atomic_int failed;
} tiles;

static void tile_items(void *context, int64_t begin, int64_t end, int worker) {
    tiles *t = context;
    (void)worker;
    if (!is_single) {
        set_openmp_threads(1);
        is_single = 1;
    }
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t first = tile * t->tile_rows;
        int64_t rows = first + t->tile_rows < t->m ? t->tile_rows : t->m - first;
        const float *a = t->a + (t->trans_a ? first : first * t->lda);
        if (sgemm(t->trans_a ? 'T' : 'N', t->trans_b ? 'T' : 'N', rows, t->n, t->k, t->alpha, a, t->lda, t->b, t->ldb, t->beta,
                  t->c + first * t->ldc, t->ldc))
            atomic_store_explicit(&t->failed, 1, memory_order_relaxed);
    }
}

int apus_onednn_gemm(apus_pool *pool, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    /* Two tiles a worker: what b costs to bring into oneDNN's order is paid for each tile. */
    int64_t wanted = 2 * (pool ? apus_pool_threads(pool) : 1);
    int64_t rows = (m + wanted - 1) / wanted;
    rows = (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    tiles t = {.trans_a = trans_a, .trans_b = trans_b, .m = m, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc,
               .tile_rows = rows, .alpha = alpha, .beta = beta, .a = a, .b = b, .c = c};
    int64_t count = (m + rows - 1) / rows;
    if (pool)
        apus_pool_run(pool, count, 1, tile_items, &t);
    else
        tile_items(&t, 0, count, 0);
    return t.failed ? -1 : 0;
}
