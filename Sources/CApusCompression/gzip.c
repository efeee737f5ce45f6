#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

#include "library.h"

/* zlib's stream, as its ABI has been since 1.0. */
typedef struct {
    const unsigned char *next_in;
    unsigned avail_in;
    unsigned long total_in;
    unsigned char *next_out;
    unsigned avail_out;
    unsigned long total_out;
    const char *msg;
    void *state;
    void *(*zalloc)(void *, unsigned, unsigned);
    void (*zfree)(void *, void *);
    void *opaque;
    int data_type;
    unsigned long adler;
    unsigned long reserved;
} z_stream;

enum { Z_NO_FLUSH = 0, Z_OK = 0, Z_STREAM_END = 1, Z_NEED_DICT = 2, Z_BUF_ERROR = -5, GZIP_ONLY = 16, WINDOW_BITS = 15 };

static const char *const symbols[] = {"inflateInit2_", "inflate", "inflateReset", "inflateEnd"};
static union {
    void *addresses[4];
    struct {
        int (*init)(z_stream *, int window_bits, const char *version, int stream_size);
        int (*inflate)(z_stream *, int flush);
        int (*reset)(z_stream *);
        int (*end)(z_stream *);
    } call;
} zlib;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char problem[512];

static void open_library(void) {
    apus_compression_open("libz.so.1", "zlib1g", symbols, zlib.addresses, 4, problem, sizeof problem);
}

static const char *load(void) {
    pthread_once(&once, open_library);
    return problem[0] ? problem : NULL;
}

static void *create(void) {
    z_stream *stream = calloc(1, sizeof *stream);
    /* Of the version only the first character counts. */
    if (stream && zlib.call.init(stream, WINDOW_BITS + GZIP_ONLY, "1", (int)sizeof *stream) == Z_OK) return stream;
    free(stream);
    return NULL;
}

static void destroy(void *state) {
    zlib.call.end(state);
    free(state);
}

static apus_decompression_status run(void *state, const void *input, size_t input_count, size_t *consumed, void *output,
                                     size_t output_count, size_t *produced, const char **message) {
    z_stream *stream = state;
    unsigned in = input_count > UINT_MAX ? UINT_MAX : (unsigned)input_count;
    unsigned out = output_count > UINT_MAX ? UINT_MAX : (unsigned)output_count;
    stream->next_in = input;
    stream->avail_in = in;
    stream->next_out = output;
    stream->avail_out = out;
    int result = zlib.call.inflate(stream, Z_NO_FLUSH);
    *consumed = in - stream->avail_in;
    *produced = out - stream->avail_out;
    if (result == Z_OK || result == Z_BUF_ERROR) return APUS_DECOMPRESSION_MORE;
    if (result == Z_STREAM_END && zlib.call.reset(stream) == Z_OK) return APUS_DECOMPRESSION_END;
    *message = stream->msg ? stream->msg : result == Z_NEED_DICT ? "a preset dictionary is needed" : "out of memory";
    return APUS_DECOMPRESSION_ERROR;
}

const apus_compression_codec apus_gzip_codec = {load, create, destroy, run};
