#ifndef APUS_MPI_LIBRARY_H
#define APUS_MPI_LIBRARY_H
#include "apus_mpi.h"

/* Each looks the functions and handles up in a library opened by dlopen, fills `table`, and gives 1; or writes the name of
 * the first that is absent to `absent` and gives 0. */
int apus_mpi_bind_openmpi(void *library, apus_mpi *table, const char **absent);
int apus_mpi_bind_mpich(void *library, apus_mpi *table, const char **absent);

#endif
