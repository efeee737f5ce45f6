#include "library.h"

#define FIELD(name) {#name, offsetof(apus_cublaslt, name), 0}

static const apus_symbol symbols[] = {
    FIELD(cublasLtGetVersion),
    FIELD(cublasLtGetStatusName),
    FIELD(cublasLtCreate),
    FIELD(cublasLtDestroy),
    FIELD(cublasLtMatmulDescCreate),
    FIELD(cublasLtMatmulDescDestroy),
    FIELD(cublasLtMatmulDescSetAttribute),
    FIELD(cublasLtMatrixLayoutCreate),
    FIELD(cublasLtMatrixLayoutDestroy),
    FIELD(cublasLtMatmulPreferenceCreate),
    FIELD(cublasLtMatmulPreferenceDestroy),
    FIELD(cublasLtMatmulPreferenceSetAttribute),
    FIELD(cublasLtMatmulAlgoGetHeuristic),
    FIELD(cublasLtMatmul),
};

static int accept(void *table, const char *path, int *version, apus_text *why) {
    const apus_cublaslt *cublaslt = table;
    (void)path;
    if (!cublaslt->cublasLtGetVersion) {
        apus_text_append(why, "which does not tell its version");
        return 1;
    }
    int number = (int)cublaslt->cublasLtGetVersion(); /* 10000 x major + 100 x minor + patch */
    *version = number / 10000 * 1000 + number % 10000 / 100 * 10;
    if (*version >= APUS_CUDA_OLDEST) return 0;
    apus_text_append(why, "whose version is %d.%d", *version / 1000, *version % 1000 / 10);
    return 1;
}

void apus_cuda_load_cublaslt(const char *folders, int driver_version, apus_cublaslt *cublaslt, apus_library_report *report) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", NULL};
    int old_driver = driver_version > 0 && driver_version < 13000;
    apus_library library = {
        .title = "cuBLASLt, the matrix products",
        .names = old_driver ? names + 1 : names,
        .pattern = "libcublasLt.so*",
        .refused = old_driver ? (const char *const[]){names[0], NULL} : NULL,
        .expected = "of CUDA 12.0 or newer",
        .symbols = symbols,
        .symbol_count = sizeof symbols / sizeof *symbols,
        .table_size = sizeof(apus_cublaslt),
        .accept = accept,
    };
    apus_library_load(&library, folders, driver_version, cublaslt, report);
}
