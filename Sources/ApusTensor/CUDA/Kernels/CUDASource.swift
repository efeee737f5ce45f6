/// A kernel's source: CUDA C++ without NVIDIA's headers, what it includes, and the options it is compiled with.
public struct CUDASource: Sendable, Hashable {
    /// A file that the source may include by name.
    public struct Header: Sendable, Hashable {
        /// As in `#include "name"`.
        public let name: String
        /// Its contents.
        public let text: String

        /// A header of that name.
        public init(name: String, text: String) {
            self.name = name
            self.text = text
        }
    }

    /// For messages and for the compiler's log: "latent_decode.cu".
    public let name: String
    /// CUDA C++.
    public let text: String
    /// What it may include.
    public let headers: [Header]
    /// Macros that choose the variant: `D_C=256`.
    public let defines: [String: String]

    /// A source with its headers and the macros that choose the variant.
    public init(name: String, text: String, headers: [Header] = [], defines: [String: String] = [:]) {
        self.name = name
        self.text = text
        self.headers = headers
        self.defines = defines
    }

    /// The compiler's options for an architecture such as "sm_90a".
    public func options(target: String) -> [String] {
        ["--gpu-architecture=\(target)", "--std=c++17", "-default-device"]
            + defines.sorted { $0.key < $1.key }.map { "-D\($0.key)=\($0.value)" }
    }
}

/// Something that turns kernel sources into machine code.
public protocol CUDACompiler: Sendable {
    /// Name and version; another identity may make other code.
    var identity: String { get }
    /// Machine code (a cubin) for an architecture. Throws `CUDAError.compilation` with the log.
    func compile(_ source: CUDASource, target: String) throws -> [UInt8]
}
