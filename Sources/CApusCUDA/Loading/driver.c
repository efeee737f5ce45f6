#include "library.h"

#define FIELD(name) {#name, offsetof(apus_cuda_driver, name), 0}
#define FIELD_V2(name) {#name "_v2", offsetof(apus_cuda_driver, name), 0}

static const apus_symbol symbols[] = {
    FIELD(cuInit),
    FIELD(cuDriverGetVersion),
    FIELD(cuGetErrorName),
    FIELD(cuGetErrorString),
    FIELD(cuDeviceGetCount),
    FIELD(cuDeviceGet),
    FIELD(cuDeviceGetName),
    FIELD(cuDeviceGetAttribute),
    FIELD_V2(cuDeviceTotalMem),
    FIELD(cuDevicePrimaryCtxRetain),
    FIELD_V2(cuDevicePrimaryCtxRelease),
    FIELD(cuCtxSetCurrent),
    FIELD(cuCtxSynchronize),
    FIELD_V2(cuMemGetInfo),
    FIELD_V2(cuMemAlloc),
    FIELD_V2(cuMemFree),
    FIELD(cuMemHostAlloc),
    FIELD(cuMemFreeHost),
    FIELD_V2(cuMemcpyHtoDAsync),
    FIELD_V2(cuMemcpyDtoHAsync),
    FIELD_V2(cuMemcpyDtoDAsync),
    FIELD(cuMemsetD8Async),
    FIELD(cuMemsetD32Async),
    FIELD(cuStreamCreateWithPriority),
    FIELD_V2(cuStreamDestroy),
    FIELD(cuStreamSynchronize),
    FIELD(cuStreamQuery),
    FIELD(cuStreamWaitEvent),
    FIELD(cuEventCreate),
    FIELD_V2(cuEventDestroy),
    FIELD(cuEventRecord),
    FIELD(cuEventQuery),
    FIELD(cuEventSynchronize),
    FIELD(cuEventElapsedTime),
    FIELD_V2(cuStreamBeginCapture),
    FIELD(cuStreamEndCapture),
    FIELD(cuGraphInstantiateWithFlags),
    FIELD(cuGraphGetNodes),
    FIELD(cuGraphLaunch),
    FIELD(cuGraphExecDestroy),
    FIELD(cuGraphDestroy),
    FIELD(cuModuleLoadData),
    FIELD(cuModuleUnload),
    FIELD(cuModuleGetFunction),
    FIELD(cuFuncGetAttribute),
    FIELD(cuFuncSetAttribute),
    FIELD(cuLaunchKernelEx),
    FIELD(cuOccupancyMaxActiveBlocksPerMultiprocessor),
    FIELD(cuTensorMapEncodeTiled),
    {"cuIpcGetMemHandle", offsetof(apus_cuda_driver, cuIpcGetMemHandle), 1},
    {"cuIpcOpenMemHandle_v2", offsetof(apus_cuda_driver, cuIpcOpenMemHandle), 1},
    {"cuIpcCloseMemHandle", offsetof(apus_cuda_driver, cuIpcCloseMemHandle), 1},
    {"cuFuncGetParamInfo", offsetof(apus_cuda_driver, cuFuncGetParamInfo), 1},
};

static int accept(void *table, const char *path, int *version, apus_text *why) {
    const apus_cuda_driver *driver = table;
    (void)path;
    if (!driver->cuDriverGetVersion) {
        apus_text_append(why, "which lacks cuDriverGetVersion");
        return 1;
    }
    int code = driver->cuDriverGetVersion(version);
    if (code != APUS_CUDA_SUCCESS) {
        apus_text_append(why, "whose cuDriverGetVersion fails with code %d", code);
        return 1;
    }
    if (*version >= APUS_CUDA_OLDEST) return 0;
    apus_text_append(why, "whose version is CUDA %d.%d", *version / 1000, *version % 1000 / 10);
    return 1;
}

void apus_cuda_load_driver(const char *folders, apus_cuda_driver *driver, apus_library_report *report) {
    static const char *const names[] = {"libcuda.so.1", NULL};
    static const apus_library library = {
        .title = "the CUDA driver",
        .names = names,
        .pattern = "libcuda.so*",
        .expected = "of CUDA 12.0 or newer",
        .symbols = symbols,
        .symbol_count = sizeof symbols / sizeof *symbols,
        .table_size = sizeof(apus_cuda_driver),
        .accept = accept,
    };
    apus_library_load(&library, folders, 0, driver, report);
}
