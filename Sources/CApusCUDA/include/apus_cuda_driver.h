/* The part of the CUDA driver that Apus calls, from CUDA 12.0 on, under the driver's own function names (without the
 * version suffixes of its symbols). Functions give 0 or a CUresult. */
#ifndef APUS_CUDA_DRIVER_H
#define APUS_CUDA_DRIVER_H
#include <stddef.h>
#include <stdint.h>

typedef struct apus_cuda_context_state *apus_cuda_context;
typedef struct apus_cuda_stream_state *apus_cuda_stream;
typedef struct apus_cuda_event_state *apus_cuda_event;
typedef struct apus_cuda_module_state *apus_cuda_module;
typedef struct apus_cuda_function_state *apus_cuda_function;
typedef struct apus_cuda_graph_state *apus_cuda_graph;
typedef struct apus_cuda_graph_exec_state *apus_cuda_graph_exec;
typedef struct apus_cuda_graph_node_state *apus_cuda_graph_node;
typedef uint64_t apus_cuda_address;

/* CUresult values that are handled by name. */
enum { APUS_CUDA_SUCCESS = 0, APUS_CUDA_OUT_OF_MEMORY = 2, APUS_CUDA_NO_DEVICE = 100, APUS_CUDA_NOT_READY = 600 };

/* CUdevice_attribute. */
enum {
    APUS_CUDA_DEVICE_CLOCK_KHZ = 13,
    APUS_CUDA_DEVICE_MULTIPROCESSORS = 16,
    APUS_CUDA_DEVICE_MEMORY_CLOCK_KHZ = 36,
    APUS_CUDA_DEVICE_MEMORY_BUS_BITS = 37,
    APUS_CUDA_DEVICE_L2_BYTES = 38,
    APUS_CUDA_DEVICE_CAPABILITY_MAJOR = 75,
    APUS_CUDA_DEVICE_CAPABILITY_MINOR = 76,
    APUS_CUDA_DEVICE_SHARED_BYTES_PER_BLOCK = 97
};

/* CUfunction_attribute. */
enum {
    APUS_CUDA_FUNCTION_MAX_THREADS = 0,
    APUS_CUDA_FUNCTION_SHARED_BYTES = 1,
    APUS_CUDA_FUNCTION_LOCAL_BYTES = 3,
    APUS_CUDA_FUNCTION_REGISTERS = 4,
    APUS_CUDA_FUNCTION_MAX_DYNAMIC_SHARED_BYTES = 8,
    APUS_CUDA_FUNCTION_NON_PORTABLE_CLUSTER = 14
};

/* Flags and modes. */
enum { APUS_CUDA_STREAM_NON_BLOCKING = 1 };
enum { APUS_CUDA_EVENT_DEFAULT = 0, APUS_CUDA_EVENT_DISABLE_TIMING = 2 };
enum { APUS_CUDA_CAPTURE_RELAXED = 2 };
enum { APUS_CUDA_HOST_PORTABLE = 1 };
enum { APUS_CUDA_IPC_LAZY_PEER_ACCESS = 1 };

/* CUlaunchAttribute: an identifier and 64 bytes of value. */
enum {
    APUS_CUDA_LAUNCH_COOPERATIVE = 2,
    APUS_CUDA_LAUNCH_CLUSTER = 4,
    APUS_CUDA_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION = 6
};
typedef struct {
    int id;
    int padding;
    union {
        int flag;
        unsigned dimensions[3];
        uint64_t bytes[8];
    } value;
} apus_cuda_launch_attribute;

/* CUlaunchConfig. */
typedef struct {
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    apus_cuda_stream stream;
    apus_cuda_launch_attribute *attributes;
    unsigned attribute_count;
} apus_cuda_launch_config;

/* CUipcMemHandle: opaque. */
typedef struct {
    uint64_t words[8];
} apus_cuda_memory_handle;

/* CUtensorMap: opaque, passed to kernels by value. The driver wants it at a multiple of 64 bytes when it encodes one. */
typedef struct {
    uint64_t words[16];
} apus_cuda_tensor_map;

typedef struct {
    int (*cuInit)(unsigned flags);
    int (*cuDriverGetVersion)(int *version);
    int (*cuGetErrorName)(int code, const char **name);
    int (*cuGetErrorString)(int code, const char **text);

    int (*cuDeviceGetCount)(int *count);
    int (*cuDeviceGet)(int *device, int ordinal);
    int (*cuDeviceGetName)(char *name, int length, int device);
    int (*cuDeviceGetAttribute)(int *value, int attribute, int device);
    int (*cuDeviceTotalMem)(size_t *bytes, int device);
    int (*cuDevicePrimaryCtxRetain)(apus_cuda_context *context, int device);
    int (*cuDevicePrimaryCtxRelease)(int device);
    int (*cuCtxSetCurrent)(apus_cuda_context context);
    int (*cuCtxSynchronize)(void);

    int (*cuMemGetInfo)(size_t *free_bytes, size_t *total_bytes);
    int (*cuMemAlloc)(apus_cuda_address *address, size_t bytes);
    int (*cuMemFree)(apus_cuda_address address);
    int (*cuMemHostAlloc)(void **pointer, size_t bytes, unsigned flags);
    int (*cuMemFreeHost)(void *pointer);
    int (*cuMemcpyHtoDAsync)(apus_cuda_address to, const void *from, size_t bytes, apus_cuda_stream stream);
    int (*cuMemcpyDtoHAsync)(void *to, apus_cuda_address from, size_t bytes, apus_cuda_stream stream);
    int (*cuMemcpyDtoDAsync)(apus_cuda_address to, apus_cuda_address from, size_t bytes, apus_cuda_stream stream);
    int (*cuMemsetD8Async)(apus_cuda_address to, unsigned char value, size_t count, apus_cuda_stream stream);
    int (*cuMemsetD32Async)(apus_cuda_address to, unsigned value, size_t count, apus_cuda_stream stream);

    int (*cuStreamCreateWithPriority)(apus_cuda_stream *stream, unsigned flags, int priority);
    int (*cuStreamDestroy)(apus_cuda_stream stream);
    int (*cuStreamSynchronize)(apus_cuda_stream stream);
    int (*cuStreamQuery)(apus_cuda_stream stream);
    int (*cuStreamWaitEvent)(apus_cuda_stream stream, apus_cuda_event event, unsigned flags);
    int (*cuEventCreate)(apus_cuda_event *event, unsigned flags);
    int (*cuEventDestroy)(apus_cuda_event event);
    int (*cuEventRecord)(apus_cuda_event event, apus_cuda_stream stream);
    int (*cuEventQuery)(apus_cuda_event event);
    int (*cuEventSynchronize)(apus_cuda_event event);
    int (*cuEventElapsedTime)(float *milliseconds, apus_cuda_event start, apus_cuda_event end);

    int (*cuStreamBeginCapture)(apus_cuda_stream stream, int mode);
    int (*cuStreamEndCapture)(apus_cuda_stream stream, apus_cuda_graph *graph);
    int (*cuGraphInstantiateWithFlags)(apus_cuda_graph_exec *exec, apus_cuda_graph graph, unsigned long long flags);
    int (*cuGraphGetNodes)(apus_cuda_graph graph, apus_cuda_graph_node *nodes, size_t *count);
    int (*cuGraphLaunch)(apus_cuda_graph_exec exec, apus_cuda_stream stream);
    int (*cuGraphExecDestroy)(apus_cuda_graph_exec exec);
    int (*cuGraphDestroy)(apus_cuda_graph graph);

    int (*cuModuleLoadData)(apus_cuda_module *module, const void *image);
    int (*cuModuleUnload)(apus_cuda_module module);
    int (*cuModuleGetFunction)(apus_cuda_function *function, apus_cuda_module module, const char *name);
    int (*cuFuncGetAttribute)(int *value, int attribute, apus_cuda_function function);
    int (*cuFuncSetAttribute)(apus_cuda_function function, int attribute, int value);
    int (*cuLaunchKernelEx)(const apus_cuda_launch_config *config, apus_cuda_function function, void **parameters,
                            void **extra);
    int (*cuOccupancyMaxActiveBlocksPerMultiprocessor)(int *blocks, apus_cuda_function function, int block_size,
                                                       size_t shared_bytes);
    int (*cuTensorMapEncodeTiled)(apus_cuda_tensor_map *map, int data_type, unsigned rank, void *address,
                                  const uint64_t *extents, const uint64_t *strides, const unsigned *box,
                                  const unsigned *element_strides, int interleave, int swizzle, int l2_promotion,
                                  int out_of_bounds_fill);

    /* Where there is interprocess memory, else NULL. */
    int (*cuIpcGetMemHandle)(apus_cuda_memory_handle *handle, apus_cuda_address address);
    int (*cuIpcOpenMemHandle)(apus_cuda_address *address, apus_cuda_memory_handle handle, unsigned flags);
    int (*cuIpcCloseMemHandle)(apus_cuda_address address);

    /* From CUDA 12.4 on, else NULL: offset and size of a parameter; an error code past the last one. */
    int (*cuFuncGetParamInfo)(apus_cuda_function function, size_t index, size_t *offset, size_t *bytes);
} apus_cuda_driver;
#endif
