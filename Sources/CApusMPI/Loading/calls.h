/* The functions of apus_mpi over one ABI. The file that includes this defines
 *   mpi_comm, mpi_datatype, mpi_op, mpi_request, mpi_errhandler: what handles are;
 *   mpi_status: a status, which is never read; IN_PLACE, STATUS_IGNORE;
 *   find_handles(library, absent): fills world, errors_return, types and reductions, gives 1 or 0. */
#include <dlfcn.h>
#include <string.h>

enum { MPI_THREADS_SERIALIZED = 2 };

static struct {
    int (*MPI_Init_thread)(int *, char ***, int, int *);
    int (*MPI_Finalize)(void);
    int (*MPI_Comm_rank)(mpi_comm, int *);
    int (*MPI_Comm_size)(mpi_comm, int *);
    int (*MPI_Comm_split)(mpi_comm, int, int, mpi_comm *);
    int (*MPI_Comm_free)(mpi_comm *);
    int (*MPI_Comm_set_errhandler)(mpi_comm, mpi_errhandler);
    int (*MPI_Iallreduce)(const void *, void *, int, mpi_datatype, mpi_op, mpi_comm, mpi_request *);
    int (*MPI_Iallgather)(const void *, int, mpi_datatype, void *, int, mpi_datatype, mpi_comm, mpi_request *);
    int (*MPI_Ialltoall)(const void *, int, mpi_datatype, void *, int, mpi_datatype, mpi_comm, mpi_request *);
    int (*MPI_Ireduce_scatter_block)(const void *, void *, int, mpi_datatype, mpi_op, mpi_comm, mpi_request *);
    int (*MPI_Ibcast)(void *, int, mpi_datatype, int, mpi_comm, mpi_request *);
    int (*MPI_Ibarrier)(mpi_comm, mpi_request *);
    int (*MPI_Isend)(const void *, int, mpi_datatype, int, int, mpi_comm, mpi_request *);
    int (*MPI_Irecv)(void *, int, mpi_datatype, int, int, mpi_comm, mpi_request *);
    int (*MPI_Test)(mpi_request *, int *, mpi_status *);
    int (*MPI_Error_string)(int, char *, int *);
    int (*MPI_Get_library_version)(char *, int *);
} mpi;

static mpi_comm world;
static mpi_errhandler errors_return;
static mpi_datatype types[APUS_MPI_TYPE_COUNT];
static mpi_op reductions[APUS_MPI_REDUCTION_COUNT];

static mpi_comm comm_of(apus_mpi_group group) { return (mpi_comm)group; }
static mpi_request *request_in(apus_mpi_request *request) {
    *request = 0;
    /* A handle of either kind fits the front of the word; machines that run MPI are little-endian. */
    return (mpi_request *)request;
}

static int initialize(int *threads) {
    int provided = 0;
    int code = mpi.MPI_Init_thread(NULL, NULL, MPI_THREADS_SERIALIZED, &provided);
    *threads = provided >= MPI_THREADS_SERIALIZED;
    return code ? code : mpi.MPI_Comm_set_errhandler(world, errors_return);
}

static int finalize(void) { return mpi.MPI_Finalize(); }
static int rank_of(apus_mpi_group group, int *rank) { return mpi.MPI_Comm_rank(comm_of(group), rank); }
static int size_of(apus_mpi_group group, int *size) { return mpi.MPI_Comm_size(comm_of(group), size); }
static apus_mpi_group world_group(void) { return (apus_mpi_group)world; }

static int split(apus_mpi_group group, int color, int key, apus_mpi_group *part) {
    mpi_comm result;
    int code = mpi.MPI_Comm_split(comm_of(group), color, key, &result);
    if (code) return code;
    *part = (apus_mpi_group)result;
    return color == APUS_MPI_UNDEFINED ? 0 : mpi.MPI_Comm_set_errhandler(result, errors_return);
}

static int release(apus_mpi_group group) {
    mpi_comm comm = comm_of(group);
    return mpi.MPI_Comm_free(&comm);
}

static int all_reduce(void *buffer, int count, apus_mpi_type type, apus_mpi_reduction reduction, apus_mpi_group group,
                      apus_mpi_request *request) {
    return mpi.MPI_Iallreduce(IN_PLACE, buffer, count, types[type], reductions[reduction], comm_of(group),
                              request_in(request));
}

static int all_gather(const void *from, void *into, int count, apus_mpi_type type, apus_mpi_group group,
                      apus_mpi_request *request) {
    return mpi.MPI_Iallgather(from, count, types[type], into, count, types[type], comm_of(group), request_in(request));
}

static int all_to_all(const void *from, void *into, int count, apus_mpi_type type, apus_mpi_group group,
                      apus_mpi_request *request) {
    return mpi.MPI_Ialltoall(from, count, types[type], into, count, types[type], comm_of(group), request_in(request));
}

static int reduce_scatter(const void *from, void *into, int count, apus_mpi_type type, apus_mpi_reduction reduction,
                          apus_mpi_group group, apus_mpi_request *request) {
    return mpi.MPI_Ireduce_scatter_block(from, into, count, types[type], reductions[reduction], comm_of(group),
                                         request_in(request));
}

static int broadcast(void *buffer, int count, apus_mpi_type type, int root, apus_mpi_group group,
                     apus_mpi_request *request) {
    return mpi.MPI_Ibcast(buffer, count, types[type], root, comm_of(group), request_in(request));
}

static int barrier(apus_mpi_group group, apus_mpi_request *request) {
    return mpi.MPI_Ibarrier(comm_of(group), request_in(request));
}

static int send_to(const void *buffer, int count, apus_mpi_type type, int to, int tag, apus_mpi_group group,
                   apus_mpi_request *request) {
    return mpi.MPI_Isend(buffer, count, types[type], to, tag, comm_of(group), request_in(request));
}

static int receive_from(void *buffer, int count, apus_mpi_type type, int from, int tag, apus_mpi_group group,
                        apus_mpi_request *request) {
    return mpi.MPI_Irecv(buffer, count, types[type], from, tag, comm_of(group), request_in(request));
}

static int test(apus_mpi_request *request, int *done) {
    return mpi.MPI_Test((mpi_request *)request, done, STATUS_IGNORE);
}

static int error_text(int code, char *text) {
    int length = 0;
    return mpi.MPI_Error_string(code, text, &length);
}

static int version_text(char *text) {
    int length = 0;
    return mpi.MPI_Get_library_version(text, &length);
}

#define FUNCTION(name) {#name, offsetof(__typeof__(mpi), name)}

static int find_functions(void *library, const char **absent) {
    static const struct {
        const char *name;
        size_t offset;
    } functions[] = {
        FUNCTION(MPI_Init_thread),
        FUNCTION(MPI_Finalize),
        FUNCTION(MPI_Comm_rank),
        FUNCTION(MPI_Comm_size),
        FUNCTION(MPI_Comm_split),
        FUNCTION(MPI_Comm_free),
        FUNCTION(MPI_Comm_set_errhandler),
        FUNCTION(MPI_Iallreduce),
        FUNCTION(MPI_Iallgather),
        FUNCTION(MPI_Ialltoall),
        FUNCTION(MPI_Ireduce_scatter_block),
        FUNCTION(MPI_Ibcast),
        FUNCTION(MPI_Ibarrier),
        FUNCTION(MPI_Isend),
        FUNCTION(MPI_Irecv),
        FUNCTION(MPI_Test),
        FUNCTION(MPI_Error_string),
        FUNCTION(MPI_Get_library_version),
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *address = dlsym(library, functions[i].name);
        if (!address) {
            *absent = functions[i].name;
            return 0;
        }
        memcpy((char *)&mpi + functions[i].offset, &address, sizeof address);
    }
    return 1;
}

static int bind(void *library, apus_mpi *table, const char **absent) {
    if (!find_functions(library, absent) || !find_handles(library, absent)) return 0;
    *table = (apus_mpi){
        .initialize = initialize,
        .finalize = finalize,
        .rank = rank_of,
        .size = size_of,
        .world = world_group,
        .split = split,
        .release = release,
        .all_reduce = all_reduce,
        .all_gather = all_gather,
        .all_to_all = all_to_all,
        .reduce_scatter = reduce_scatter,
        .broadcast = broadcast,
        .barrier = barrier,
        .send = send_to,
        .receive = receive_from,
        .test = test,
        .error_text = error_text,
        .version_text = version_text,
    };
    return 1;
}
