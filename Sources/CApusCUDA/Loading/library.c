#define _GNU_SOURCE
#include "library.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void finish(apus_library_report *report, apus_library_status status, int version, const char *path, apus_text *message) {
    *report = (apus_library_report){status, version, strdup(path), apus_text_take(message)};
    if (report->path && report->message) return;
    fprintf(stderr, "apus: out of memory\n");
    abort();
}

void apus_library_report_free(apus_library_report *report) {
    free(report->path);
    free(report->message);
    *report = (apus_library_report){0};
}

/* The state of one search: the table being filled, and the file that came closest to being usable. */
typedef struct {
    const apus_library *library;
    void *table;
    apus_library_status status;
    int version;
    char path[PATH_MAX];
    apus_text problems;
} search;

static void note(search *s, apus_library_status status, int version, const char *path) {
    if (s->status == APUS_LIBRARY_MISSING) {
        s->status = status;
        s->version = version;
        snprintf(s->path, sizeof s->path, "%s", path);
    }
    if (s->problems.length) apus_text_append(&s->problems, "; ");
}

static int try_file(search *s, const char *file) {
    const apus_library *library = s->library;
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *reason = dlerror();
        /* A bare name that the dynamic loader does not know is no finding. */
        if (!strchr(file, '/') && reason && strstr(reason, "cannot open shared object file")) return 0;
        note(s, APUS_LIBRARY_BROKEN, 0, file);
        apus_text_append(&s->problems, "found %s, which does not load: %s", file, reason ? reason : "no reason given");
        return 0;
    }
    char path[PATH_MAX];
    struct link_map *map = NULL;
    int named = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name && map->l_name[0];
    snprintf(path, sizeof path, "%s", named ? map->l_name : file);

    void *table = calloc(1, library->table_size);
    const char *absent = table ? NULL : "memory";
    for (size_t i = 0; table && i < library->symbol_count; i++) {
        void *address = dlsym(handle, library->symbols[i].symbol);
        if (!address && !library->symbols[i].optional && !absent) absent = library->symbols[i].symbol;
        memcpy((char *)table + library->symbols[i].offset, &address, sizeof address);
    }
    apus_text why = {0};
    int version = 0;
    /* The version is asked for even when a function is absent: it says why. */
    int refused = table ? library->accept(table, path, &version, &why) : 1;
    if (!absent && !refused) {
        memcpy(s->table, table, library->table_size);
        s->version = version;
        snprintf(s->path, sizeof s->path, "%s", path);
        free(why.text);
        free(table);
        return 1;
    }
    note(s, APUS_LIBRARY_TOO_OLD, version, path);
    apus_text_append(&s->problems, "found %s", path);
    if (why.length)
        apus_text_append(&s->problems, ", %s", why.text);
    else
        apus_text_append(&s->problems, " (version %d.%d), which lacks %s", version / 1000, version % 1000 / 10, absent);
    free(why.text);
    free(table);
    dlclose(handle);
    return 0;
}

/* Tries `name` in every folder of the list. */
static int try_name(search *s, const char *name, const char *folders) {
    char *copy = strdup(folders), *rest = copy;
    int loaded = 0;
    for (char *folder; copy && !loaded && (folder = strsep(&rest, ":"));) {
        char file[PATH_MAX];
        if (folder[0] == 0) {
            loaded = try_file(s, name);
        } else if (snprintf(file, sizeof file, "%s/%s", folder, name) < (int)sizeof file && access(file, F_OK) == 0) {
            loaded = try_file(s, file);
        }
    }
    free(copy);
    return loaded;
}

/* The first file in the folders that `pattern` names, or 0. */
static int find_other(const char *pattern, const char *folders, char *result, size_t size) {
    char *copy = strdup(folders), *rest = copy;
    int seen = 0;
    for (char *folder; copy && !seen && (folder = strsep(&rest, ":"));) {
        char file[PATH_MAX];
        glob_t found;
        if (folder[0] == 0 || snprintf(file, sizeof file, "%s/%s", folder, pattern) >= (int)sizeof file) continue;
        if (glob(file, 0, NULL, &found) != 0) continue;
        seen = snprintf(result, size, "%s", found.gl_pathv[0]) > 0;
        globfree(&found);
    }
    free(copy);
    return seen;
}

static void describe_absence(search *s, const char *folders, int driver_version) {
    const apus_library *library = s->library;
    for (int i = 0; library->refused && library->refused[i]; i++) {
        char other[PATH_MAX];
        if (!find_other(library->refused[i], folders, other, sizeof other)) continue;
        note(s, APUS_LIBRARY_TOO_NEW, 0, other);
        apus_text_append(&s->problems, "found %s, but the driver is of CUDA %d.%d and runs nothing newer than CUDA %d", other,
                         driver_version / 1000, driver_version % 1000 / 10, driver_version / 1000);
        return;
    }
    char other[PATH_MAX];
    if (s->status == APUS_LIBRARY_MISSING && find_other(library->pattern, folders, other, sizeof other)) {
        note(s, APUS_LIBRARY_TOO_OLD, 0, other);
        apus_text_append(&s->problems, "found only %s", other);
        return;
    }
    if (s->status != APUS_LIBRARY_MISSING) return;
    apus_text_append(&s->problems, "searched ");
    char *copy = strdup(folders), *rest = copy;
    int count = 0;
    for (char *folder; copy && (folder = strsep(&rest, ":"));)
        apus_text_append(&s->problems, "%s%s", count++ ? ", " : "", folder[0] ? folder : "the dynamic loader's folders");
    free(copy);
}

void apus_library_load(const apus_library *library, const char *folders, int driver_version, void *table,
                       apus_library_report *report) {
    char *own = folders ? NULL : apus_cuda_search_path();
    const char *list = folders ? folders : own ? own : "";
    search s = {.library = library, .table = table, .status = APUS_LIBRARY_MISSING};
    apus_text message = {0};
    for (int i = 0; library->names[i]; i++) {
        if (!try_name(&s, library->names[i], list)) continue;
        free(s.problems.text);
        free(own);
        finish(report, APUS_LIBRARY_LOADED, s.version, s.path, &message);
        return;
    }
    describe_absence(&s, list, driver_version);
    apus_text_append(&message, "%s: expected ", library->title);
    for (int i = 0; library->names[i]; i++) apus_text_append(&message, "%s%s", i ? " or " : "", library->names[i]);
    apus_text_append(&message, " (%s); %s", library->expected, s.problems.text ? s.problems.text : "");
    free(s.problems.text);
    free(own);
    finish(report, s.status, s.version, s.path, &message);
}
