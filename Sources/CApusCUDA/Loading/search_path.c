#define _GNU_SOURCE
#include "apus_cuda_loading.h"
#include "text.h"

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Appends `folder` unless it is already listed. An empty name stands for the dynamic loader's own search. */
static void add(apus_text *path, const char *folder) {
    size_t length = strlen(folder);
    if (strchr(folder, ':')) return;
    for (const char *at = path->text; at;) {
        const char *end = strchrnul(at, ':');
        if ((size_t)(end - at) == length && memcmp(at, folder, length) == 0) return;
        at = *end ? end + 1 : NULL;
    }
    apus_text_append(path, path->text ? ":%s" : "%s", folder);
}

static void add_list(apus_text *path, const char *list) {
    char *copy = list ? strdup(list) : NULL;
    char *rest = copy;
    for (char *folder; copy && (folder = strsep(&rest, ":"));)
        if (folder[0] == '/') add(path, folder);
    free(copy);
}

/* Appends the folders that prefix + pattern names, the last in order of name (the newest version) first. Glob's special
 * characters are literal in `prefix`. */
static void add_pattern(apus_text *path, const char *prefix, const char *pattern) {
    if (!prefix || prefix[0] != '/') return;
    apus_text whole = {0};
    for (const char *c = prefix; *c; c++) apus_text_append(&whole, strchr("*?[]\\", *c) ? "\\%c" : "%c", *c);
    apus_text_append(&whole, "%s", pattern);
    char *text = apus_text_take(&whole);
    glob_t found;
    if (text && glob(text, GLOB_ONLYDIR, NULL, &found) == 0) {
        for (size_t i = found.gl_pathc; i > 0; i--) add(path, found.gl_pathv[i - 1]);
        globfree(&found);
    }
    free(text);
}

static void add_python(apus_text *path, const char *prefix) {
    add_pattern(path, prefix, "/lib/python3*/site-packages/nvidia/*/lib");
    add_pattern(path, prefix, "/lib/python3*/dist-packages/nvidia/*/lib");
    add_pattern(path, prefix, "/local/lib/python3*/dist-packages/nvidia/*/lib");
}

/* The environment of the first python3 on the PATH, as named there and as its links resolve. */
static void add_python_on_path(apus_text *path) {
    const char *list = getenv("PATH");
    char *copy = list ? strdup(list) : NULL;
    char *rest = copy;
    for (char *folder; copy && (folder = strsep(&rest, ":"));) {
        char name[PATH_MAX], resolved[PATH_MAX];
        if (folder[0] != '/' || snprintf(name, sizeof name, "%s/python3", folder) >= (int)sizeof name) continue;
        if (access(name, X_OK) != 0) continue;
        *strrchr(name, '/') = 0;
        char *bin = strrchr(name, '/');
        if (bin) *bin = 0;
        add_python(path, name);
        if (snprintf(name, sizeof name, "%s/python3", folder) < (int)sizeof name && realpath(name, resolved)) {
            for (int levels = 0; levels < 2; levels++) {
                char *slash = strrchr(resolved, '/');
                if (slash) *slash = 0;
            }
            add_python(path, resolved);
        }
        break;
    }
    free(copy);
}

char *apus_cuda_search_path(void) {
    static const char *const usual[] = {
        "/usr/local/cuda/lib64",      "/usr/local/cuda-1[2-9]*/lib64", "/usr/local/nvidia/lib64",
        "/usr/local/nvidia/lib",      "/usr/lib/x86_64-linux-gnu",     "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",                 "/usr/lib/wsl/lib",              "/opt/cuda/lib64",
        "/run/opengl-driver/lib",
    };
    static const char *const homes[] = {"CUDA_HOME", "CUDA_PATH"};
    apus_text path = {0};
    add_list(&path, getenv("LD_LIBRARY_PATH"));
    for (size_t i = 0; i < sizeof homes / sizeof *homes; i++) {
        add_pattern(&path, getenv(homes[i]), "/lib64");
        add_pattern(&path, getenv(homes[i]), "/lib");
        add_pattern(&path, getenv(homes[i]), "/targets/*/lib");
    }
    add(&path, "");
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) add_pattern(&path, "/", usual[i] + 1);
    add_python(&path, getenv("VIRTUAL_ENV"));
    add_pattern(&path, getenv("CONDA_PREFIX"), "/lib");
    add_python(&path, getenv("CONDA_PREFIX"));
    add_python_on_path(&path);
    add_pattern(&path, getenv("HOME"), "/.local/lib/python3*/site-packages/nvidia/*/lib");
    return apus_text_take(&path);
}
