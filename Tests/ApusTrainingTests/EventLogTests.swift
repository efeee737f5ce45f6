import ApusTraining
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct EventLogTests {
    /// The bytes that TensorFlow's own record and message writers (the tensorboard package, 2.21) make of these events.
    @Test func bytesAreThoseOfTensorBoardsWriter() throws {
        let path = FileManager.default.temporaryDirectory.path + "/apus-events-\(UInt64.random(in: 0 ... .max))"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let log = try EventLog(path: path, resumingAfter: 299, wallTime: 1.5)
        try log.append([("train/loss", 2.25), ("tokens", 1e6)], step: 300, wallTime: 2.5)
        let bytes = try Data(contentsOf: URL(filePath: path))
        #expect(bytes.map { String($0, radix: 16, pad: 2) }.joined() == expected)
    }
}

private let expected =
    "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c1000000000000000"
    + "95fbfe1809000000000000f83f10ac023a020801713b788a300000000000000095f5d05f09000000000000044010ac02"
    + "2a220a110a0a747261696e2f6c6f737315000010400a0d0a06746f6b656e731500247449b4d3879f"

extension String {
    fileprivate init(_ byte: UInt8, radix: Int, pad: Int) {
        let digits = String(byte, radix: radix)
        self = String(repeating: "0", count: pad - digits.count) + digits
    }
}
