#define _GNU_SOURCE
#include "library.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIELD(name) {#name, offsetof(apus_nvrtc, name), 0}

static const apus_symbol symbols[] = {
    FIELD(nvrtcVersion),        FIELD(nvrtcGetErrorString), FIELD(nvrtcCreateProgram),  FIELD(nvrtcDestroyProgram),
    FIELD(nvrtcCompileProgram), FIELD(nvrtcGetProgramLogSize), FIELD(nvrtcGetProgramLog), FIELD(nvrtcGetCUBINSize),
    FIELD(nvrtcGetCUBIN),       FIELD(nvrtcGetPTXSize),     FIELD(nvrtcGetPTX),
};

/* NVRTC looks for its built-in declarations by bare name when it first compiles, and a folder of a Python environment is
 * on no list of the dynamic loader: so they are opened here by full path, beside the library. */
static int open_builtins(const char *path, int major, int minor, apus_text *why) {
    char name[64], resolved[PATH_MAX];
    snprintf(name, sizeof name, "libnvrtc-builtins.so.%d.%d", major, minor);
    const char *places[] = {path, realpath(path, resolved) ? resolved : path};
    for (int i = 0; i < 2; i++) {
        const char *slash = strrchr(places[i], '/');
        char file[PATH_MAX];
        if (!slash) continue;
        if (snprintf(file, sizeof file, "%.*s/%s", (int)(slash - places[i]), places[i], name) >= (int)sizeof file) continue;
        if (access(file, F_OK) != 0) continue;
        if (dlopen(file, RTLD_NOW | RTLD_GLOBAL)) return 0;
        apus_text_append(why, "whose %s does not load: %s", name, dlerror());
        return 1;
    }
    if (dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return 0;
    apus_text_append(why, "which lacks %s beside it", name);
    return 1;
}

static int accept(void *table, const char *path, int *version, apus_text *why) {
    const apus_nvrtc *nvrtc = table;
    int major = 0, minor = 0;
    if (!nvrtc->nvrtcVersion || nvrtc->nvrtcVersion(&major, &minor) != 0) {
        apus_text_append(why, "which does not tell its version");
        return 1;
    }
    *version = 1000 * major + 10 * minor;
    if (*version < APUS_CUDA_OLDEST) {
        apus_text_append(why, "whose version is %d.%d", major, minor);
        return 1;
    }
    return open_builtins(path, major, minor, why);
}

void apus_cuda_load_nvrtc(const char *folders, int driver_version, apus_nvrtc *nvrtc, apus_library_report *report) {
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", NULL};
    int old_driver = driver_version > 0 && driver_version < 13000;
    apus_library library = {
        .title = "NVRTC, the CUDA run-time compiler",
        .names = old_driver ? names + 1 : names,
        .pattern = "libnvrtc.so*",
        .refused = old_driver ? (const char *const[]){names[0], NULL} : NULL,
        .expected = "of CUDA 12.0 or newer",
        .symbols = symbols,
        .symbol_count = sizeof symbols / sizeof *symbols,
        .table_size = sizeof(apus_nvrtc),
        .accept = accept,
    };
    apus_library_load(&library, folders, driver_version, nvrtc, report);
}
