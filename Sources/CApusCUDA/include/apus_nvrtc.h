/* NVRTC, the run-time compiler of CUDA C++, from CUDA 12.0 on. Functions give 0 or an NVRTC error code. */
#ifndef APUS_NVRTC_H
#define APUS_NVRTC_H
#include <stddef.h>

typedef struct apus_nvrtc_program_state *apus_nvrtc_program;

typedef struct {
    int (*nvrtcVersion)(int *major, int *minor);
    const char *(*nvrtcGetErrorString)(int code);
    int (*nvrtcCreateProgram)(apus_nvrtc_program *program, const char *source, const char *name, int header_count,
                              const char *const *headers, const char *const *header_names);
    int (*nvrtcDestroyProgram)(apus_nvrtc_program *program);
    int (*nvrtcCompileProgram)(apus_nvrtc_program program, int option_count, const char *const *options);
    int (*nvrtcGetProgramLogSize)(apus_nvrtc_program program, size_t *size);
    int (*nvrtcGetProgramLog)(apus_nvrtc_program program, char *log);
    int (*nvrtcGetCUBINSize)(apus_nvrtc_program program, size_t *size);
    int (*nvrtcGetCUBIN)(apus_nvrtc_program program, char *cubin);
    int (*nvrtcGetPTXSize)(apus_nvrtc_program program, size_t *size);
    int (*nvrtcGetPTX)(apus_nvrtc_program program, char *ptx);
} apus_nvrtc;
#endif
