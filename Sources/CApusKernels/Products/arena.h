/* Memory for packed weights, cut from large blocks that the kernel may back with huge pages: a weight of a few hundred
 * kilobytes alone would lie on small pages, and streaming it would pay a page walk every 4 KiB. */
#ifndef APUS_ARENA_H
#define APUS_ARENA_H
#include <stddef.h>
#include <stdint.h>

/* 64-byte aligned; NULL when out of memory. */
uint8_t *apus_arena_allocate(size_t bytes);
void apus_arena_free(uint8_t *data);

#endif
