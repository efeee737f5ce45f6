/* What gzip.c and zstd.c share. */
#ifndef APUS_COMPRESSION_LIBRARY_H
#define APUS_COMPRESSION_LIBRARY_H
#include "apus_compression.h"

/* One format's functions. A state is what the format's library keeps of a stream. */
typedef struct {
    const char *(*load)(void); /* NULL, or why the library cannot be used */
    void *(*create)(void);
    void (*destroy)(void *state);
    apus_decompression_status (*run)(void *state, const void *input, size_t input_count, size_t *consumed, void *output,
                                     size_t output_count, size_t *produced, const char **message);
} apus_compression_codec;

extern const apus_compression_codec apus_gzip_codec;
extern const apus_compression_codec apus_zstd_codec;

/* Opens a library and fills `functions` with the addresses of `symbols`; writes into `message` why not. */
int apus_compression_open(const char *file, const char *package, const char *const *symbols, void **functions, int count,
                          char *message, size_t size);
#endif
