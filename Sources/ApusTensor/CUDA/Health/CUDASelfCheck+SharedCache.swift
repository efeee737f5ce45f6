/// The check of several processes that fill one cache: each compiles the same kernels, and whoever starts them verifies
/// what they leave. Needs NVRTC, but no GPU.
extension CUDASelfCheck {
    private static let sharedSources = (0..<8).map { i in
        CUDASource(
            name: "shared.cu", text: "extern \"C\" __global__ void shared(int *p) { *p = VALUE; }",
            defines: ["VALUE": String(i)])
    }

    /// Compiles the kernels into `folder`, or takes them from there.
    public static func fillSharedCache(folder: String) throws {
        let compiler = try NVRTCCompiler()
        let cache = CUDACubinCache(folder: folder)
        for source in sharedSources {
            let cubin = try cache.cubin(for: source, target: "sm_90a", compiler: compiler)
            guard cubin.starts(with: Array("\u{7f}ELF".utf8)) else {
                throw Failure(description: "\(folder) gave no machine code for \(source.name)")
            }
        }
    }

    /// Expects all the kernels in `folder`, whole.
    public static func verifySharedCache(folder: String) throws {
        let compiler = Refusing(identity: try NVRTCCompiler().identity)
        for source in sharedSources {
            _ = try CUDACubinCache(folder: folder).cubin(for: source, target: "sm_90a", compiler: compiler)
        }
    }

    /// Stands for a compiler that must not be needed.
    private struct Refusing: CUDACompiler {
        let identity: String

        func compile(_ source: CUDASource, target: String) throws -> [UInt8] {
            throw Failure(description: "\(source.name) is not in the cache, or damaged there")
        }
    }
}
