import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// What can be wrong with a model's files. Every message names the file and says what was expected and what was found.
public enum ModelFileError: Error, Equatable, CustomStringConvertible {
    /// A call to the operating system failed; `code` is errno.
    case system(file: String, operation: String, code: Int32)
    /// The bytes at `place` (header, a key, a tensor's entry) are not what the format asks for.
    case malformed(file: String, place: String, expected: String, found: String)
    /// The file is well formed but uses something that is not supported; `supported` lists what is.
    case unsupported(file: String, what: String, found: String, supported: String)
    /// A key that the model cannot do without is absent.
    case missingKey(file: String, key: String)
    /// The file holds no tensor of this name.
    case missingTensor(file: String, tensor: String)
    /// Neither a tokenizer.json nor a vocabulary in GGUF metadata.
    case noTokenizer(file: String)
    /// A tensor has another shape than the configuration asks for.
    case tensorShape(file: String, tensor: String, expected: String, found: String)
    /// A tensor has a dtype that its place does not take.
    case tensorDType(file: String, tensor: String, expected: String, found: String)
    /// A tensor holds a NaN or an infinity; `element` counts row-major (for packed dtypes, the block's first element).
    case notFinite(file: String, tensor: String, element: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .system(let file, let operation, let code):
            "\(file): cannot \(operation): \(String(cString: strerror(code)))"
        case .malformed(let file, let place, let expected, let found):
            "\(file): \(place): expected \(expected), found \(found)"
        case .unsupported(let file, let what, let found, let supported):
            "\(file): \(what) \(found) is not supported (supported: \(supported))"
        case .missingKey(let file, let key):
            "\(file): key \(key) is missing"
        case .noTokenizer(let file):
            "\(file): expected a tokenizer (tokenizer.json, or a vocabulary in GGUF metadata), found none"
        case .missingTensor(let file, let tensor):
            "\(file): tensor \(tensor) is missing"
        case .tensorShape(let file, let tensor, let expected, let found):
            "\(file): tensor \(tensor): expected shape \(expected), found \(found)"
        case .tensorDType(let file, let tensor, let expected, let found):
            "\(file): tensor \(tensor): expected dtype \(expected), found \(found)"
        case .notFinite(let file, let tensor, let element):
            "\(file): tensor \(tensor) holds a NaN or an infinity at element \(element)"
        }
    }
}

extension String {
    /// At most `limit` characters, with control characters escaped: text from a file inside a message.
    func abbreviated(_ limit: Int = 80) -> String {
        var result = ""
        var count = 0
        for scalar in unicodeScalars {
            if count == limit { return result + "..." }
            count += 1
            if scalar.value < 0x20 || scalar.value == 0x7f {
                result += scalar.escaped(asASCII: true)
            } else {
                result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
