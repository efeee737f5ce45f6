import CApusCUDA

/// Memory of a GPU that other processes of this machine can open, to read and write it from their GPUs (CUDA's interprocess
/// memory).
public final class CUDASharedMemory: Sendable {
    /// Address in this process.
    public let address: UInt64
    /// Size in bytes.
    public let byteCount: Int
    /// What another process opens it by.
    public let handle: [UInt8]
    /// Whose it is.
    public let device: CUDADevice

    /// New memory, zeroed. It must not go before nobody uses it.
    public init(byteCount: Int, device: CUDADevice) throws {
        let cu = try device.current()
        guard let share = cu.pointee.cuIpcGetMemHandle, let zero = cu.pointee.cuMemsetD8Async else {
            throw CUDAError.launch(kernel: "any", problem: "a driver without interprocess memory")
        }
        var address: UInt64 = 0
        try device.driver.check("cuMemAlloc", cu.pointee.cuMemAlloc(&address, byteCount))
        var handle = apus_cuda_memory_handle()
        do {
            try device.driver.check("cuMemsetD8Async", zero(address, 0, byteCount, nil))
            try device.synchronize()
            try device.driver.check("cuIpcGetMemHandle", share(&handle, address))
        } catch {
            _ = cu.pointee.cuMemFree(address)
            throw error
        }
        self.address = address
        self.byteCount = byteCount
        self.handle = withUnsafeBytes(of: &handle) { Array($0) }
        self.device = device
    }

    deinit {
        guard let cu = try? device.current() else { return }
        _ = cu.pointee.cuMemFree(address)
    }
}

/// Another process's ``CUDASharedMemory``, as this one's GPU sees it.
public final class CUDAPeerMemory: Sendable {
    /// Address in this process.
    public let address: UInt64
    private let device: CUDADevice

    /// Opens what a handle names. Throws where the GPUs do not reach each other's memory.
    public init(handle bytes: [UInt8], device: CUDADevice) throws {
        let cu = try device.current()
        guard let open = cu.pointee.cuIpcOpenMemHandle, bytes.count == MemoryLayout<apus_cuda_memory_handle>.size else {
            throw CUDAError.launch(kernel: "any", problem: "no handle of interprocess memory")
        }
        var handle = apus_cuda_memory_handle()
        withUnsafeMutableBytes(of: &handle) { $0.copyBytes(from: bytes) }
        var address: UInt64 = 0
        try device.driver.check("cuIpcOpenMemHandle", open(&address, handle, UInt32(APUS_CUDA_IPC_LAZY_PEER_ACCESS)))
        self.address = address
        self.device = device
    }

    deinit {
        guard let cu = try? device.current() else { return }
        _ = cu.pointee.cuIpcCloseMemHandle?(address)
    }
}
