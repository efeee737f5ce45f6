import CApusCUDA

/// The driver's functions, and their error codes turned into ``CUDAError``.
struct CUDADriver: @unchecked Sendable {
    // Never changed and never freed, so it may be read from any thread.
    let functions: UnsafePointer<apus_cuda_driver>

    /// The driver of this process, initialised.
    static let shared = Result<CUDADriver, CUDAError> { () throws(CUDAError) in
        let driver = CUDADriver(functions: try CUDALibraries.driver.table())
        let code = driver.functions.pointee.cuInit(0)
        if Int(code) == APUS_CUDA_NO_DEVICE { throw .noDevice(ordinal: 0, count: 0) }
        try driver.check("cuInit", code)
        return driver
    }

    /// Throws unless `code` is success. `kernel`: the kernel that the call is about.
    @inline(__always)
    func check(_ name: StaticString, _ code: Int32, kernel: @autoclosure () -> String? = nil) throws(CUDAError) {
        if code != 0 { throw error(name, code, kernel: kernel()) }
    }

    @inline(never)
    func error(_ name: StaticString, _ code: Int32, kernel: String?) -> CUDAError {
        var codeName: UnsafePointer<CChar>?
        var meaning: UnsafePointer<CChar>?
        _ = functions.pointee.cuGetErrorName(code, &codeName)
        _ = functions.pointee.cuGetErrorString(code, &meaning)
        return .call(
            name: name.description, code: Int(code), codeName: codeName.map { String(cString: $0) } ?? "unknown code",
            meaning: meaning.map { String(cString: $0) } ?? "no explanation", kernel: kernel)
    }
}
