#include "library.h"

#define FIELD(name) {#name, offsetof(apus_nccl, name), 0}

static const apus_symbol symbols[] = {
    FIELD(ncclGetVersion),
    FIELD(ncclGetErrorString),
    FIELD(ncclGetUniqueId),
    FIELD(ncclCommInitRank),
    FIELD(ncclCommDestroy),
    FIELD(ncclCommAbort),
    FIELD(ncclCommGetAsyncError),
    FIELD(ncclGroupStart),
    FIELD(ncclGroupEnd),
    FIELD(ncclAllReduce),
    FIELD(ncclAllGather),
    FIELD(ncclReduceScatter),
    FIELD(ncclBroadcast),
    FIELD(ncclSend),
    FIELD(ncclRecv),
};

/* NCCL counts 10000 x major + 100 x minor + patch; a report has the form of CUDA's versions. */
static int accept(void *table, const char *path, int *version, apus_text *why) {
    const apus_nccl *nccl = table;
    int number = 0;
    (void)path;
    if (!nccl->ncclGetVersion || nccl->ncclGetVersion(&number) != APUS_NCCL_SUCCESS) {
        apus_text_append(why, "which does not tell its version");
        return 1;
    }
    *version = number / 10000 * 1000 + number % 10000 / 100 * 10;
    if (number >= 21400) return 0;
    apus_text_append(why, "whose version is %d.%d", number / 10000, number % 10000 / 100);
    return 1;
}

void apus_cuda_load_nccl(const char *folders, apus_nccl *nccl, apus_library_report *report) {
    static const char *const names[] = {"libnccl.so.2", NULL};
    apus_library library = {
        .title = "NCCL, the collectives of GPUs",
        .names = names,
        .pattern = "libnccl.so*",
        .expected = "version 2.14 or newer",
        .symbols = symbols,
        .symbol_count = sizeof symbols / sizeof *symbols,
        .table_size = sizeof(apus_nccl),
        .accept = accept,
    };
    apus_library_load(&library, folders, 0, nccl, report);
}
