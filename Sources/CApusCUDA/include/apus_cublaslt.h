/* The part of cuBLASLt that matrix products need, from CUDA 12.0 on. Functions give 0 or a cuBLAS status. */
#ifndef APUS_CUBLASLT_H
#define APUS_CUBLASLT_H
#include "apus_cuda_driver.h"
#include <stddef.h>
#include <stdint.h>

typedef struct apus_cublaslt_context *apus_cublaslt_handle;
typedef struct apus_cublaslt_operation_state *apus_cublaslt_operation;
typedef struct apus_cublaslt_layout_state *apus_cublaslt_layout;
typedef struct apus_cublaslt_preference_state *apus_cublaslt_preference;

typedef struct {
    uint64_t data[8];
} apus_cublaslt_algorithm;

typedef struct {
    apus_cublaslt_algorithm algorithm;
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
} apus_cublaslt_heuristic;

/* Data types (cudaDataType), compute types (cublasComputeType_t) and attributes, with cuBLASLt's values. */
enum { APUS_CUBLAS_F32 = 0, APUS_CUBLAS_F16 = 2, APUS_CUBLAS_BF16 = 14 };
enum { APUS_CUBLAS_COMPUTE_F32 = 68 };
enum { APUS_CUBLASLT_OPERATION_TRANSPOSE_A = 3, APUS_CUBLASLT_OPERATION_TRANSPOSE_B = 4 };
enum {
    APUS_CUBLASLT_PREFERENCE_WORKSPACE_BYTES = 1,
    APUS_CUBLASLT_PREFERENCE_REDUCTIONS = 3,
    APUS_CUBLASLT_PREFERENCE_ALIGNMENT_A = 5,
    APUS_CUBLASLT_PREFERENCE_ALIGNMENT_B = 6,
    APUS_CUBLASLT_PREFERENCE_ALIGNMENT_C = 7,
    APUS_CUBLASLT_PREFERENCE_ALIGNMENT_D = 8
};
/* Partial sums by way of the workspace (in the compute type, 2, or the result's, 4), not in place. */
enum { APUS_CUBLASLT_REDUCTIONS_IN_ORDER = 2 | 4 };
enum { APUS_CUBLAS_NO_TRANSPOSE = 0, APUS_CUBLAS_TRANSPOSE = 1 };

typedef struct {
    size_t (*cublasLtGetVersion)(void);
    const char *(*cublasLtGetStatusName)(int status);
    int (*cublasLtCreate)(apus_cublaslt_handle *handle);
    int (*cublasLtDestroy)(apus_cublaslt_handle handle);
    int (*cublasLtMatmulDescCreate)(apus_cublaslt_operation *operation, int compute_type, int scale_type);
    int (*cublasLtMatmulDescDestroy)(apus_cublaslt_operation operation);
    int (*cublasLtMatmulDescSetAttribute)(apus_cublaslt_operation operation, int attribute, const void *value, size_t size);
    int (*cublasLtMatrixLayoutCreate)(apus_cublaslt_layout *layout, int type, uint64_t rows, uint64_t columns,
                                      int64_t leading_dimension);
    int (*cublasLtMatrixLayoutDestroy)(apus_cublaslt_layout layout);
    int (*cublasLtMatmulPreferenceCreate)(apus_cublaslt_preference *preference);
    int (*cublasLtMatmulPreferenceDestroy)(apus_cublaslt_preference preference);
    int (*cublasLtMatmulPreferenceSetAttribute)(apus_cublaslt_preference preference, int attribute, const void *value,
                                                size_t size);
    int (*cublasLtMatmulAlgoGetHeuristic)(apus_cublaslt_handle handle, apus_cublaslt_operation operation,
                                          apus_cublaslt_layout a, apus_cublaslt_layout b, apus_cublaslt_layout c,
                                          apus_cublaslt_layout d, apus_cublaslt_preference preference, int requested,
                                          apus_cublaslt_heuristic *results, int *returned);
    int (*cublasLtMatmul)(apus_cublaslt_handle handle, apus_cublaslt_operation operation, const void *alpha,
                          uint64_t a, apus_cublaslt_layout a_layout, uint64_t b, apus_cublaslt_layout b_layout,
                          const void *beta, uint64_t c, apus_cublaslt_layout c_layout, uint64_t d,
                          apus_cublaslt_layout d_layout, const apus_cublaslt_algorithm *algorithm, uint64_t workspace,
                          size_t workspace_bytes, apus_cuda_stream stream);
} apus_cublaslt;
#endif
