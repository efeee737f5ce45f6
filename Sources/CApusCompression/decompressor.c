#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "library.h"

struct apus_decompressor {
    const apus_compression_codec *codec;
    void *state;
};

int apus_compression_open(const char *file, const char *package, const char *const *symbols, void **functions, int count,
                          char *message, size_t size) {
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *reason = dlerror();
        snprintf(message, size, "expected the library %s (Debian's package %s), found none that loads: %s", file, package,
                 reason ? reason : "no reason given");
        return 0;
    }
    for (int i = 0; i < count; i++) {
        functions[i] = dlsym(library, symbols[i]);
        if (!functions[i]) {
            snprintf(message, size, "expected the function %s in %s, found none", symbols[i], file);
            dlclose(library);
            return 0;
        }
    }
    return 1;
}

apus_decompressor *apus_decompressor_create(apus_compression_format format, const char **message) {
    const apus_compression_codec *codec = format == APUS_COMPRESSION_GZIP ? &apus_gzip_codec : &apus_zstd_codec;
    const char *reason = codec->load();
    if (reason) {
        *message = reason;
        return NULL;
    }
    apus_decompressor *result = malloc(sizeof *result);
    void *state = result ? codec->create() : NULL;
    if (!state) {
        free(result);
        *message = "out of memory";
        return NULL;
    }
    *result = (apus_decompressor){codec, state};
    return result;
}

void apus_decompressor_destroy(apus_decompressor *decompressor) {
    decompressor->codec->destroy(decompressor->state);
    free(decompressor);
}

apus_decompression_status apus_decompressor_run(apus_decompressor *decompressor, const void *input, size_t input_count,
                                                size_t *consumed, void *output, size_t output_count, size_t *produced,
                                                const char **message) {
    return decompressor->codec->run(decompressor->state, input, input_count, consumed, output, output_count, produced,
                                    message);
}
