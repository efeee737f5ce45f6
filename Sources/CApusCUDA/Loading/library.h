#ifndef APUS_CUDA_LIBRARY_H
#define APUS_CUDA_LIBRARY_H
#include "apus_cuda_loading.h"
#include "text.h"

/* A function of a library and where its address goes in the table. */
typedef struct {
    const char *symbol;
    size_t offset;
    int optional;
} apus_symbol;

/* What is looked for. The names are tried in order, each in every folder. */
typedef struct {
    const char *title;            /* for messages: "the CUDA driver" */
    const char *const *names;     /* "libcuda.so.1", ..., NULL */
    const char *pattern;          /* glob of other versions' names, for messages */
    const char *const *refused;   /* names of versions newer than the driver, for messages, or NULL */
    const char *expected;         /* "CUDA 12.0 or newer" */
    const apus_symbol *symbols;
    size_t symbol_count;
    size_t table_size;
    /* After the functions are there: the version, and 0 or a reason (appended to `why`) not to use the library. */
    int (*accept)(void *table, const char *path, int *version, apus_text *why);
} apus_library;

/* Searches, fills `table` on success, and reports. */
void apus_library_load(const apus_library *library, const char *folders, int driver_version, void *table,
                       apus_library_report *report);
#endif
