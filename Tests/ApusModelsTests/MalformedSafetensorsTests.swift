import ApusModels
import ApusTensor
import Testing

/// Safetensors files that no writer makes. Each must be an error, never a crash or a wrong answer.
@Suite struct MalformedSafetensorsTests {
    private func open(_ bytes: [UInt8]) throws -> SafetensorsFile {
        try SafetensorsFile(MappedFile(copying: bytes, name: "bad.safetensors"))
    }

    private func file(_ header: String, data: Int = 8) -> [UInt8] {
        var bytes = Bytes()
        bytes.number(UInt64(header.utf8.count))
        return bytes.all + Array(header.utf8) + [UInt8](repeating: 0, count: data)
    }

    @Test func truncationAnywhereIsAnError() throws {
        let bytes = try Fixtures.bytes("formats/types.safetensors")
        for length in 0..<bytes.count {
            #expect(throws: (any Error).self, "\(length) bytes") { try open(Array(bytes[..<length])) }
        }
        #expect(throws: (any Error).self) { try open(bytes + [0]) }
        #expect(throws: Never.self) { try open(bytes) }
    }

    @Test func bitFlipsAnywhereNeverCrash() throws {
        var bytes = try Fixtures.bytes("formats/types.safetensors")
        let dataStart = try open(bytes).tensors.map(\.offset).min()!
        var refused = 0
        for position in 0..<dataStart {
            for bit in 0..<8 {
                bytes[position] ^= 1 << bit
                do {
                    let file = try open(bytes)
                    for info in file.tensors { _ = try? file.tensor(named: info.name).bytes.reduce(0, ^) }
                } catch { refused += 1 }
                bytes[position] ^= 1 << bit
            }
        }
        #expect(refused > dataStart)
    }

    @Test func headerLengthsAreHeldAgainstTheFile() throws {
        for length in [0, 9, 100_000_001, UInt64(Int64.max), UInt64.max] {
            var bytes = Bytes()
            bytes.number(length)
            bytes.all += Array("{}".utf8)
            let error = #expect(throws: ModelFileError.self, "\(length)") { try open(bytes.all) }
            #expect("\(try #require(error))".contains("header"))
        }
        #expect(try open(file("{}", data: 0)).tensors.isEmpty)
    }

    static let bad: [(what: String, header: String)] = [
        ("not an object", "[]"),
        ("white space first", " {}"),
        ("text after it", "{} x"),
        ("no dtype", #"{"t":{"shape":[2],"data_offsets":[0,8]}}"#),
        ("unknown dtype", #"{"t":{"dtype":"F7","shape":[2],"data_offsets":[0,8]}}"#),
        ("dtype a number", #"{"t":{"dtype":4,"shape":[2],"data_offsets":[0,8]}}"#),
        ("no shape", #"{"t":{"dtype":"F32","data_offsets":[0,8]}}"#),
        ("negative extent", #"{"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#),
        ("fractional extent", #"{"t":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}"#),
        ("elements overflow", #"{"t":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#),
        (
            "elements overflow though none",
            #"{"t":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]},"u":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
        ),
        ("bytes overflow", #"{"t":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,8]}}"#),
        ("part of a byte", #"{"t":{"dtype":"F4","shape":[3],"data_offsets":[0,8]}}"#),
        ("no offsets", #"{"t":{"dtype":"F32","shape":[2]}}"#),
        ("one offset", #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#),
        ("three offsets", #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}}"#),
        ("offsets the wrong way", #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#),
        ("offset negative", #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}"#),
        ("past the end", #"{"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#),
        (
            "far past the end",
            #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[9223372036854775799,9223372036854775807]}}"#
        ),
        ("size unlike the shape", #"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#),
        ("gap at the start", #"{"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#),
        ("gap at the end", #"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#),
        (
            "gap between",
            #"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}}"#
        ),
        (
            "overlap",
            #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#
        ),
        (
            "same place",
            #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
        ),
        (
            "same name",
            #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
        ),
        (
            "names alike in Unicode",
            #"{"\u00e9":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"e\u0301":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#
        ),
        ("metadata no object", #"{"__metadata__":1,"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#),
        ("metadata no strings", #"{"__metadata__":{"a":1},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#),
        ("entry no object", #"{"t":8}"#),
        ("deep", #"{"t":"# + String(repeating: "[", count: 100_000) + "}"),
    ]

    @Test(arguments: bad.map(\.what))
    func headersThatLieAreErrors(_ what: String) throws {
        let header = try #require(Self.bad.first { $0.what == what }).header
        #expect(throws: (any Error).self) { try open(file(header)) }
    }

    @Test func theBuilderMakesGoodFiles() throws {
        let good = try open(file(#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  "#))
        #expect(try good.tensor(named: "t").floats == [0, 0])
        #expect(throws: ModelFileError.missingTensor(file: "bad.safetensors", tensor: "u")) {
            try good.tensor(named: "u")
        }
    }

    @Test func sevenDimensionsAreListedAndRefusedOnUse() throws {
        let opened = try open(file(#"{"t":{"dtype":"U8","shape":[1,2,1,2,1,2,1],"data_offsets":[0,8]}}"#))
        #expect(throws: ModelFileError.self) { try opened.tensor(named: "t") }
    }

    @Test func indexesThatLieAreErrors() throws {
        let folder = try TestFolder()
        for text in [
            "", "{}", "[]", #"{"weight_map":[]}"#, #"{"weight_map":{"t":1}}"#, #"{"weight_map":{"t":"s","t":"s"}}"#,
            #"{"weight_map":"#,
        ] {
            try folder.write(text, "model.safetensors.index.json")
            #expect(throws: (any Error).self) { try SafetensorsSet(folder: folder.path) }
        }
    }
}
