import ApusSynchronization
import CApusCUDA

/// The kernels that are loaded on one GPU, compiled at first use.
public final class CUDAModuleCache: Sendable {
    // The device owns its cache: unowned breaks the circle, and devices live as long as the process.
    private unowned let device: CUDADevice
    private let cubins: CUDACubinCache

    private final class Slot: Sendable {
        let module = Locked<CUDAModule?>(nil)
    }
    private let slots = Locked<[CUDASource: Slot]>([:])

    /// Modules of `device`, whose machine code is kept in `cubins`.
    public init(device: CUDADevice, cubins: CUDACubinCache) {
        self.device = device
        self.cubins = cubins
    }

    /// The kernel `name` (declared `extern "C" __global__`) of a source. Takes 0.1 s and more the first time on a machine,
    /// a millisecond the first time in a process, and a dictionary's look-up after that.
    public func kernel(_ name: String, in source: CUDASource) throws -> CUDAKernel {
        try module(for: source).kernel(name)
    }

    /// The loaded module of a source.
    public func module(for source: CUDASource) throws -> CUDAModule {
        let slot = slots.withLock { slots in
            if let slot = slots[source] { return slot }
            let slot = Slot()
            slots[source] = slot
            return slot
        }
        return try slot.module.withLock { module in
            if let module { return module }
            let compiler = try NVRTCCompiler()
            let cubin = try cubins.cubin(for: source, target: device.target, compiler: compiler)
            let loaded = try CUDAModule(cubin: cubin, name: source.name, device: device)
            module = loaded
            return loaded
        }
    }
}

/// Machine code loaded on a GPU.
public final class CUDAModule: Sendable {
    /// The GPU it is loaded on.
    public let device: CUDADevice
    /// For messages: the name of its source.
    public let name: String
    // Created in init and unloaded in deinit only; the driver's functions may be called from any thread.
    private nonisolated(unsafe) let handle: apus_cuda_module
    private let kernels = Locked<[String: CUDAKernel.Function]>([:])

    /// Loads machine code (a cubin). `name`: for messages.
    public init(cubin: [UInt8], name: String, device: CUDADevice) throws(CUDAError) {
        let cu = try device.current()
        var module: apus_cuda_module?
        let code = cubin.withUnsafeBytes { cu.pointee.cuModuleLoadData(&module, $0.baseAddress) }
        try device.driver.check("cuModuleLoadData", code, kernel: name)
        self.device = device
        self.name = name
        handle = module!
    }

    deinit {
        if let cu = try? device.current() { _ = cu.pointee.cuModuleUnload(handle) }
    }

    /// A kernel of the module, by the name it is declared with.
    public func kernel(_ kernel: String) throws(CUDAError) -> CUDAKernel {
        let function = try kernels.withLock { kernels throws(CUDAError) in
            if let function = kernels[kernel] { return function }
            let cu = try device.current()
            var handle: apus_cuda_function?
            try device.driver.check(
                "cuModuleGetFunction", cu.pointee.cuModuleGetFunction(&handle, self.handle, kernel),
                kernel: "\(kernel) of \(name)")
            let function = CUDAKernel.Function(handle: handle!, parameterSizes: parameterSizes(handle!, cu))
            kernels[kernel] = function
            return function
        }
        return CUDAKernel(name: kernel, module: self, function: function)
    }

    /// Sizes of a kernel's parameters in bytes, or nil when the driver is too old to tell.
    private func parameterSizes(_ function: apus_cuda_function, _ cu: CUDADriverTable) -> [Int]? {
        guard let query = cu.pointee.cuFuncGetParamInfo else { return nil }
        var sizes: [Int] = []
        var offset = 0
        var size = 0
        while query(function, sizes.count, &offset, &size) == 0 { sizes.append(size) }
        return sizes
    }
}
