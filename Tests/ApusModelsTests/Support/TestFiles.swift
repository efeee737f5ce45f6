import ApusModels
import ApusTensor
import FoundationEssentials

/// Files that other programs wrote, under `Tests/Fixtures`.
enum Fixtures {
    static let folder: String = {
        let parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        return parts.dropLast(3).joined(separator: "/") + "/Fixtures"
    }()

    static func path(_ name: String) -> String { folder + "/" + name }

    static func bytes(_ name: String) throws -> [UInt8] {
        Array(try Data(contentsOf: URL(filePath: path(name))))
    }
}

/// A folder of its own for one test, removed with it.
final class TestFolder {
    let path: String

    init() throws {
        let url = FileManager.default.temporaryDirectory.appending(path: "apus-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        path = url.path
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func path(_ name: String) -> String { path + "/" + name }

    func write(_ bytes: [UInt8], _ name: String) throws {
        try Data(bytes).write(to: URL(filePath: path(name)))
    }

    func write(_ text: String, _ name: String) throws { try write(Array(text.utf8), name) }

    func bytes(_ name: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(filePath: path(name)))) }

    var names: [String] {
        get throws { try FileManager.default.contentsOfDirectory(atPath: path).sorted() }
    }
}

/// Builds files byte by byte.
struct Bytes {
    var all: [UInt8] = []

    mutating func number<T: FixedWidthInteger>(_ value: T) { withUnsafeBytes(of: value.littleEndian) { all += $0 } }

    mutating func string(_ text: String) {
        number(UInt64(text.utf8.count))
        all += Array(text.utf8)
    }

    mutating func pad(to alignment: Int) {
        while all.count % alignment != 0 { all.append(0) }
    }
}

extension Tensor {
    /// A tensor over copies of these bytes.
    init(bytes: [UInt8], shape: Shape, dtype: DType) {
        self.init(uninitialized: shape, dtype: dtype)
        precondition(bytes.count == byteCount)
        rawPointer.copyMemory(from: bytes, byteCount: bytes.count)
    }

    /// The bytes of a contiguous tensor.
    var bytes: [UInt8] {
        withExtendedLifetime(storage) { Array(UnsafeRawBufferPointer(start: rawPointer, count: byteCount)) }
    }
}
