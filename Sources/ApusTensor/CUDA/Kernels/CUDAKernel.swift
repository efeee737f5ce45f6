import ApusSynchronization
import CApusCUDA

/// A value handed to a kernel, as its bytes.
public struct CUDAArgument: Sendable {
    let bytes: [UInt8]

    /// A number or a structure, laid out as the kernel declares it.
    public static func value<T: BitwiseCopyable>(_ value: T) -> CUDAArgument {
        CUDAArgument(bytes: withUnsafeBytes(of: value) { Array($0) })
    }

    /// The buffer's address. Where the launch is on another stream than the buffer's, say `buffer.used(on:)`.
    public static func buffer(_ buffer: CUDABuffer) -> CUDAArgument {
        .value(buffer.address)
    }
}

/// Extents in the three directions of a grid, a block or a cluster.
public struct CUDAExtent: Sendable, Equatable, ExpressibleByIntegerLiteral {
    /// In x, y and z.
    public let x: Int, y: Int, z: Int

    /// Extents, one where not given.
    public init(_ x: Int, _ y: Int = 1, _ z: Int = 1) {
        (self.x, self.y, self.z) = (x, y, z)
    }

    /// So many in x.
    public init(integerLiteral value: Int) {
        self.init(value)
    }
}

/// What a launch asks for beside its shape.
public enum CUDALaunchAttribute: Sendable, Equatable {
    /// All blocks run at once and may wait for each other.
    case cooperative
    /// Blocks in groups that share their shared memory (Hopper). More than 8 are allowed where the GPU can.
    case cluster(CUDAExtent)
    /// The kernel may start while the one before it ends, and waits itself for its results (programmatic dependent launch).
    case overlapsPredecessor
}

/// A kernel on a GPU, ready to launch.
public struct CUDAKernel: Sendable {
    /// What the module keeps of a kernel.
    final class Function: Sendable {
        // Owned by the module, whose life each kernel extends.
        nonisolated(unsafe) let handle: apus_cuda_function
        let parameterSizes: [Int]?
        let sharedMemory = Locked(0)
        let largeCluster = Locked(false)

        init(handle: apus_cuda_function, parameterSizes: [Int]?) {
            self.handle = handle
            self.parameterSizes = parameterSizes
        }
    }

    /// Its name in the source.
    public let name: String
    private let module: CUDAModule
    private let function: Function

    init(name: String, module: CUDAModule, function: Function) {
        self.name = name
        self.module = module
        self.function = function
    }

    /// Registers a thread, and bytes of local memory a thread: spills and stack.
    public func resources() throws(CUDAError) -> (registers: Int, localBytes: Int, staticSharedBytes: Int) {
        (
            try attribute(APUS_CUDA_FUNCTION_REGISTERS), try attribute(APUS_CUDA_FUNCTION_LOCAL_BYTES),
            try attribute(APUS_CUDA_FUNCTION_SHARED_BYTES)
        )
    }

    /// Blocks that one multiprocessor runs at a time. `sharedMemory`: dynamic, in bytes.
    public func blocksPerMultiprocessor(block: Int, sharedMemory: Int = 0) throws(CUDAError) -> Int {
        try reserve(sharedMemory: sharedMemory)
        var blocks: Int32 = 0
        try check(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            try module.device.current().pointee.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &blocks, function.handle, Int32(block), sharedMemory))
        return Int(blocks)
    }

    /// Queues the kernel. `sharedMemory`: dynamic, in bytes, up to the device's limit.
    ///
    /// The arguments' number and sizes are held against the kernel's parameters where the driver tells them (CUDA 12.4 on).
    /// A fault of the running kernel shows in a later call on the stream.
    public func launch(
        grid: CUDAExtent, block: CUDAExtent, sharedMemory: Int = 0, attributes: [CUDALaunchAttribute] = [],
        on stream: CUDAStream, _ arguments: CUDAArgument...
    ) throws(CUDAError) {
        try launch(
            grid: grid, block: block, sharedMemory: sharedMemory, attributes: attributes, on: stream,
            arguments: arguments)
    }

    /// Queues the kernel, its arguments in an array.
    public func launch(
        grid: CUDAExtent, block: CUDAExtent, sharedMemory: Int = 0, attributes: [CUDALaunchAttribute] = [],
        on stream: CUDAStream, arguments: [CUDAArgument]
    ) throws(CUDAError) {
        guard stream.device === module.device else {
            throw .launch(
                kernel: name,
                problem: "loaded on GPU \(module.device.ordinal), launched on GPU \(stream.device.ordinal)")
        }
        try check(arguments)
        try check(grid: grid, block: block)
        try reserve(sharedMemory: sharedMemory)
        var native: [apus_cuda_launch_attribute] = []
        for attribute in attributes { native.append(try encode(attribute)) }
        let cu = try module.device.current()

        // The driver copies the arguments during the call.
        let bytes = arguments.map { ($0.bytes.count + 15) & ~15 }
        let code = withUnsafeTemporaryAllocation(byteCount: max(bytes.reduce(0, +), 16), alignment: 128) { storage in
            withUnsafeTemporaryAllocation(of: UnsafeMutableRawPointer?.self, capacity: arguments.count + 1) {
                pointers in
                native.withUnsafeMutableBufferPointer { native in
                    var offset = 0
                    for (i, argument) in arguments.enumerated() {
                        let address = storage.baseAddress! + offset
                        argument.bytes.withUnsafeBytes {
                            address.copyMemory(from: $0.baseAddress!, byteCount: $0.count)
                        }
                        pointers[i] = address
                        offset += bytes[i]
                    }
                    var config = apus_cuda_launch_config(
                        grid_x: UInt32(grid.x), grid_y: UInt32(grid.y), grid_z: UInt32(grid.z),
                        block_x: UInt32(block.x),
                        block_y: UInt32(block.y), block_z: UInt32(block.z), shared_bytes: UInt32(sharedMemory),
                        stream: stream.handle, attributes: native.baseAddress, attribute_count: UInt32(native.count))
                    return cu.pointee.cuLaunchKernelEx(&config, function.handle, pointers.baseAddress, nil)
                }
            }
        }
        try check("cuLaunchKernelEx", code)
        stream.launched(name)
    }

    private func check(_ call: StaticString, _ code: Int32) throws(CUDAError) {
        try module.device.driver.check(call, code, kernel: name)
    }

    private func check(_ arguments: [CUDAArgument]) throws(CUDAError) {
        guard let sizes = function.parameterSizes else { return }
        guard sizes.count == arguments.count else {
            throw .launch(kernel: name, problem: "expected \(sizes.count) arguments, found \(arguments.count)")
        }
        for (i, size) in sizes.enumerated() where size != arguments[i].bytes.count {
            throw .launch(
                kernel: name, problem: "argument \(i): expected \(size) bytes, found \(arguments[i].bytes.count)")
        }
    }

    private func check(grid: CUDAExtent, block: CUDAExtent) throws(CUDAError) {
        let limit = 1 << 31
        for extent in [grid.x, grid.y, grid.z, block.x, block.y, block.z] where extent < 1 || extent >= limit {
            throw .launch(kernel: name, problem: "a grid of \(grid) blocks of \(block) threads")
        }
    }

    /// Beyond 48 KiB a kernel has to be allowed its shared memory, once.
    private func reserve(sharedMemory: Int) throws(CUDAError) {
        guard sharedMemory >= 0, sharedMemory <= module.device.sharedMemoryPerBlock else {
            throw .launch(
                kernel: name,
                problem:
                    "\(sharedMemory) bytes of shared memory, the GPU has \(module.device.sharedMemoryPerBlock) a block")
        }
        guard sharedMemory > 47 << 10 else { return }
        try function.sharedMemory.withLock { reserved throws(CUDAError) in
            guard sharedMemory > reserved else { return }
            try set(APUS_CUDA_FUNCTION_MAX_DYNAMIC_SHARED_BYTES, sharedMemory)
            reserved = sharedMemory
        }
    }

    private func encode(_ attribute: CUDALaunchAttribute) throws(CUDAError) -> apus_cuda_launch_attribute {
        var native = apus_cuda_launch_attribute()
        switch attribute {
        case .cooperative:
            native.id = Int32(APUS_CUDA_LAUNCH_COOPERATIVE)
            native.value.flag = 1
        case .overlapsPredecessor:
            native.id = Int32(APUS_CUDA_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION)
            native.value.flag = 1
        case .cluster(let extent):
            try check(grid: extent, block: extent)
            native.id = Int32(APUS_CUDA_LAUNCH_CLUSTER)
            native.value.dimensions = (UInt32(extent.x), UInt32(extent.y), UInt32(extent.z))
            guard extent.x * extent.y * extent.z > 8 else { break }
            try function.largeCluster.withLock { allowed throws(CUDAError) in
                if !allowed { try set(APUS_CUDA_FUNCTION_NON_PORTABLE_CLUSTER, 1) }
                allowed = true
            }
        }
        return native
    }

    private func attribute(_ id: Int) throws(CUDAError) -> Int {
        var value: Int32 = 0
        try check(
            "cuFuncGetAttribute",
            try module.device.current().pointee.cuFuncGetAttribute(&value, Int32(id), function.handle))
        return Int(value)
    }

    private func set(_ id: Int, _ value: Int) throws(CUDAError) {
        try check(
            "cuFuncSetAttribute",
            try module.device.current().pointee.cuFuncSetAttribute(function.handle, Int32(id), Int32(value)))
    }
}

extension CUDAExtent: CustomStringConvertible {
    /// "132 x 1 x 1".
    public var description: String { "\(x) x \(y) x \(z)" }
}
