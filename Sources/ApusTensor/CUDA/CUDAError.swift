/// What can go wrong on the way to the GPU and on it.
public enum CUDAError: Error, Sendable, Equatable {
    /// A library of NVIDIA's is missing, broken, too old or too new; the message says what was expected, found, and where.
    case library(String)
    /// The driver answered, but there is no GPU of that ordinal.
    case noDevice(ordinal: Int, count: Int)
    /// A call of the driver, NVRTC or cuBLASLt failed. `kernel`: the kernel it was about, or the last one launched on the
    /// stream, since a kernel's fault shows in a later call.
    case call(name: String, code: Int, codeName: String, meaning: String, kernel: String?)
    /// The GPU's memory does not suffice, after everything cached was given back. Sizes in bytes.
    case outOfMemory(requested: Int, free: Int, total: Int, cached: Int, inUse: Int)
    /// A kernel does not compile. `log`: the compiler's words.
    case compilation(kernel: String, target: String, log: String)
    /// Arguments or a launch shape that do not fit the kernel.
    case launch(kernel: String, problem: String)
    /// A GPU whose compute capability the kernels do not run on.
    case capability(device: String, found: String, expected: String)
    /// A copy that reaches past the end of a buffer. In bytes.
    case range(operation: String, offset: Int, count: Int, size: Int)
}

extension CUDAError: CustomStringConvertible {
    /// One sentence: what was expected, what was found, where.
    public var description: String {
        switch self {
        case .library(let message):
            return message
        case .noDevice(let ordinal, let count):
            return count == 0
                ? "the CUDA driver finds no GPU"
                : "expected a GPU with ordinal \(ordinal), found \(count) (0 to \(count - 1))"
        case .call(let name, let code, let codeName, let meaning, let kernel):
            let about = kernel.map { ", kernel \($0)" } ?? ""
            return "\(name) failed with \(codeName) (\(code)): \(meaning)\(about)"
        case .outOfMemory(let requested, let free, let total, let cached, let inUse):
            return
                "out of GPU memory: requested \(requested) bytes, free \(free) of \(total), in use \(inUse), cached \(cached)"
        case .capability(let device, let found, let expected):
            return
                "\(device) has compute capability \(found): expected \(expected) (Hopper: H100, H200), whose instructions the kernels use"
        case .compilation(let kernel, let target, let log):
            return "kernel source \(kernel) does not compile for \(target):\n\(log)"
        case .launch(let kernel, let problem):
            return "kernel \(kernel): \(problem)"
        case .range(let operation, let offset, let count, let size):
            return "\(operation): bytes \(offset) to \(offset + count) exceed a buffer of \(size)"
        }
    }
}
