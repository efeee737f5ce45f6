#define _GNU_SOURCE
#include "library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* The names of a kind's library, in the order they are tried. */
static const char *const openmpi_names[] = {"libmpi.so.40", NULL};
static const char *const mpich_names[] = {"libmpich.so.12", "libmpi.so.12", NULL};

static apus_mpi_kind opened;
static apus_mpi functions;

static void append(char *message, size_t size, const char *text) {
    size_t length = strlen(message);
    if (length + 1 < size) snprintf(message + length, size - length, "%s", text);
}

/* Open MPI's plugins look for its symbols among the global ones. */
static apus_mpi_kind try_library(const char *name, char *message, size_t size) {
    void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        const char *reason = dlerror();
        append(message, size, "; ");
        append(message, size, reason ? reason : name);
        return APUS_MPI_ANY;
    }
    const char *absent = "";
    if (dlsym(library, "ompi_mpi_comm_world")) {
        if (apus_mpi_bind_openmpi(library, &functions, &absent)) return APUS_MPI_OPEN_MPI;
    } else if (apus_mpi_bind_mpich(library, &functions, &absent)) {
        return APUS_MPI_MPICH;
    }
    append(message, size, "; ");
    append(message, size, name);
    append(message, size, " lacks ");
    append(message, size, absent);
    dlclose(library);
    return APUS_MPI_ANY;
}

static apus_mpi_kind try_names(const char *const *names, char *message, size_t size) {
    apus_mpi_kind kind = APUS_MPI_ANY;
    for (int i = 0; names[i] && kind == APUS_MPI_ANY; i++) kind = try_library(names[i], message, size);
    return kind;
}

apus_mpi_kind apus_mpi_open(apus_mpi_kind kind, const char *path, apus_mpi *table, char *message, size_t size) {
    if (size) message[0] = 0;
    if (opened == APUS_MPI_ANY) {
        const char *expected = kind == APUS_MPI_OPEN_MPI ? "expected Open MPI (libmpi.so.40, Debian's package libopenmpi3)"
                               : kind == APUS_MPI_MPICH  ? "expected MPICH (libmpich.so.12 or libmpi.so.12, Debian's package libmpich12)"
                                                         : "expected Open MPI (libmpi.so.40) or MPICH (libmpich.so.12 or libmpi.so.12)";
        append(message, size, expected);
        append(message, size, ", found none that loads");
        if (path) {
            opened = try_library(path, message, size);
        } else {
            if (kind != APUS_MPI_MPICH) opened = try_names(openmpi_names, message, size);
            if (opened == APUS_MPI_ANY && kind != APUS_MPI_OPEN_MPI) opened = try_names(mpich_names, message, size);
        }
    }
    if (opened != APUS_MPI_ANY) *table = functions;
    return opened;
}
