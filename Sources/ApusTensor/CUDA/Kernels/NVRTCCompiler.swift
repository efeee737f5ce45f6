import CApusCUDA

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// NVRTC, opened at run time. Needs no GPU.
public struct NVRTCCompiler: CUDACompiler {
    /// "nvrtc 13.0 (109338064 bytes)": patch releases share a version number, but hardly a size.
    public let identity: String
    // Never changed and never freed, so it may be read from any thread.
    private nonisolated(unsafe) let functions: UnsafePointer<apus_nvrtc>

    /// The compiler of that library. Throws ``CUDAError/library(_:)`` when it was not loaded.
    public init(_ library: CUDALibrary<apus_nvrtc> = CUDALibraries.nvrtc) throws(CUDAError) {
        functions = try library.table()
        var information = stat()
        let size = stat(library.report.path, &information) == 0 ? Int(information.st_size) : 0
        identity = "nvrtc \(library.report.versionText) (\(size) bytes)"
    }

    /// Machine code for an architecture. Throws `CUDAError.compilation` with the log.
    public func compile(_ source: CUDASource, target: String) throws -> [UInt8] {
        try compile(source, target: target, extraOptions: []).cubin
    }

    /// Machine code, the PTX it was made from, and the compiler's log, which `--ptxas-options=-v` fills with the use of
    /// registers and spills.
    public func compile(
        _ source: CUDASource, target: String, extraOptions: [String]
    ) throws(CUDAError) -> (cubin: [UInt8], ptx: String, log: String) {
        let nvrtc = functions.pointee
        var program: apus_nvrtc_program?
        let created = withCStrings(source.headers.map(\.text)) { texts in
            withCStrings(source.headers.map(\.name)) { names in
                nvrtc.nvrtcCreateProgram(&program, source.text, source.name, Int32(source.headers.count), texts, names)
            }
        }
        try check("nvrtcCreateProgram", created, source)
        defer { _ = nvrtc.nvrtcDestroyProgram(&program) }

        let options = source.options(target: target) + extraOptions
        let code = withCStrings(options) { nvrtc.nvrtcCompileProgram(program, Int32(options.count), $0) }
        let logBytes = try text("nvrtcGetProgramLog", source, { nvrtc.nvrtcGetProgramLogSize(program, &$0) }) {
            nvrtc.nvrtcGetProgramLog(program, $0)
        }
        let log = String(decoding: logBytes.prefix { $0 != 0 }, as: UTF8.self)
        if code != 0 {
            let reason = nvrtc.nvrtcGetErrorString(code).map { String(cString: $0) } ?? "code \(code)"
            throw .compilation(kernel: source.name, target: target, log: log.isEmpty ? reason : "\(reason)\n\(log)")
        }
        let cubin = try text("nvrtcGetCUBIN", source, { nvrtc.nvrtcGetCUBINSize(program, &$0) }) {
            nvrtc.nvrtcGetCUBIN(program, $0)
        }
        let ptx = try text("nvrtcGetPTX", source, { nvrtc.nvrtcGetPTXSize(program, &$0) }) {
            nvrtc.nvrtcGetPTX(program, $0)
        }
        return (cubin, String(decoding: ptx.prefix { $0 != 0 }, as: UTF8.self), log)
    }

    private func check(_ name: StaticString, _ code: Int32, _ source: CUDASource) throws(CUDAError) {
        if code == 0 { return }
        let meaning = functions.pointee.nvrtcGetErrorString(code).map { String(cString: $0) } ?? "no explanation"
        throw .call(
            name: name.description, code: Int(code), codeName: "NVRTC error", meaning: meaning, kernel: source.name)
    }

    private func text(
        _ name: StaticString, _ source: CUDASource, _ size: (inout Int) -> Int32,
        _ fill: (UnsafeMutablePointer<CChar>) -> Int32
    ) throws(CUDAError) -> [UInt8] {
        var count = 0
        try check(name, size(&count), source)
        var code: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            buffer.initialize(repeating: 0)
            code = buffer.withMemoryRebound(to: CChar.self) { $0.baseAddress.map(fill) ?? 0 }
            initialized = count
        }
        try check(name, code, source)
        return bytes
    }
}

/// Lends the strings as an array of C strings.
private func withCStrings<Result>(
    _ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>?) -> Result
) -> Result {
    let copies = strings.map { strdup($0) }
    defer { copies.forEach { free($0) } }
    return copies.map { UnsafePointer($0) }.withUnsafeBufferPointer { body($0.baseAddress) }
}
