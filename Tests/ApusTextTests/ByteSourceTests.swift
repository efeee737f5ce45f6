import ApusText
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct ByteSourceTests {
    @Test func plainAndCompressedFilesGiveTheSameText() throws {
        for (bytes, format) in [(Array(text.utf8), ByteSource.Format.plain), (gzip, .gzip), (zstd, .zstd)] {
            try withFile(bytes) { path in
                let source = try ByteSource(path: path)
                #expect(source.format == format)
                #expect(try readAll(source) == Array(text.utf8))
                #expect(source.fileOffset == bytes.count)
            }
        }
    }

    @Test func membersAndFramesFollowOneAnother() throws {
        for bytes in [gzip + gzip + [0, 0, 0], zstd + zstd] {
            try withFile(bytes) { path in
                let found = try readAll(ByteSource(path: path))
                #expect(found == Array((text + text).utf8))
            }
        }
    }

    @Test func everyTruncationIsAnErrorThatNamesTheFile() throws {
        for (bytes, name) in [(gzip, "gzip"), (zstd, "zstd")] {
            for count in 4..<bytes.count {
                try withFile(Array(bytes[..<count])) { path in
                    #expect(throws: TextDataError.truncated(file: path, format: name, offset: count)) {
                        try readAll(ByteSource(path: path))
                    }
                }
            }
        }
    }

    @Test func damageIsAnError() throws {
        for (bytes, name) in [(gzip, "gzip"), (zstd, "zstd")] {
            // The last bytes are the checksum of the text.
            var damaged = bytes
            damaged[bytes.count - (name == "gzip" ? 8 : 1)] ^= 0x40
            try withFile(damaged) { path in
                let error = #expect(throws: TextDataError.self) { try readAll(ByteSource(path: path)) }
                guard case .corrupt(path, name, _, _) = error else {
                    Issue.record("found \(String(describing: error))")
                    return
                }
            }
            try withFile(bytes + Array("rest".utf8)) { path in
                #expect(throws: TextDataError.self) { try readAll(ByteSource(path: path)) }
            }
        }
    }

    @Test func otherFormatsAreNamed() throws {
        try withFile([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00, 1, 2]) { path in
            #expect(throws: TextDataError.unsupportedFormat(file: path, found: "xz data")) {
                try ByteSource(path: path)
            }
        }
        #expect(throws: TextDataError.self) { try ByteSource(path: "/") }
        #expect(throws: TextDataError.self) { try ByteSource(path: "/no such file") }
    }
}

private let text =
    String(repeating: "The swift sleeps on the wing. ", count: 12) + "Der Mauersegler schläft im Flug; 雨燕も."
private let gzip: [UInt8] = [
    0x1F, 0x8B, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x0B, 0xC9, 0x48, 0x55, 0x28, 0x2E, 0xCF, 0x4C,
    0x2B, 0x51, 0x28, 0xCE, 0x49, 0x4D, 0x2D, 0x28, 0x56, 0xC8, 0xCF, 0x53, 0x28, 0x01, 0x8A, 0x95, 0x67, 0xE6,
    0xA5, 0xEB, 0x29, 0x84, 0x8C, 0xCA, 0x52, 0x49, 0xD6, 0x25, 0xB5, 0x48, 0xC1, 0x37, 0xB1, 0x34, 0xB5, 0xA8,
    0x38, 0x35, 0x3D, 0x07, 0xC8, 0x2E, 0x4E, 0xCE, 0xC8, 0x39, 0xBC, 0x04, 0xA8, 0x38, 0x33, 0x57, 0xC1, 0x2D,
    0xA7, 0x34, 0xDD, 0x5A, 0xE1, 0xE5, 0xEC, 0x15, 0xCF, 0xDB, 0xA7, 0x3E, 0x6E, 0x6A, 0xD2, 0x03, 0x00, 0x10,
    0x5E, 0x59, 0x75, 0x94, 0x01, 0x00, 0x00,
]
private let zstd: [UInt8] = [
    0x28, 0xB5, 0x2F, 0xFD, 0x64, 0x94, 0x00, 0x9D, 0x02, 0x00, 0xA4, 0x04, 0x54, 0x68, 0x65, 0x20, 0x73, 0x77,
    0x69, 0x66, 0x74, 0x20, 0x73, 0x6C, 0x65, 0x65, 0x70, 0x73, 0x20, 0x6F, 0x6E, 0x20, 0x74, 0x68, 0x65, 0x20,
    0x77, 0x69, 0x6E, 0x67, 0x2E, 0x20, 0x44, 0x65, 0x72, 0x20, 0x4D, 0x61, 0x75, 0x65, 0x72, 0x73, 0x65, 0x67,
    0x6C, 0x65, 0x72, 0x20, 0x73, 0x63, 0x68, 0x6C, 0xC3, 0xA4, 0x66, 0x74, 0x20, 0x69, 0x6D, 0x20, 0x46, 0x6C,
    0x75, 0x67, 0x3B, 0x20, 0xE9, 0x9B, 0xA8, 0xE7, 0x87, 0x95, 0xE3, 0x82, 0x82, 0x2E, 0x01, 0x00, 0x1E, 0x05,
    0x55, 0x39, 0x01, 0xC2, 0x05, 0x3B, 0x83,
]

private func readAll(_ source: ByteSource) throws -> [UInt8] {
    var result: [UInt8] = []
    while try source.append(to: &result) {}
    return result
}

private func withFile(_ bytes: [UInt8], _ body: (String) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.path + "/apus-source-\(UInt64.random(in: 0 ... .max))"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try Data(bytes).write(to: URL(filePath: path))
    try body(path)
}
