import ApusTensor

/// What can go wrong with a cache.
public enum CacheError: Error, Equatable, CustomStringConvertible {
    /// A dtype that a cache cannot have.
    case dtype(DType)
    /// A page size or a number of pages or layers below one.
    case tooSmall(name: String, found: Int)
    /// The system gave no memory for the pages.
    case outOfMemory(bytes: Int)
    /// A step needs more pages than are free.
    case outOfPages(needed: Int, free: Int)
    /// A sequence of another cache, or twice in one step.
    case foreignSequence(index: Int)
    /// A sequence gets no new token in a step.
    case noTokens(index: Int)
    /// A length beyond the sequence's, or negative.
    case length(found: Int, limit: Int)
    /// The backend's device has no paged cache.
    case device(Device)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .dtype(let found): "cache: expected one of \(CacheLayout.dtypes), found \(found)"
        case .tooSmall(let name, let found): "cache: \(name): expected at least 1, found \(found)"
        case .outOfMemory(let bytes): "cache: the system has no memory for \(bytes) bytes of pages"
        case .outOfPages(let needed, let free): "cache: the step needs \(needed) more pages, \(free) are free"
        case .foreignSequence(let index):
            "cache: sequence \(index) of the step belongs to another cache or stands in the step twice"
        case .noTokens(let index): "cache: sequence \(index) of the step: expected at least one new token, found none"
        case .length(let found, let limit): "cache: sequence length: expected between 0 and \(limit), found \(found)"
        case .device(let device): "cache: expected a CPU backend, found one on \(device)"
        }
    }
}
