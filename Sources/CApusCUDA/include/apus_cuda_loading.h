/* Finding and opening NVIDIA's libraries. Nothing is remembered here: each call searches anew. */
#ifndef APUS_CUDA_LOADING_H
#define APUS_CUDA_LOADING_H
#include "apus_cublaslt.h"
#include "apus_cuda_driver.h"
#include "apus_nccl.h"
#include "apus_nvrtc.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Versions are written as CUDA's: 1000 x major + 10 x minor. */
enum { APUS_CUDA_OLDEST = 12000 };

typedef enum {
    APUS_LIBRARY_LOADED = 0,
    APUS_LIBRARY_MISSING, /* no file of that name in any folder */
    APUS_LIBRARY_BROKEN,  /* a file was found that the dynamic loader refuses */
    APUS_LIBRARY_TOO_OLD, /* opened, but its version or its functions do not suffice */
    APUS_LIBRARY_TOO_NEW  /* makes code for a newer CUDA than the driver's */
} apus_library_status;

/* What a search gave. `path` and `message` are never NULL; free them with apus_library_report_free. */
typedef struct {
    apus_library_status status;
    int version;   /* 0 when unknown */
    char *path;    /* of the library, or of the file that came closest, or "" */
    char *message; /* "" when loaded; else what was expected, what was found, and where */
} apus_library_report;

void apus_library_report_free(apus_library_report *report);

/* The folders that are searched, separated by colons, in order: LD_LIBRARY_PATH, CUDA_HOME and CUDA_PATH, the dynamic
 * loader's own (an empty name), the usual ones, and the nvidia/<package>/lib folders of VIRTUAL_ENV, CONDA_PREFIX, the
 * python3 on the PATH and the user's own packages. Free it with free(). */
char *apus_cuda_search_path(void);

/* Each fills its table when report->status is APUS_LIBRARY_LOADED, and leaves it unchanged otherwise. `folders`: a list as
 * apus_cuda_search_path gives it, or NULL for that one. `driver_version`: CUDA version of the driver, or 0 when there is
 * none; a compiler or product library of a newer major version is refused, since the driver could not run what it makes. */
void apus_cuda_load_driver(const char *folders, apus_cuda_driver *driver, apus_library_report *report);
void apus_cuda_load_nvrtc(const char *folders, int driver_version, apus_nvrtc *nvrtc, apus_library_report *report);
void apus_cuda_load_cublaslt(const char *folders, int driver_version, apus_cublaslt *cublaslt, apus_library_report *report);
void apus_cuda_load_nccl(const char *folders, apus_nccl *nccl, apus_library_report *report);

#ifdef __cplusplus
}
#endif
#endif
