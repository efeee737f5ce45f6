#define _GNU_SOURCE
#include "arena.h"

#include <pthread.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* A block is filled from its start and freed with the last weight in it: weights of a model come and go together. Each
 * allocation is preceded by a line that names its block. */
typedef struct {
    uint8_t *data;
    size_t size, used, live;
} block;

enum { LINE = 64 };
static const size_t HUGE_PAGE = 2u << 20, BLOCK_SIZE = 32u << 20;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *open_block;

static block *new_block(size_t size) {
    block *b = malloc(sizeof *b);
    if (!b) return NULL;
    size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    *b = (block){aligned_alloc(HUGE_PAGE, size), size, 0, 0};
    if (!b->data) {
        free(b);
        return NULL;
    }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(b->data, size, MADV_HUGEPAGE);
#endif
    return b;
}

static void free_block(block *b) {
    free(b->data);
    free(b);
}

/* A block with room for `bytes`; a large weight gets its own. */
static block *block_for(size_t bytes) {
    if (open_block && open_block->size - open_block->used >= bytes) return open_block;
    block *b = new_block(bytes > BLOCK_SIZE / 4 ? bytes : BLOCK_SIZE);
    if (b && b->size - bytes >= BLOCK_SIZE / 2) {
        if (open_block && open_block->live == 0) free_block(open_block);
        open_block = b;
    }
    return b;
}

uint8_t *apus_arena_allocate(size_t bytes) {
    bytes = (bytes + LINE - 1) / LINE * LINE + LINE;
    pthread_mutex_lock(&lock);
    block *b = block_for(bytes);
    uint8_t *data = NULL;
    if (b) {
        data = b->data + b->used + LINE;
        *(block **)(data - LINE) = b;
        b->used += bytes;
        b->live++;
    }
    pthread_mutex_unlock(&lock);
    return data;
}

void apus_arena_free(uint8_t *data) {
    if (!data) return;
    pthread_mutex_lock(&lock);
    block *b = *(block **)(data - LINE);
    b->live--;
    if (b->live == 0) {
        if (b == open_block) open_block = NULL;
        free_block(b);
    }
    pthread_mutex_unlock(&lock);
}
