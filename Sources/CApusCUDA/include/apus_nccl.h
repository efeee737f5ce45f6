/* The part of NCCL that collectives need, from 2.14 on. Functions give 0 or an ncclResult_t. */
#ifndef APUS_NCCL_H
#define APUS_NCCL_H
#include "apus_cuda_driver.h"
#include <stddef.h>

typedef struct apus_nccl_communicator *apus_nccl_comm;

typedef struct {
    char bytes[128];
} apus_nccl_unique_id;

/* ncclResult_t, ncclDataType_t and ncclRedOp_t values that are used by name. */
enum { APUS_NCCL_SUCCESS = 0, APUS_NCCL_IN_PROGRESS = 7 };
enum {
    APUS_NCCL_UINT8 = 1,
    APUS_NCCL_INT32 = 2,
    APUS_NCCL_INT64 = 4,
    APUS_NCCL_FLOAT32 = 7,
    APUS_NCCL_FLOAT64 = 8,
    APUS_NCCL_BFLOAT16 = 9
};
enum { APUS_NCCL_SUM = 0, APUS_NCCL_MAX = 2 };

typedef struct {
    int (*ncclGetVersion)(int *version);
    const char *(*ncclGetErrorString)(int result);
    int (*ncclGetUniqueId)(apus_nccl_unique_id *id);
    int (*ncclCommInitRank)(apus_nccl_comm *comm, int size, apus_nccl_unique_id id, int rank);
    int (*ncclCommDestroy)(apus_nccl_comm comm);
    int (*ncclCommAbort)(apus_nccl_comm comm);
    int (*ncclCommGetAsyncError)(apus_nccl_comm comm, int *result);
    int (*ncclGroupStart)(void);
    int (*ncclGroupEnd)(void);
    int (*ncclAllReduce)(const void *from, void *into, size_t count, int type, int reduction, apus_nccl_comm comm,
                         apus_cuda_stream stream);
    int (*ncclAllGather)(const void *from, void *into, size_t count, int type, apus_nccl_comm comm,
                         apus_cuda_stream stream);
    int (*ncclReduceScatter)(const void *from, void *into, size_t count, int type, int reduction, apus_nccl_comm comm,
                             apus_cuda_stream stream);
    int (*ncclBroadcast)(const void *from, void *into, size_t count, int type, int root, apus_nccl_comm comm,
                         apus_cuda_stream stream);
    int (*ncclSend)(const void *from, size_t count, int type, int to, apus_nccl_comm comm, apus_cuda_stream stream);
    int (*ncclRecv)(void *into, size_t count, int type, int from, apus_nccl_comm comm, apus_cuda_stream stream);
} apus_nccl;
#endif
