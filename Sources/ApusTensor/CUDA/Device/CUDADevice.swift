import ApusSynchronization
import CApusCUDA

/// The driver's functions.
typealias CUDADriverTable = UnsafePointer<apus_cuda_driver>

/// A GPU: what it is, its primary context, its memory and its kernels.
///
/// One object a GPU and process: ``device(_:)`` gives the same one each time, and it lives as long as the process. Every
/// operation makes the GPU's context current on the thread it runs on, so that calls may come from any thread.
public final class CUDADevice: Sendable {
    /// Its number among the GPUs that the driver shows.
    public let ordinal: Int
    /// "NVIDIA H100 80GB HBM3".
    public let name: String
    /// Compute capability.
    public let capability: (major: Int, minor: Int)
    /// Streaming multiprocessors.
    public let multiprocessorCount: Int
    /// L2 cache in bytes.
    public let l2Bytes: Int
    /// Shared memory that one block can have, in bytes.
    public let sharedMemoryPerBlock: Int
    /// Memory in bytes.
    public let totalMemory: Int

    let driver: CUDADriver
    // The primary context, retained for the life of the process: a constant.
    private nonisolated(unsafe) let context: apus_cuda_context
    private let ownAllocator = Locked<CUDAAllocator?>(nil)
    private let ownModules = Locked<CUDAModuleCache?>(nil)

    private static let opened = Locked<[Int: CUDADevice]>([:])

    /// How many GPUs the driver shows. Throws ``CUDAError/library(_:)`` without a driver; zero with a driver and no GPU.
    public static func count() throws(CUDAError) -> Int {
        let driver: CUDADriver
        switch CUDADriver.shared {
        case .success(let loaded): driver = loaded
        case .failure(.noDevice): return 0
        case .failure(let error): throw error
        }
        var count: Int32 = 0
        try driver.check("cuDeviceGetCount", driver.functions.pointee.cuDeviceGetCount(&count))
        return Int(count)
    }

    /// The GPU of that ordinal. Throws ``CUDAError``: no driver, no such GPU, or a failing call.
    public static func device(_ ordinal: Int = 0) throws(CUDAError) -> CUDADevice {
        let count = try count()
        guard (0..<count).contains(ordinal) else { throw .noDevice(ordinal: ordinal, count: count) }
        let driver = try CUDADriver.shared.get()
        return try opened.withLock { devices throws(CUDAError) in
            if let device = devices[ordinal] { return device }
            let device = try CUDADevice(ordinal: ordinal, driver: driver)
            devices[ordinal] = device
            return device
        }
    }

    private init(ordinal: Int, driver: CUDADriver) throws(CUDAError) {
        let cu = driver.functions
        var device: Int32 = 0
        try driver.check("cuDeviceGet", cu.pointee.cuDeviceGet(&device, Int32(ordinal)))
        var text = [CChar](repeating: 0, count: 256)
        try driver.check("cuDeviceGetName", cu.pointee.cuDeviceGetName(&text, Int32(text.count), device))
        var bytes = 0
        try driver.check("cuDeviceTotalMem", cu.pointee.cuDeviceTotalMem(&bytes, device))
        func attribute(_ id: Int) throws(CUDAError) -> Int {
            var value: Int32 = 0
            try driver.check("cuDeviceGetAttribute", cu.pointee.cuDeviceGetAttribute(&value, Int32(id), device))
            return Int(value)
        }
        var context: apus_cuda_context?
        try driver.check("cuDevicePrimaryCtxRetain", cu.pointee.cuDevicePrimaryCtxRetain(&context, device))
        guard let context else { throw .noDevice(ordinal: ordinal, count: ordinal) }

        self.ordinal = ordinal
        self.driver = driver
        self.context = context
        name = text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        totalMemory = bytes
        capability = (
            try attribute(APUS_CUDA_DEVICE_CAPABILITY_MAJOR), try attribute(APUS_CUDA_DEVICE_CAPABILITY_MINOR)
        )
        multiprocessorCount = try attribute(APUS_CUDA_DEVICE_MULTIPROCESSORS)
        l2Bytes = try attribute(APUS_CUDA_DEVICE_L2_BYTES)
        sharedMemoryPerBlock = try attribute(APUS_CUDA_DEVICE_SHARED_BYTES_PER_BLOCK)
    }

    /// Makes this GPU's context the calling thread's, for libraries that work on the thread's own.
    package func makeCurrent() throws(CUDAError) { _ = try current() }

    /// The driver's functions, with this GPU's context current on the calling thread.
    func current() throws(CUDAError) -> CUDADriverTable {
        try driver.check("cuCtxSetCurrent", driver.functions.pointee.cuCtxSetCurrent(context))
        return driver.functions
    }

    /// The architecture that kernels are compiled for: "sm_90a" on Hopper, whose own instructions need the letter.
    public var target: String { CUDADevice.target(major: capability.major, minor: capability.minor) }

    /// The architecture of a compute capability. From 9.0 on with the letter that allows its own instructions.
    public static func target(major: Int, minor: Int) -> String { "sm_\(major)\(minor)\(major >= 9 ? "a" : "")" }

    /// Memory in bytes, as the driver counts it: what is cached here is not free.
    public func memory() throws(CUDAError) -> (free: Int, total: Int) {
        let cu = try current()
        var free = 0
        var total = 0
        try driver.check("cuMemGetInfo", cu.pointee.cuMemGetInfo(&free, &total))
        return (free, total)
    }

    /// Waits for all work on the GPU that this process has queued.
    public func synchronize() throws(CUDAError) {
        try driver.check("cuCtxSynchronize", try current().pointee.cuCtxSynchronize())
    }

    /// The caching allocator of this GPU.
    public var allocator: CUDAAllocator {
        ownAllocator.withLock { allocator in
            if let allocator { return allocator }
            let made = CUDAAllocator(memory: CUDADriverMemory(device: self))
            allocator = made
            return made
        }
    }

    /// The kernels compiled for this GPU, cached in the usual folder (``CUDACubinCache/defaultFolder()``).
    public var modules: CUDAModuleCache {
        ownModules.withLock { modules in
            if let modules { return modules }
            let made = CUDAModuleCache(device: self, cubins: .shared)
            modules = made
            return made
        }
    }
}
