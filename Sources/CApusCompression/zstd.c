#include <pthread.h>

#include "library.h"

/* libzstd's buffers, as its stable ABI has them since 1.0. */
typedef struct {
    const void *source;
    size_t size, position;
} in_buffer;
typedef struct {
    void *destination;
    size_t size, position;
} out_buffer;

/* ZSTD_d_windowLogMax, and the largest window that the format's encoders make (--long=31). */
enum { WINDOW_LOG_MAX = 100, LARGEST_WINDOW_LOG = 31 };

static const char *const symbols[] = {"ZSTD_createDCtx",       "ZSTD_freeDCtx", "ZSTD_DCtx_setParameter",
                                      "ZSTD_decompressStream", "ZSTD_isError",  "ZSTD_getErrorName"};
static union {
    void *addresses[6];
    struct {
        void *(*create)(void);
        size_t (*free)(void *);
        size_t (*set)(void *, int parameter, int value);
        size_t (*decompress)(void *, out_buffer *, in_buffer *);
        unsigned (*is_error)(size_t);
        const char *(*error_name)(size_t);
    } call;
} zstd;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char problem[512];

static void open_library(void) {
    apus_compression_open("libzstd.so.1", "libzstd1", symbols, zstd.addresses, 6, problem, sizeof problem);
}

static const char *load(void) {
    pthread_once(&once, open_library);
    return problem[0] ? problem : NULL;
}

static void *create(void) {
    void *state = zstd.call.create();
    /* Where pointers have 32 bits the limit is lower and stays the library's own. */
    if (state) zstd.call.set(state, WINDOW_LOG_MAX, LARGEST_WINDOW_LOG);
    return state;
}

static void destroy(void *state) { zstd.call.free(state); }

static apus_decompression_status run(void *state, const void *input, size_t input_count, size_t *consumed, void *output,
                                     size_t output_count, size_t *produced, const char **message) {
    in_buffer in = {input, input_count, 0};
    out_buffer out = {output, output_count, 0};
    size_t result = zstd.call.decompress(state, &out, &in);
    *consumed = in.position;
    *produced = out.position;
    if (zstd.call.is_error(result)) {
        *message = zstd.call.error_name(result);
        return APUS_DECOMPRESSION_ERROR;
    }
    return result == 0 ? APUS_DECOMPRESSION_END : APUS_DECOMPRESSION_MORE;
}

const apus_compression_codec apus_zstd_codec = {load, create, destroy, run};
