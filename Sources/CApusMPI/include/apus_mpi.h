/* MPI, opened at run time: nothing of it is needed to build. Open MPI and MPICH (with Intel MPI, Cray MPICH and MVAPICH,
 * which share MPICH's ABI) differ in what a handle is, so each has a table of its own behind these functions. */
#ifndef APUS_MPI_H
#define APUS_MPI_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uintptr_t apus_mpi_group;   /* an MPI_Comm */
typedef uintptr_t apus_mpi_request; /* an MPI_Request */

typedef enum {
    APUS_MPI_BYTES = 0,
    APUS_MPI_FLOAT32,
    APUS_MPI_FLOAT64,
    APUS_MPI_INT32,
    APUS_MPI_INT64,
    APUS_MPI_TYPE_COUNT
} apus_mpi_type;

typedef enum { APUS_MPI_SUM = 0, APUS_MPI_MAX, APUS_MPI_REDUCTION_COUNT } apus_mpi_reduction;

enum { APUS_MPI_UNDEFINED = -32766, APUS_MPI_TEXT_BYTES = 8192 };

/* Functions give 0 or an MPI error code. Calls must not overlap in time: MPI is initialised as MPI_THREAD_SERIALIZED. Every
 * transfer starts at once and ends when `test` says so; until then its memory belongs to MPI. */
typedef struct {
    /* `threads`: 1 when the library allows calls from several threads, one at a time. */
    int (*initialize)(int *threads);
    int (*finalize)(void);
    int (*rank)(apus_mpi_group group, int *rank);
    int (*size)(apus_mpi_group group, int *size);
    apus_mpi_group (*world)(void);
    int (*split)(apus_mpi_group group, int color, int key, apus_mpi_group *part);
    int (*release)(apus_mpi_group group);

    int (*all_reduce)(void *buffer, int count, apus_mpi_type type, apus_mpi_reduction reduction, apus_mpi_group group,
                      apus_mpi_request *request);
    /* `count` elements of each rank, one rank's after the other in `into`. */
    int (*all_gather)(const void *from, void *into, int count, apus_mpi_type type, apus_mpi_group group,
                      apus_mpi_request *request);
    /* `count` elements to each rank and from each. */
    int (*all_to_all)(const void *from, void *into, int count, apus_mpi_type type, apus_mpi_group group,
                      apus_mpi_request *request);
    /* `count` elements of each rank's share. */
    int (*reduce_scatter)(const void *from, void *into, int count, apus_mpi_type type, apus_mpi_reduction reduction,
                          apus_mpi_group group, apus_mpi_request *request);
    int (*broadcast)(void *buffer, int count, apus_mpi_type type, int root, apus_mpi_group group,
                     apus_mpi_request *request);
    int (*barrier)(apus_mpi_group group, apus_mpi_request *request);
    int (*send)(const void *buffer, int count, apus_mpi_type type, int to, int tag, apus_mpi_group group,
                apus_mpi_request *request);
    int (*receive)(void *buffer, int count, apus_mpi_type type, int from, int tag, apus_mpi_group group,
                   apus_mpi_request *request);
    int (*test)(apus_mpi_request *request, int *done);

    /* Texts of at most APUS_MPI_TEXT_BYTES, with a zero at the end. */
    int (*error_text)(int code, char *text);
    int (*version_text)(char *text);
} apus_mpi;

typedef enum { APUS_MPI_ANY = 0, APUS_MPI_OPEN_MPI, APUS_MPI_MPICH } apus_mpi_kind;

/* Opens a library and fills the table, at most once in a process: a second call gives what the first gave.
 *   path: of the library, or NULL for the usual names of `kind` in the dynamic loader's folders.
 *   message, size: takes what was expected and what was found where no library is there.
 * Gives which kind was opened, or APUS_MPI_ANY where there is none. */
apus_mpi_kind apus_mpi_open(apus_mpi_kind kind, const char *path, apus_mpi *table, char *message, size_t size);

#ifdef __cplusplus
}
#endif
#endif
