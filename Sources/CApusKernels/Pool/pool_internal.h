/* What the kernels need of the pool beyond its public header. */
#ifndef APUS_POOL_INTERNAL_H
#define APUS_POOL_INTERNAL_H
#include "../include/apus_pool.h"

/* What a thread was doing before it entered a pool. */
typedef struct {
    apus_pool *pool;
    int worker;
    int locked;
} apus_pool_entry;

/* Takes the pool for the calling thread until apus_pool_leave (runs in between do not release it), so that what stands in
 * the shared scratch stays valid. Inside a run of the pool it costs nothing and takes nothing. */
apus_pool_entry apus_pool_enter(apus_pool *pool);
void apus_pool_leave(apus_pool *pool, apus_pool_entry entry);

/* Whether the calling thread is inside a run of the pool: then it may not use the shared scratch. */
int apus_pool_is_nested(const apus_pool *pool);

/* Scratch of the products, apart from apus_pool_scratch so that a run's own scratch survives a nested product. */
void *apus_pool_product_scratch(apus_pool *pool, int worker, size_t bytes);

/* Scratch of the thread that has entered the pool, read by all workers. `slot` is in [0, APUS_SHARED_SLOTS). */
enum { APUS_SHARED_SLOTS = 6 };
void *apus_pool_shared_scratch(apus_pool *pool, int slot, size_t bytes);

#endif
