#define _GNU_SOURCE
#include "pool_internal.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "cpu_count.h"

/* A claim word holds the run it belongs to in its upper bits and the next unclaimed index in the lower ones. A claim is a
 * compare-and-swap on it, so it succeeds only while its run is the current one, and a thread that slept through the end
 * of a run can neither take work of it nor delay the next. */
enum { INDEX_BITS = 40 };
#define INDEX_MASK ((UINT64_C(1) << INDEX_BITS) - 1)

/* A run publishes its first chunks within a microsecond of the last one's end when the workers still spin. */
static const int64_t SPIN_NANOSECONDS = 60 * 1000;
static const int64_t JOIN_SPIN_NANOSECONDS = 20 * 1000;

typedef struct {
    _Alignas(64) _Atomic uint64_t claim;
    _Atomic int64_t end;
} share;

typedef struct {
    void *data;
    size_t bytes;
} buffer;

typedef struct {
    _Alignas(64) buffer user;
    buffer product;
    pthread_t thread;
    apus_pool *pool;
    int index;
} worker_state;

struct apus_pool {
    int threads;
    int started;
    int oversubscribed;
    share *shares;
    worker_state *workers;
    buffer shared[APUS_SHARED_SLOTS];

    pthread_mutex_t caller_lock;

    _Alignas(64) _Atomic uint64_t run;
    _Atomic(apus_range_fn) fn;
    _Atomic(void *) context;
    _Atomic int64_t grain;
    _Atomic int stopping;

    _Alignas(64) _Atomic int64_t remaining;

    _Alignas(64) _Atomic int sleepers;
    _Atomic int caller_sleeps;
    pthread_mutex_t sleep_lock;
    pthread_cond_t work_ready;
    pthread_cond_t work_done;
};

/* The pool this thread has entered or works for, and as which worker it runs (-1: not inside a run). */
static _Thread_local apus_pool *current_pool;
static _Thread_local int current_worker = -1;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int64_t now_nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Takes a chunk out of one share of run `run`. The function and its context are read between two looks at the claim word,
 * so they belong to the run that the swap confirms. */
static int take_chunk(apus_pool *pool, uint64_t run, int from, int worker) {
    share *s = &pool->shares[from];
    uint64_t seen = atomic_load_explicit(&s->claim, memory_order_acquire);
    for (;;) {
        if (seen >> INDEX_BITS != (run & (UINT64_MAX >> INDEX_BITS))) return 0;
        int64_t begin = (int64_t)(seen & INDEX_MASK);
        int64_t end = atomic_load_explicit(&s->end, memory_order_relaxed);
        int64_t grain = atomic_load_explicit(&pool->grain, memory_order_relaxed);
        apus_range_fn fn = atomic_load_explicit(&pool->fn, memory_order_relaxed);
        void *context = atomic_load_explicit(&pool->context, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (begin >= end) return 0;
        int64_t stop = end - begin > grain ? begin + grain : end;
        uint64_t next = (seen & ~INDEX_MASK) | (uint64_t)stop;
        if (!atomic_compare_exchange_weak_explicit(&s->claim, &seen, next, memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(context, begin, stop, worker);
        int64_t left = atomic_fetch_sub_explicit(&pool->remaining, stop - begin, memory_order_seq_cst) - (stop - begin);
        if (left == 0 && worker != 0 && atomic_load_explicit(&pool->caller_sleeps, memory_order_seq_cst)) {
            pthread_mutex_lock(&pool->sleep_lock);
            pthread_cond_signal(&pool->work_done);
            pthread_mutex_unlock(&pool->sleep_lock);
        }
        return 1;
    }
}

static void take_part(apus_pool *pool, uint64_t run, int worker) {
    for (int i = 0; i < pool->threads; i++) {
        int from = worker + i < pool->threads ? worker + i : worker + i - pool->threads;
        while (take_chunk(pool, run, from, worker)) {}
    }
}

static uint64_t wait_for_run(apus_pool *pool, uint64_t last) {
    if (!pool->oversubscribed) {
        int64_t deadline = 0;
        for (int spins = 0;; spins++) {
            uint64_t run = atomic_load_explicit(&pool->run, memory_order_acquire);
            if (run != last) return run;
            if (spins % 64 == 63) {
                int64_t now = now_nanoseconds();
                if (deadline == 0) deadline = now + SPIN_NANOSECONDS;
                if (now > deadline) break;
            }
            relax();
        }
    }
    pthread_mutex_lock(&pool->sleep_lock);
    atomic_fetch_add_explicit(&pool->sleepers, 1, memory_order_seq_cst);
    uint64_t run;
    while ((run = atomic_load_explicit(&pool->run, memory_order_seq_cst)) == last)
        pthread_cond_wait(&pool->work_ready, &pool->sleep_lock);
    atomic_fetch_sub_explicit(&pool->sleepers, 1, memory_order_seq_cst);
    pthread_mutex_unlock(&pool->sleep_lock);
    return run;
}

static void *worker_main(void *argument) {
    worker_state *self = argument;
    apus_pool *pool = self->pool;
    current_pool = pool;
    current_worker = self->index;
    uint64_t run = 0;
    for (;;) {
        run = wait_for_run(pool, run);
        if (atomic_load_explicit(&pool->stopping, memory_order_acquire)) return NULL;
        take_part(pool, run, self->index);
    }
}

static void wait_until_done(apus_pool *pool) {
    int64_t deadline = 0;
    for (int spins = 0;; spins++) {
        if (atomic_load_explicit(&pool->remaining, memory_order_acquire) == 0) return;
        if (pool->oversubscribed) {
            if (spins > 4) break;
            sched_yield();
        } else {
            if (spins % 64 == 63) {
                int64_t now = now_nanoseconds();
                if (deadline == 0) deadline = now + JOIN_SPIN_NANOSECONDS;
                if (now > deadline) break;
            }
            relax();
        }
    }
    pthread_mutex_lock(&pool->sleep_lock);
    atomic_store_explicit(&pool->caller_sleeps, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&pool->remaining, memory_order_seq_cst) != 0)
        pthread_cond_wait(&pool->work_done, &pool->sleep_lock);
    atomic_store_explicit(&pool->caller_sleeps, 0, memory_order_seq_cst);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void wake_sleepers(apus_pool *pool) {
    if (atomic_load_explicit(&pool->sleepers, memory_order_seq_cst) > 0) {
        pthread_mutex_lock(&pool->sleep_lock);
        pthread_cond_broadcast(&pool->work_ready);
        pthread_mutex_unlock(&pool->sleep_lock);
    }
}

apus_pool_entry apus_pool_enter(apus_pool *pool) {
    apus_pool_entry before = {current_pool, current_worker, 0};
    if (current_pool != pool) {
        pthread_mutex_lock(&pool->caller_lock);
        before.locked = 1;
        current_pool = pool;
        current_worker = -1;
    }
    return before;
}

void apus_pool_leave(apus_pool *pool, apus_pool_entry before) {
    current_pool = before.pool;
    current_worker = before.worker;
    if (before.locked) pthread_mutex_unlock(&pool->caller_lock);
}

int apus_pool_is_nested(const apus_pool *pool) { return current_pool == pool && current_worker >= 0; }

/* Opens the shares of a new run. Late workers may still look at the old one: every share is first closed under the new
 * run's tag, then the run is described, then the shares are opened, so a claim never pairs old words with new ones. */
static uint64_t open_run(apus_pool *pool, int64_t count, int64_t grain, apus_range_fn fn, void *context) {
    uint64_t run = atomic_load_explicit(&pool->run, memory_order_relaxed) + 1;
    uint64_t tag = run << INDEX_BITS;
    for (int i = 0; i < pool->threads; i++)
        atomic_store_explicit(&pool->shares[i].claim, tag | INDEX_MASK, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&pool->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&pool->context, context, memory_order_relaxed);
    atomic_store_explicit(&pool->grain, grain, memory_order_relaxed);
    atomic_store_explicit(&pool->remaining, count, memory_order_relaxed);
    int64_t chunks = (count + grain - 1) / grain;
    for (int i = 0; i < pool->threads; i++) {
        int64_t begin = chunks * i / pool->threads * grain;
        int64_t end = chunks * (i + 1) / pool->threads * grain;
        atomic_store_explicit(&pool->shares[i].end, end < count ? end : count, memory_order_relaxed);
        atomic_store_explicit(&pool->shares[i].claim, tag | (uint64_t)(begin < count ? begin : count),
                              memory_order_release);
    }
    atomic_store_explicit(&pool->run, run, memory_order_seq_cst);
    return run;
}

void apus_pool_run(apus_pool *pool, int64_t count, int64_t grain, apus_range_fn fn, void *context) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    if (apus_pool_is_nested(pool)) {
        fn(context, 0, count, current_worker);
        return;
    }
    apus_pool_entry before = apus_pool_enter(pool);
    current_worker = 0;
    if (pool->threads == 1 || count <= grain) {
        fn(context, 0, count, 0);
    } else {
        uint64_t run = open_run(pool, count, grain, fn, context);
        wake_sleepers(pool);
        take_part(pool, run, 0);
        wait_until_done(pool);
    }
    current_worker = -1;
    apus_pool_leave(pool, before);
}

static void *grow(buffer *b, size_t bytes) {
    if (b->bytes < bytes) {
        size_t rounded = (bytes + bytes / 4 + 4095) & ~(size_t)4095;
        void *data = aligned_alloc(64, rounded);
        if (!data) return NULL;
        free(b->data);
        b->data = data;
        b->bytes = rounded;
    }
    return b->data;
}

void *apus_pool_scratch(apus_pool *pool, int worker, size_t bytes) { return grow(&pool->workers[worker].user, bytes); }

void *apus_pool_product_scratch(apus_pool *pool, int worker, size_t bytes) {
    return grow(&pool->workers[worker].product, bytes);
}

void *apus_pool_shared_scratch(apus_pool *pool, int slot, size_t bytes) { return grow(&pool->shared[slot], bytes); }

int apus_pool_threads(const apus_pool *pool) { return pool->threads; }

apus_pool *apus_pool_create(int threads) {
    int usable = apus_usable_cpus();
    if (threads <= 0) threads = usable;
    if (threads > 1024) threads = 1024;
    apus_pool *pool = aligned_alloc(64, (sizeof(apus_pool) + 63) / 64 * 64);
    if (!pool) return NULL;
    *pool = (apus_pool){.threads = threads, .oversubscribed = threads > usable};
    pool->shares = aligned_alloc(64, sizeof(share) * (size_t)threads);
    pool->workers = aligned_alloc(64, sizeof(worker_state) * (size_t)threads);
    if (!pool->shares || !pool->workers) {
        free(pool->shares);
        free(pool->workers);
        free(pool);
        return NULL;
    }
    for (int i = 0; i < threads; i++) {
        atomic_init(&pool->shares[i].claim, 0);
        atomic_init(&pool->shares[i].end, 0);
        pool->workers[i] = (worker_state){.pool = pool, .index = i};
    }
    pthread_mutex_init(&pool->caller_lock, NULL);
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    pthread_cond_init(&pool->work_done, NULL);
    for (int i = 1; i < threads; i++) {
        if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0) {
            apus_pool_destroy(pool);
            return NULL;
        }
        pool->started++;
    }
    return pool;
}

void apus_pool_destroy(apus_pool *pool) {
    if (!pool) return;
    atomic_store_explicit(&pool->stopping, 1, memory_order_release);
    atomic_fetch_add_explicit(&pool->run, 1, memory_order_seq_cst);
    pthread_mutex_lock(&pool->sleep_lock);
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->sleep_lock);
    for (int i = 1; i <= pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
    for (int i = 0; i < pool->threads; i++) {
        free(pool->workers[i].user.data);
        free(pool->workers[i].product.data);
    }
    for (int i = 0; i < APUS_SHARED_SLOTS; i++) free(pool->shared[i].data);
    pthread_mutex_destroy(&pool->caller_lock);
    pthread_mutex_destroy(&pool->sleep_lock);
    pthread_cond_destroy(&pool->work_ready);
    pthread_cond_destroy(&pool->work_done);
    free(pool->shares);
    free(pool->workers);
    free(pool);
}
