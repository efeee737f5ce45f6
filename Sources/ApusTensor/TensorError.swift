/// What can be wrong with tensors handed to an operation. Every message says what was expected and what was found.
public enum TensorError: Error, Equatable, CustomStringConvertible {
    /// Shapes do not fit the operation.
    case shape(operation: String, expected: String, found: String)
    /// The dtype is not one the operation takes.
    case dtype(operation: String, expected: String, found: DType)
    /// Memory could not be had.
    case outOfMemory(bytes: Int, device: String)
    /// A value that must be finite is not.
    case notFinite(tensor: String, index: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .shape(let operation, let expected, let found): "\(operation): expected \(expected), found \(found)"
        case .dtype(let operation, let expected, let found): "\(operation): expected dtype \(expected), found \(found)"
        case .outOfMemory(let bytes, let device): "out of memory: \(bytes) bytes on \(device)"
        case .notFinite(let tensor, let index): "tensor \(tensor) holds a NaN or an infinity at element \(index)"
        }
    }
}
