/* A fork-join pool of threads for the CPU kernels.
 *
 * A run cuts [0, count) into chunks of `grain` indices. Each worker starts in its own contiguous share (so that a stream
 * of weights stays sequential per core) and, once that is used up, takes chunks from the shares of the others: a thread
 * that loses its core delays a run by one chunk at most. Workers spin for a bounded time between runs and then sleep. */
#ifndef APUS_POOL_H
#define APUS_POOL_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct apus_pool apus_pool;

/* Work on indices [begin, end). `worker` is in [0, apus_pool_threads) and no two concurrent calls share it. */
typedef void (*apus_range_fn)(void *context, int64_t begin, int64_t end, int worker);

/* A pool of `threads` threads, the caller of a run included; threads <= 0: the CPUs this process may use, by affinity
 * and control-group quota. NULL when out of memory or threads. */
apus_pool *apus_pool_create(int threads);

/* Stops and joins the threads. No run may be under way. */
void apus_pool_destroy(apus_pool *pool);

int apus_pool_threads(const apus_pool *pool);

/* Runs fn over [0, count) in chunks of at most `grain` indices and returns when all are done. The caller takes part.
 * Calls from several threads are served one at a time; a call from inside a run is done inline by its caller. */
void apus_pool_run(apus_pool *pool, int64_t count, int64_t grain, apus_range_fn fn, void *context);

/* A 64-byte aligned buffer of at least `bytes` bytes that belongs to `worker` until the next call for this worker;
 * only from inside a run. NULL when out of memory. */
void *apus_pool_scratch(apus_pool *pool, int worker, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
