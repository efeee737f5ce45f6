import ApusModels
import ApusTensor
import Testing

/// GGUF files that gguf's own library wrote (`Tests/Fixtures/formats.py`).
@Suite struct GGUFFileTests {
    let file: GGUFFile

    init() throws { file = try GGUFFile(path: Fixtures.path("formats/types.gguf")) }

    @Test func metadataHasEveryType() throws {
        func value(_ name: String) -> GGUFValue? { file.metadata["types." + name] }
        #expect(value("uint8") == .uint8(255))
        #expect(value("int8") == .int8(-128))
        #expect(value("uint16") == .uint16(65535))
        #expect(value("int16") == .int16(-32768))
        #expect(value("uint32") == .uint32(.max))
        #expect(value("int32") == .int32(.min))
        #expect(value("float32") == .float32(0.5))
        #expect(value("bool") == .bool(true))
        #expect(value("string") == .string("naïve 🐦"))
        #expect(value("uint64") == .uint64(.max))
        #expect(value("int64") == .int64(.min))
        #expect(value("float64") == .float64(1e300))
        #expect(value("strings")?.array?.strings == ["a", "", "ß"])
        #expect(value("integers")?.array?.integers == [3, 1, 2])
        #expect(value("floats")?.array?.numbers == [0.25, -1.5])
        #expect(value("bools")?.array?.bools == [true, false])
        let nested = try #require(value("nested")?.array).values()
        #expect(nested.map { $0.array?.integers } == [[1, 2], [3]])
        #expect(value("absent") == nil)
        #expect(file.metadata.entries.first?.key == "general.architecture")
        #expect(file.metadata.entries.count == 18)
    }

    @Test func numbersOfOtherTypesAreErrorsWithTheKey() throws {
        #expect(try file.metadata.integer("types.uint16") == 65535)
        #expect(try file.metadata.integer("types.absent") == nil)
        #expect(throws: ModelFileError.self) { try file.metadata.integer("types.uint64") }
        let error = #expect(throws: ModelFileError.self) { try file.metadata.integer("types.string") }
        #expect("\(try #require(error))".contains("types.string"))
        #expect(throws: ModelFileError.self) { try file.metadata.array("types.strings", of: .int32) }
        #expect(throws: ModelFileError.self) { try file.metadata.bool("types.uint8") }
    }

    @Test func tensorsEqualWhatTheLibraryReads() throws {
        let expected = try SafetensorsFile(path: Fixtures.path("formats/types-expected.safetensors"))
        for info in file.tensors where info.type.dtype != nil {
            let tensor = try file.tensor(named: info.name)
            let wanted = try expected.tensor(named: info.name)
            #expect(tensor.shape == wanted.shape)
            #expect(try floats(tensor) == wanted.floats, "\(info.name)")
            #expect(tensor.firstNotFinite() == nil)
        }
        #expect(expected.tensors.count == file.tensors.count - 1)
    }

    private func floats(_ tensor: Tensor) throws -> [Float] {
        func numbers<T: BinaryInteger & BitwiseCopyable>(_ type: T.Type) -> [Float] {
            tensor.withElements(of: T.self) { $0.map { Float($0) } }
        }
        switch tensor.dtype {
        case .i8: return numbers(Int8.self)
        case .i16: return numbers(Int16.self)
        case .i32: return numbers(Int32.self)
        case .i64: return numbers(Int64.self)
        case .f64: return tensor.withElements(of: Double.self) { $0.map { Float($0) } }
        default: return try tensor.float32().floats
        }
    }

    @Test func anUnusableTypeIsListedAndRefusedOnUse() throws {
        let info = try #require(file.info("Q5_0"))
        #expect(info.type.description == "Q5_0" && info.byteCount == 22 && info.extents == [1, 32])
        let error = #expect(throws: ModelFileError.self) { try file.tensor(named: "Q5_0") }
        #expect("\(try #require(error))".contains("Q5_0"))
        #expect(throws: ModelFileError.missingTensor(file: file.file.name, tensor: "absent")) {
            try file.tensor(named: "absent")
        }
    }

    @Test func versionTwoReadsAlike() throws {
        var bytes = try Fixtures.bytes("formats/types.gguf")
        bytes[4] = 2
        let second = try GGUFFile(MappedFile(copying: bytes, name: "second"))
        #expect(second.version == 2)
        #expect(second.tensors == file.tensors)
    }

    @Test(arguments: [0, 1, 4, 0xff] as [UInt8])
    func otherVersionsAreNamed(_ version: UInt8) throws {
        var bytes = try Fixtures.bytes("formats/types.gguf")
        bytes[4] = version
        #expect(
            throws: ModelFileError.unsupported(
                file: "file", what: "GGUF version", found: "\(version)", supported: "2, 3")
        ) { try GGUFFile(MappedFile(copying: bytes, name: "file")) }
    }

    @Test func bigEndianIsNamed() throws {
        let path = Fixtures.path("formats/big-endian.gguf")
        #expect(
            throws: ModelFileError.unsupported(
                file: path, what: "byte order", found: "big-endian", supported: "little-endian")
        ) { try GGUFFile(path: path) }
    }

    @Test func tensorsShareTheFile() throws {
        let tensor = try file.tensor(named: "cube")
        let other = try file.tensor(named: "F32")
        let offsets = [file.info("cube"), file.info("F32")].compactMap { $0?.offset }
        #expect(tensor.rawPointer - offsets[0] == other.rawPointer - offsets[1])
    }
}
