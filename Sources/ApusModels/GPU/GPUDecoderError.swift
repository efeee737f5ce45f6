/// What decoding on a GPU cannot do, or was not given.
public enum GPUDecoderError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A model that its kernels do not serve.
    case unsupported(name: String, found: String, expected: String)
    /// More sequences, tokens or pages than the decoder was made for.
    case limit(name: String, found: Int, limit: Int)
    /// The memory left beside the weights holds no page.
    case noRoom(free: Int, pageBytes: Int)

    /// One sentence: what was expected, what was found.
    public var description: String {
        switch self {
        case .unsupported(let name, let found, let expected):
            "decoding on the GPU, \(name): expected \(expected), found \(found)"
        case .limit(let name, let found, let limit):
            "decoding on the GPU: expected at most \(limit) \(name), found \(found)"
        case .noRoom(let free, let pageBytes):
            "decoding on the GPU: \(free) bytes are free beside the weights, a page of the cache takes \(pageBytes); "
                + "expected a smaller model or a GPU with more memory"
        }
    }
}
