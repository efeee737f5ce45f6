import ApusModels
import ApusTensor
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// GGUF files that no writer makes. Each must be an error, never a crash or a wrong answer.
@Suite struct MalformedGGUFTests {
    private func open(_ bytes: [UInt8]) throws -> GGUFFile {
        try GGUFFile(MappedFile(copying: bytes, name: "bad.gguf"))
    }

    /// Reads everything a file holds, so that a wrong bound shows (under a sanitizer at the latest).
    private func readAll(_ file: GGUFFile) {
        for (_, value) in file.metadata.entries { _ = try? value.array?.values() }
        for info in file.tensors {
            guard let tensor = try? file.tensor(named: info.name) else { continue }
            _ = tensor.bytes.reduce(0, ^)
            _ = tensor.firstNotFinite()
        }
        _ = try? DecoderConfiguration(gguf: file)
    }

    @Test(arguments: ["formats/types.gguf", "models/qwen2/model.gguf"])
    func truncationAnywhereIsAnError(_ name: String) throws {
        let bytes = try Fixtures.bytes(name)
        let end = try open(bytes).tensors.map { $0.offset + ($0.byteCount ?? 0) }.max()!
        // All of header and metadata, then every 97th byte of the tensors' data.
        let dataStart = try open(bytes).tensors.map(\.offset).min()!
        let lengths = Array(0..<min(dataStart, end)) + Array(stride(from: dataStart, to: end, by: 97)) + [end - 1]
        for length in lengths {
            #expect(throws: ModelFileError.self, "\(length) bytes") { try open(Array(bytes[..<length])) }
        }
        #expect(throws: Never.self) { try open(Array(bytes[..<end])) }
    }

    @Test func bitFlipsAnywhereNeverCrash() throws {
        var bytes = try Fixtures.bytes("formats/types.gguf")
        let dataStart = try open(bytes).tensors.map(\.offset).min()!
        var refused = 0
        for position in 0..<dataStart {
            for bit in 0..<8 {
                bytes[position] ^= 1 << bit
                do { readAll(try open(bytes)) } catch { refused += 1 }
                bytes[position] ^= 1 << bit
            }
        }
        #expect(refused > dataStart)
    }

    @Test(arguments: [8, 16])
    func countsBeyondTheFileAreRefusedAtOnce(_ offset: Int) throws {
        for count in [1 << 20, 1 << 40, UInt64.max, UInt64(Int64.max)] {
            var bytes = try Fixtures.bytes("formats/types.gguf")
            withUnsafeBytes(of: count.littleEndian) { bytes.replaceSubrange(offset..<offset + 8, with: $0) }
            #expect(throws: ModelFileError.self) { try open(bytes) }
        }
    }

    /// A file with one metadata value, and the given tensors.
    private func file(
        key: String = "k",
        value: (inout Bytes) -> Void = {
            $0.number(UInt32(4)); $0.number(UInt32(1))
        },
        keyCount: UInt64 = 1, tensors: [(String, [UInt64], UInt32, UInt64)] = [], data: Int = 0
    ) -> [UInt8] {
        var bytes = Bytes()
        bytes.all += Array("GGUF".utf8)
        bytes.number(UInt32(3))
        bytes.number(UInt64(tensors.count))
        bytes.number(keyCount)
        for _ in 0..<keyCount {
            bytes.string(key)
            value(&bytes)
        }
        for (name, extents, type, offset) in tensors {
            bytes.string(name)
            bytes.number(UInt32(extents.count))
            for extent in extents { bytes.number(extent) }
            bytes.number(type)
            bytes.number(offset)
        }
        bytes.pad(to: 32)
        return bytes.all + [UInt8](repeating: 0, count: data)
    }

    @Test func theBuilderMakesGoodFiles() throws {
        let good = try open(file(tensors: [("a", [8], 0, 0), ("b", [2, 3], 0, 32)], data: 64))
        #expect(good.metadata["k"] == .uint32(1))
        #expect(try good.tensor(named: "b").shape == [3, 2])
    }

    @Test func tensorsThatDoNotFitAreNamed() throws {
        let cases: [(String, [(String, [UInt64], UInt32, UInt64)])] = [
            ("past the end", [("bad", [17], 0, 0)]),
            ("offset past the end", [("bad", [1], 0, 96)]),
            ("offset unaligned", [("bad", [1], 0, 4)]),
            ("offset huge", [("bad", [1], 0, UInt64.max - 31)]),
            ("offset huge and signed", [("bad", [1], 0, 1 << 63)]),
            ("elements overflow", [("bad", [1 << 40, 1 << 40], 0, 0)]),
            ("bytes overflow", [("bad", [1 << 62], 0, 0)]),
            ("extent negative", [("bad", [UInt64.max], 0, 0)]),
            ("no elements", [("bad", [0], 0, 0)]),
            ("five dimensions", [("bad", [1, 1, 1, 1, 1], 0, 0)]),
            ("part of a block", [("bad", [33], 8, 0)]),
            ("part of a super-block", [("bad", [32], 12, 0)]),
            ("overlap", [("bad", [16], 0, 0), ("b", [1], 0, 32)]),
            ("same place", [("a", [1], 0, 0), ("bad", [1], 0, 0)]),
            ("same name", [("bad", [1], 0, 0), ("bad", [1], 0, 32)]),
        ]
        for (what, tensors) in cases {
            let error = #expect(throws: ModelFileError.self, "\(what)") { try open(file(tensors: tensors, data: 64)) }
            #expect("\(try #require(error))".contains("bad"), "\(what)")
        }
    }

    @Test func unknownTypeNumbersAreListedAndRefusedOnUse() throws {
        let opened = try open(file(tensors: [("t", [8], 1234, 0)], data: 64))
        #expect(opened.tensors[0].byteCount == nil)
        let error = #expect(throws: ModelFileError.self) { try opened.tensor(named: "t") }
        #expect("\(try #require(error))".contains("type 1234"))
    }

    @Test func elementsOfUnknownTypesMayAddUpToAnything() throws {
        let tensors = (0..<3).map { ("t\($0)", [1 << 62] as [UInt64], 1234 as UInt32, UInt64($0) * 32) }
        let summary = try FileSummary(MappedFile(copying: file(tensors: tensors, data: 96), name: "odd.gguf"))
        #expect(summary.totals.first?.elements == .max)
    }

    @Test func oneOfSeveralFilesIsNamed() throws {
        let bytes = file(
            key: "split.count",
            value: {
                $0.number(UInt32(2)); $0.number(UInt16(3))
            })
        let error = #expect(throws: ModelFileError.self) { try GGUFCheckpoint(open(bytes)) }
        #expect("\(try #require(error))".contains("split.count"))
    }

    @Test func metadataThatDoesNotFitIsNamed() throws {
        func value(_ type: UInt32, _ rest: @escaping (inout Bytes) -> Void) -> (inout Bytes) -> Void {
            {
                $0.number(type)
                rest(&$0)
            }
        }
        let cases: [(String, (inout Bytes) -> Void)] = [
            ("unknown type", value(13) { $0.number(UInt64(0)) }),
            ("bool of 2", value(7) { $0.number(UInt8(2)) }),
            ("string too long", value(8) { $0.number(UInt64(1) << 50) }),
            ("string of negative length", value(8) { $0.number(UInt64.max) }),
            (
                "string not UTF-8",
                value(8) {
                    $0.number(UInt64(2)); $0.all += [0xff, 0xfe]
                }
            ),
            (
                "array of unknown type",
                value(9) {
                    $0.number(UInt32(77)); $0.number(UInt64(0))
                }
            ),
            (
                "array too long",
                value(9) {
                    $0.number(UInt32(0)); $0.number(UInt64(1) << 40)
                }
            ),
            (
                "array whose bytes overflow",
                value(9) {
                    $0.number(UInt32(10)); $0.number(UInt64(1) << 61)
                }
            ),
            (
                "array of strings too long",
                value(9) {
                    $0.number(UInt32(8)); $0.number(UInt64(3)); $0.string("")
                }
            ),
            (
                "bools of 3",
                value(9) {
                    $0.number(UInt32(7)); $0.number(UInt64(1)); $0.number(UInt8(3))
                }
            ),
            (
                "arrays nested without end",
                value(9) { bytes in
                    for _ in 0..<10000 {
                        bytes.number(UInt32(9))
                        bytes.number(UInt64(1))
                    }
                }
            ),
        ]
        for (what, write) in cases {
            let error = #expect(throws: ModelFileError.self, "\(what)") { try open(file(key: "the key", value: write)) }
            #expect("\(try #require(error))".contains("the key"), "\(what)")
        }
        #expect(throws: ModelFileError.self) { try open(file(keyCount: 2)) }
        #expect(throws: ModelFileError.self) { try open(file(key: String(repeating: "k", count: 70000))) }
    }

    @Test func alignmentMustBeAPowerOfTwo() throws {
        for alignment in [0, 3, 48, UInt32.max] {
            let bytes = file(
                key: "general.alignment",
                value: {
                    $0.number(UInt32(4)); $0.number(alignment)
                })
            let error = #expect(throws: ModelFileError.self) { try open(bytes) }
            #expect("\(try #require(error))".contains("general.alignment"))
        }
        #expect(throws: ModelFileError.self) {
            try open(
                file(
                    key: "general.alignment",
                    value: {
                        $0.number(UInt32(8)); $0.string("32")
                    }))
        }
    }

    @Test func filesThatAreNoneAreErrors() throws {
        for bytes in [
            [], [0], Array("GGUF".utf8), Array("GGML\u{3}\0\0\0".utf8), [UInt8](repeating: 0xff, count: 4096),
        ] {
            #expect(throws: ModelFileError.self) { try open(bytes) }
        }
        let folder = try TestFolder()
        try folder.write([], "empty.gguf")
        #expect(mkfifo(folder.path("pipe.gguf"), 0o600) == 0)
        for path in [
            folder.path("pipe.gguf"), folder.path("empty.gguf"), folder.path("absent.gguf"), folder.path, "/dev/null",
        ] {
            let error = #expect(throws: ModelFileError.self) { try GGUFFile(path: path) }
            #expect("\(try #require(error))".contains(path))
        }
    }
}
