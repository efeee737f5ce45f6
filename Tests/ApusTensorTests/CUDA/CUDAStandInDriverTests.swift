#if compiler(>=6.2)
import ApusTensor
import Foundation
import Testing

/// Devices, buffers, copies, graphs and errors through the real calls, on a driver that stands in for NVIDIA's: a small C
/// library whose GPU is 64 MiB of the host's memory and whose streams do their work at once.
@Suite struct CUDAStandInDriverTests {
    @Test func devicesStreamsAndCopies() async {
        await #expect(processExitsWith: .success) {
            try withStandInDriver {
                try #require(CUDALibraries.driver.report.versionText == "12.8")
                try #require(try CUDADevice.count() == 1)
                #expect(throws: CUDAError.noDevice(ordinal: 1, count: 1)) { try CUDADevice.device(1) }
                let device = try CUDADevice.device()
                try #require(try device === CUDADevice.device(0))
                try #require(device.name == "stand-in" && device.target == "sm_90a")
                let stream = try CUDAStream(device: device)
                let values = (0..<1000).map { Int32($0) }
                let buffer = try stream.upload(values)
                let pinned = try CUDAHostBuffer(byteCount: 4000, device: device)
                try stream.copy(4000, from: buffer, to: pinned)
                try #require(pinned.bytes.bindMemory(to: Int32.self).elementsEqual(values))
                let second = try CUDABuffer(byteCount: 4000, stream: stream)
                try stream.fill(second, with: 1)
                try stream.copy(40, from: buffer, at: 80, to: second, at: 4)
                let expected = [0x0101_0101] + values[20..<30] + [0x0101_0101]
                try #require(try stream.download(second, count: 12, as: Int32.self) == expected)
                #expect(throws: CUDAError.range(operation: "fill", offset: 3999, count: 2, size: 4000)) {
                    try stream.fill(second, at: 3999, count: 2, with: 0)
                }
                #expect(throws: CUDAError.range(operation: "copy to the GPU", offset: -1, count: 1, size: 4000)) {
                    try stream.copy(1, from: buffer, at: 0, to: second, at: -1)
                }
            }
        }
    }

    @Test func memoryComesBack() async {
        await #expect(processExitsWith: .success) {
            try withStandInDriver {
                let device = try CUDADevice.device()
                do {
                    let stream = try CUDAStream(device: device)
                    let other = try CUDAStream(device: device)
                    var pieces: [CUDABuffer] = []
                    let refused = #expect(throws: CUDAError.self) {
                        while pieces.count < 100 { pieces.append(try CUDABuffer(byteCount: 5 << 20, stream: stream)) }
                    }
                    try #require(pieces.count == 12)
                    try #require(
                        refused
                            == .outOfMemory(
                                requested: 5 << 20, free: 4 << 20, total: 64 << 20, cached: 0, inUse: 60 << 20))
                    for piece in pieces { try other.fill(piece, with: 0) }
                    pieces = []
                    try #require(device.allocator.statistics.cached == 60 << 20)
                    // Larger than what is cached: that has to go back to the driver first.
                    let large = try CUDABuffer(byteCount: 40 << 20, stream: other)
                    try #require(large.byteCount == 40 << 20)
                }
                try #require(device.allocator.statistics.inUse == 0)
                device.allocator.releaseCached()
                try #require(try device.memory().free == 64 << 20)
            }
        }
    }

    @Test func graphsOwnTheirMemory() async {
        await #expect(processExitsWith: .success) {
            try withStandInDriver {
                let device = try CUDADevice.device()
                let stream = try CUDAStream(device: device)
                var inside: UInt64 = 0
                do {
                    let graph = try CUDAGraph(recording: stream) {
                        let temporary = try CUDABuffer(byteCount: 3 << 20, stream: stream)
                        inside = temporary.address
                        try stream.fill(temporary, with: 1)
                        try stream.fill(temporary, with: 2)
                    }
                    try #require(graph.nodeCount == 2)
                    try graph.launch(on: stream)
                    let outside = try CUDABuffer(byteCount: 3 << 20, stream: stream)
                    try #require(outside.address != inside)
                }
                let after = try (0..<2).map { _ in try CUDABuffer(byteCount: 3 << 20, stream: stream) }
                try #require(after.map(\.address).contains(inside), "the graph is gone, its memory is free")

                struct OnPurpose: Error {}
                #expect(throws: OnPurpose.self) { try CUDAGraph(recording: stream) { throw OnPurpose() } }
                try stream.fill(after[0], with: 0)
                try stream.synchronize()
            }
        }
    }

    @Test func errorsOfTheDriver() async {
        await #expect(processExitsWith: .success) {
            try withStandInDriver {
                let device = try CUDADevice.device()
                let expected = CUDAError.call(
                    name: "cuModuleLoadData", code: 200, codeName: "CUDA_ERROR_INVALID_IMAGE", meaning: "stand-in text",
                    kernel: "k.cu")
                #expect(throws: expected) { try CUDAModule(cubin: [1, 2, 3], name: "k.cu", device: device) }
            }
        }
    }
}

/// Compiles the driver and makes it this process's, before anything else asks for one.
private func withStandInDriver(_ body: () throws -> Void) throws {
    try withFolder { folder in
        try standInDriver.write(toFile: folder + "/driver.c", atomically: true, encoding: .utf8)
        let compiler = Process()
        compiler.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        compiler.arguments = ["clang", "-shared", "-fPIC", "-o", folder + "/libcuda.so.1", folder + "/driver.c"]
        try compiler.run()
        compiler.waitUntilExit()
        try #require(compiler.terminationStatus == 0)
        setenv("APUS_CUDA_LIBRARY_PATH", folder, 1)
        try body()
    }
}

private let standInDriver = #"""
    #include <stdlib.h>
    #include <string.h>
    enum { LIMIT = 64 << 20 };
    static size_t used, sizes[4096];
    static void *blocks[4096];
    typedef struct { int capturing, nodes; } stream;
    int cuInit(unsigned f) { return 0; }
    int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
    int cuGetErrorName(int c, const char **n) { *n = c == 200 ? "CUDA_ERROR_INVALID_IMAGE" : "CUDA_ERROR"; return 0; }
    int cuGetErrorString(int c, const char **n) { *n = "stand-in text"; return 0; }
    int cuDeviceGetCount(int *n) { *n = 1; return 0; }
    int cuDeviceGet(int *d, int i) { *d = i; return 0; }
    int cuDeviceGetName(char *n, int l, int d) { strcpy(n, "stand-in"); return 0; }
    int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : a == 76 ? 0 : 100; return 0; }
    int cuDeviceTotalMem_v2(size_t *b, int d) { *b = LIMIT; return 0; }
    int cuDevicePrimaryCtxRetain(void **c, int d) { static int context; *c = &context; return 0; }
    int cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
    int cuCtxSetCurrent(void *c) { return c ? 0 : 201; }
    int cuCtxSynchronize(void) { return 0; }
    int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = LIMIT - used; *t = LIMIT; return 0; }
    int cuMemAlloc_v2(unsigned long long *p, size_t n) {
        int i = 0;
        if (used + n > LIMIT) return 2;
        while (blocks[i]) i++;
        blocks[i] = aligned_alloc(512, n);
        sizes[i] = n;
        used += n;
        *p = (unsigned long long)blocks[i];
        return 0;
    }
    int cuMemFree_v2(unsigned long long p) {
        for (int i = 0; i < 4096; i++)
            if (p && (unsigned long long)blocks[i] == p) {
                used -= sizes[i];
                free(blocks[i]);
                blocks[i] = 0;
                return 0;
            }
        abort();
    }
    int cuMemHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n); return 0; }
    int cuMemFreeHost(void *p) { free(p); return 0; }
    static int node(stream *s) { s->nodes++; return s->capturing; }
    int cuMemcpyHtoDAsync_v2(unsigned long long d, const void *f, size_t n, stream *s) {
        if (!node(s)) memcpy((void *)d, f, n);
        return 0;
    }
    int cuMemcpyDtoHAsync_v2(void *d, unsigned long long f, size_t n, stream *s) {
        if (!node(s)) memcpy(d, (void *)f, n);
        return 0;
    }
    int cuMemcpyDtoDAsync_v2(unsigned long long d, unsigned long long f, size_t n, stream *s) {
        if (!node(s)) memcpy((void *)d, (void *)f, n);
        return 0;
    }
    int cuMemsetD8Async(unsigned long long d, unsigned char v, size_t n, stream *s) {
        if (!node(s)) memset((void *)d, v, n);
        return 0;
    }
    int cuMemsetD32Async(unsigned long long d, unsigned v, size_t n, stream *s) { return 1; }
    int cuStreamCreateWithPriority(stream **s, unsigned f, int p) { *s = calloc(1, sizeof **s); return 0; }
    int cuStreamDestroy_v2(stream *s) { free(s); return 0; }
    int cuStreamSynchronize(stream *s) { return s->capturing ? 900 : 0; }
    int cuStreamQuery(stream *s) { return 0; }
    int cuStreamWaitEvent(stream *s, void *e, unsigned f) { return s->capturing ? 905 : 0; }
    int cuEventCreate(void **e, unsigned f) { *e = malloc(1); return 0; }
    int cuEventDestroy_v2(void *e) { free(e); return 0; }
    int cuEventRecord(void *e, stream *s) { return s->capturing ? 901 : 0; }
    int cuEventQuery(void *e) { return 0; }
    int cuEventSynchronize(void *e) { return 0; }
    int cuEventElapsedTime(float *t, void *a, void *b) { *t = 1; return 0; }
    int cuStreamBeginCapture_v2(stream *s, int m) { s->capturing = 1; s->nodes = 0; return 0; }
    int cuStreamEndCapture(stream *s, void **g) {
        *g = malloc(sizeof(int));
        *(int *)*g = s->nodes;
        s->capturing = 0;
        return 0;
    }
    int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { *e = malloc(1); return 0; }
    int cuGraphGetNodes(void *g, void **n, size_t *c) { *c = *(int *)g; return 0; }
    int cuGraphLaunch(void *e, stream *s) { return 0; }
    int cuGraphExecDestroy(void *e) { free(e); return 0; }
    int cuGraphDestroy(void *g) { free(g); return 0; }
    int cuModuleLoadData(void **m, const void *i) { return 200; }
    int cuModuleUnload(void *m) { return 1; }
    int cuModuleGetFunction(void **f, void *m, const char *n) { return 1; }
    int cuFuncGetAttribute(int *v, int a, void *f) { return 1; }
    int cuFuncSetAttribute(void *f, int a, int v) { return 1; }
    int cuLaunchKernelEx(const void *c, void *f, void **p, void **e) { return 1; }
    int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *b, void *f, int s, size_t m) { return 1; }
    int cuTensorMapEncodeTiled(void) { return 1; }
    """#
#endif
