/* Open MPI: handles are addresses of objects in the library. */
#define _GNU_SOURCE
#include "library.h"

typedef void *mpi_comm;
typedef void *mpi_datatype;
typedef void *mpi_op;
typedef void *mpi_request;
typedef void *mpi_errhandler;
typedef struct mpi_status mpi_status;

#define IN_PLACE ((void *)1)
#define STATUS_IGNORE NULL

static int find_handles(void *library, const char **absent);
#include "calls.h"

static int find_handles(void *library, const char **absent) {
    const struct {
        const char *name;
        void **place;
    } handles[] = {
        {"ompi_mpi_comm_world", &world},
        {"ompi_mpi_errors_return", &errors_return},
        {"ompi_mpi_byte", &types[APUS_MPI_BYTES]},
        {"ompi_mpi_float", &types[APUS_MPI_FLOAT32]},
        {"ompi_mpi_double", &types[APUS_MPI_FLOAT64]},
        {"ompi_mpi_int32_t", &types[APUS_MPI_INT32]},
        {"ompi_mpi_int64_t", &types[APUS_MPI_INT64]},
        {"ompi_mpi_op_sum", &reductions[APUS_MPI_SUM]},
        {"ompi_mpi_op_max", &reductions[APUS_MPI_MAX]},
    };
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) {
        *handles[i].place = dlsym(library, handles[i].name);
        if (!*handles[i].place) {
            *absent = handles[i].name;
            return 0;
        }
    }
    return 1;
}

int apus_mpi_bind_openmpi(void *library, apus_mpi *table, const char **absent) { return bind(library, table, absent); }
