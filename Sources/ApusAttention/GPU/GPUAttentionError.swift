/// What attention on the GPU cannot do, or was not given.
public enum GPUAttentionError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A number or a width that the kernels do not serve; `expected` says which they do.
    case unsupported(name: String, found: Int, expected: String)
    /// The GPU is not of the generation that the kernels are written for.
    case capability(found: String)
    /// More sequences than planned for.
    case batch(found: Int, limit: Int)
    /// ``GPUDecodeAttention/run(_:overlapping:on:)`` before ``GPUDecodeAttention/schedule(lengths:batch:on:)``.
    case notScheduled
    /// An argument is missing that the geometry asks for, or is not aligned as the kernels need it.
    case argument(name: String, expected: String)

    /// One sentence: what was expected, what was found.
    public var description: String {
        switch self {
        case .unsupported(let name, let found, let expected):
            "attention on the GPU, \(name): expected \(expected), found \(found)"
        case .capability(let found):
            "attention on the GPU: expected compute capability 9.0 (Hopper), found \(found)"
        case .batch(let found, let limit):
            "attention on the GPU: expected at most \(limit) sequences as planned, found \(found)"
        case .notScheduled:
            "attention on the GPU: expected a schedule of the step before its layers run, found none"
        case .argument(let name, let expected):
            "attention on the GPU, \(name): expected \(expected)"
        }
    }

    static func require(_ condition: Bool, _ name: String, _ found: Int, _ expected: String) throws(GPUAttentionError) {
        guard condition else { throw .unsupported(name: name, found: found, expected: expected) }
    }
}
