import ApusModels
import ApusTensor
import Testing

/// Safetensors files that the format's own library wrote (`Tests/Fixtures/formats.py`), and our own.
@Suite struct SafetensorsTests {
    @Test func everyDTypeReads() throws {
        let file = try SafetensorsFile(path: Fixtures.path("formats/types.safetensors"))
        func elements<T: Equatable & BitwiseCopyable>(_ name: String, _ type: T.Type, _ dtype: DType) throws -> [T] {
            let tensor = try file.tensor(named: name)
            #expect(tensor.dtype == dtype && tensor.shape == [2, 3])
            return tensor.withElements(of: T.self) { Array($0) }
        }
        #expect(try elements("float64", Double.self, .f64) == [-1, 0, 1, 2, 3, 4])
        #expect(try elements("float32", Float.self, .f32) == [-1, 0, 1, 2, 3, 4])
        #expect(try elements("float16", UInt16.self, .f16) == [0xbc00, 0, 0x3c00, 0x4000, 0x4200, 0x4400])
        #expect(try elements("bfloat16", UInt16.self, .bf16) == [0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080])
        #expect(try elements("float8_e4m3fn", UInt8.self, .f8e4m3) == [0xb8, 0, 0x38, 0x40, 0x44, 0x48])
        #expect(try elements("int64", Int64.self, .i64) == [-1, 0, 1, 2, 3, 4])
        #expect(try elements("int32", Int32.self, .i32) == [-1, 0, 1, 2, 3, 4])
        #expect(try elements("int16", Int16.self, .i16) == [-1, 0, 1, 2, 3, 4])
        #expect(try elements("int8", Int8.self, .i8) == [-1, 0, 1, 2, 3, 4])
        #expect(try elements("uint8", UInt8.self, .u8) == [1, 0, 1, 2, 3, 4])
        #expect(try elements("bool", UInt8.self, .bool) == [0, 0, 1, 1, 1, 1])
        let scalar = try file.tensor(named: "scalar")
        #expect(scalar.shape == [] && scalar.floats == [2.5])
        #expect(try file.tensor(named: "empty").shape == [0, 4])
        #expect(file.metadata.map(\.key) == ["format"] && file.metadata.map(\.value) == ["np"])
    }

    @Test(arguments: ["float8_e5m2", "uint16"])
    func unusableDTypesAreListedAndRefusedOnUse(_ name: String) throws {
        let file = try SafetensorsFile(path: Fixtures.path("formats/types.safetensors"))
        let info = try #require(file.info(name))
        let error = #expect(throws: ModelFileError.self) { try file.tensor(named: name) }
        #expect("\(try #require(error))".contains(info.type.description))
    }

    @Test func unalignedTensorsAreCopied() throws {
        var bytes = Bytes()
        let header =
            #"{"odd":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#
        bytes.number(UInt64(header.utf8.count))
        bytes.all += Array(header.utf8) + [9]
        bytes.number(Float(1.5).bitPattern)
        bytes.number(Float(-2).bitPattern)
        let file = try SafetensorsFile(MappedFile(copying: bytes.all, name: "odd"))
        let tensor = try file.tensor(named: "f")
        #expect(tensor.floats == [1.5, -2])
        #expect(Int(bitPattern: tensor.rawPointer) % 4 == 0)
    }

    @Test func whatIsWrittenIsReadBackByteForByte() throws {
        let folder = try TestFolder()
        let original = try SafetensorsFile(path: Fixtures.path("formats/types.safetensors"))
        let usable = original.tensors.filter { $0.type.dtype != nil }
        var writer = SafetensorsWriter(metadata: [("format", "np"), ("é", "\"quoted\"\n")])
        for info in usable.reversed() {
            let tensor = try original.tensor(named: info.name)
            writer.add(info.name, shape: tensor.shape, dtype: tensor.dtype)
        }
        try writer.write(to: folder.path("copy")) { try original.tensor(named: $0) }
        let copy = try SafetensorsFile(path: folder.path("copy"))
        #expect(copy.metadata.map(\.value) == ["np", "\"quoted\"\n"])
        #expect(Set(copy.tensors.map(\.name)) == Set(usable.map(\.name)))
        for info in usable {
            let (a, b) = (try copy.tensor(named: info.name), try original.tensor(named: info.name))
            #expect(a.shape == b.shape && a.dtype == b.dtype && a.bytes == b.bytes)
            #expect(try #require(copy.info(info.name)).offset % a.dtype.bytesPerBlock == 0)
        }
    }

    @Test func packedTensorsHaveNoPlace() throws {
        let folder = try TestFolder()
        var writer = SafetensorsWriter()
        writer.add("q", shape: [32], dtype: .q8_0)
        #expect(throws: ModelFileError.self) {
            try writer.write(to: folder.path("m")) { _ in Tensor(uninitialized: [32], dtype: .q8_0) }
        }
        #expect(try folder.names == [])
    }

    @Test func shardsReadAsOneModelAndReplaceEarlierSaves() throws {
        let folder = try TestFolder()
        let names = (0..<7).map { "t\($0)" }
        func tensor(_ name: String) -> Tensor {
            let value = Float(name.dropFirst())!
            return Tensor([value, value + 0.5], shape: [2])
        }
        func save(limit: Int) throws {
            var writer = SafetensorsWriter()
            for name in names { writer.add(name, shape: [2], dtype: .f32) }
            try writer.write(folder: folder.path, shardByteCount: limit) { tensor($0) }
            let set = try SafetensorsSet(folder: folder.path)
            #expect(Set(set.tensorNames) == Set(names))
            for name in names { #expect(try set.tensor(named: name).floats == tensor(name).floats) }
        }
        try save(limit: 16)
        #expect(try folder.names.count == 5)
        #expect(try folder.names.first == "model-00001-of-00004.safetensors")
        try save(limit: 24)
        #expect(
            try folder.names == (1...3).map { "model-0000\($0)-of-00003.safetensors" } + [
                "model.safetensors.index.json"
            ])
        try save(limit: 1000)
        #expect(try folder.names == ["model.safetensors"])
        try save(limit: 1)
        #expect(try folder.names.count == 8)
    }

    @Test func shardsOutsideTheFolderAreRefused() throws {
        let folder = try TestFolder()
        for name in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\u0000b"] {
            try folder.write(#"{"weight_map": {"t": "\#(name)"}}"#, "model.safetensors.index.json")
            #expect(throws: (any Error).self) { try SafetensorsSet(folder: folder.path) }
        }
        try folder.write(#"{"weight_map": {"t": "absent"}}"#, "model.safetensors.index.json")
        let error = #expect(throws: ModelFileError.self) { try SafetensorsSet(folder: folder.path) }
        #expect("\(try #require(error))".contains("absent"))
    }

    @Test func aTensorThatItsShardLacksIsNamed() throws {
        let folder = try TestFolder()
        var writer = SafetensorsWriter()
        writer.add("there", shape: [1], dtype: .f32)
        try writer.write(to: folder.path("s")) { _ in Tensor([1], shape: [1]) }
        try folder.write(#"{"weight_map": {"there": "s", "gone": "s"}}"#, "model.safetensors.index.json")
        #expect(throws: ModelFileError.missingTensor(file: folder.path("s"), tensor: "gone")) {
            try SafetensorsSet(folder: folder.path)
        }
    }
}
