#ifndef APUS_CUDA_TEXT_H
#define APUS_CUDA_TEXT_H
#include <stddef.h>

/* A growing string. `text` is NULL until something was appended or memory ran out. */
typedef struct {
    char *text;
    size_t length;
    size_t capacity;
} apus_text;

void apus_text_append(apus_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The string, or an empty one; the caller frees it. NULL when memory has run out. */
char *apus_text_take(apus_text *text);
#endif
