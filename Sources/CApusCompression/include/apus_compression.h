/* Decompression of gzip and zstd streams, by the system's zlib (libz.so.1) and libzstd (libzstd.so.1).
 *
 * Both are opened at run time, behind declarations of our own: nothing of theirs is needed to build. */
#ifndef APUS_COMPRESSION_H
#define APUS_COMPRESSION_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { APUS_COMPRESSION_GZIP, APUS_COMPRESSION_ZSTD } apus_compression_format;

typedef enum {
    APUS_DECOMPRESSION_MORE, /* wants more input, or more room for output */
    APUS_DECOMPRESSION_END,  /* a gzip member or zstd frame ended; another may follow */
    APUS_DECOMPRESSION_ERROR /* the input is damaged; no further call may follow */
} apus_decompression_status;

typedef struct apus_decompressor apus_decompressor;

/* NULL when the library is missing or unusable or memory is out; `*message` then says which, in text that stays valid. */
apus_decompressor *apus_decompressor_create(apus_compression_format format, const char **message);

void apus_decompressor_destroy(apus_decompressor *decompressor);

/* Decompresses from `input` into `output` until one of them is used up or a member ends. Writes how much of each was used;
 * on an error, `*message` is the library's reason, valid as long as the decompressor. */
apus_decompression_status apus_decompressor_run(apus_decompressor *decompressor, const void *input, size_t input_count,
                                                size_t *consumed, void *output, size_t output_count, size_t *produced,
                                                const char **message);

#ifdef __cplusplus
}
#endif
#endif
