import ApusModels
import ApusTensor
import Testing

@Suite struct GGUFWriterTests {
    @Test func whatIsWrittenIsReadBack() throws {
        let folder = try TestFolder()
        let original = try GGUFFile(path: Fixtures.path("formats/types.gguf"))
        for alignment in [32, 64] {
            var writer = GGUFWriter(alignment: alignment)
            for (key, value) in original.metadata.entries { writer.set(key, value) }
            let usable = original.tensors.filter { $0.type.dtype != nil }
            for info in usable {
                let tensor = try original.tensor(named: info.name)
                writer.add(info.name, shape: tensor.shape, dtype: tensor.dtype)
            }
            let path = folder.path("copy.gguf")
            try writer.write(to: path) { try original.tensor(named: $0) }
            let copy = try GGUFFile(path: path)
            #expect(copy.alignment == alignment && copy.version == 3)
            for (key, value) in original.metadata.entries { #expect(copy.metadata[key] == value, "\(key)") }
            #expect(copy.tensors.map(\.name) == usable.map(\.name))
            for info in usable {
                let (a, b) = (try copy.tensor(named: info.name), try original.tensor(named: info.name))
                #expect(a.shape == b.shape && a.dtype == b.dtype && a.bytes == b.bytes)
            }
            #expect(try folder.names == ["copy.gguf"])
        }
    }

    @Test func arraysMadeHereRoundTrip() throws {
        let folder = try TestFolder()
        var writer = GGUFWriter()
        writer.set("a", .array(GGUFArray(["x", "", "é"])))
        writer.set("b", .array(GGUFArray([1.5, -2] as [Float])))
        writer.set("c", .array(GGUFArray([7, -8] as [Int32])))
        writer.set(
            "d", .array(GGUFArray([.array(GGUFArray(["in"])), .array(GGUFArray([] as [String]))], elementType: .array)))
        writer.set("a", .array(GGUFArray(["replaced"])))
        try writer.write(to: folder.path("m.gguf")) { _ in fatalError("no tensor was announced") }
        let metadata = try GGUFFile(path: folder.path("m.gguf")).metadata
        #expect(metadata.entries.map(\.key) == ["a", "b", "c", "d"])
        #expect(metadata["a"]?.array?.strings == ["replaced"])
        #expect(metadata["b"]?.array?.numbers == [1.5, -2])
        #expect(metadata["c"]?.array?.integers == [7, -8])
        #expect(try metadata["d"]?.array?.values().map { $0.array?.strings } == [["in"], []])
    }

    @Test func aTensorUnlikeItsAnnouncementLeavesTheOldFile() throws {
        let folder = try TestFolder()
        let path = folder.path("m.gguf")
        try folder.write("old", "m.gguf")
        var writer = GGUFWriter()
        writer.add("t", shape: [2, 2], dtype: .f32)
        #expect(throws: ModelFileError.self) { try writer.write(to: path) { _ in Tensor([1, 2], shape: [2]) } }
        #expect(throws: ModelFileError.self) {
            try writer.write(to: path) { _ in Tensor([1, 2, 3, 4] as [Int32], shape: [2, 2]) }
        }
        #expect(try folder.bytes("m.gguf") == Array("old".utf8))
        #expect(try folder.names == ["m.gguf"])
    }

    @Test func dtypesWithoutAPlaceAreNamed() throws {
        let folder = try TestFolder()
        var writer = GGUFWriter()
        writer.add("t", shape: [2], dtype: .u8)
        #expect(throws: ModelFileError.self) {
            try writer.write(to: folder.path("m.gguf")) { _ in Tensor(bytes: [1, 2], shape: [2], dtype: .u8) }
        }
        #expect(try folder.names == [])
    }
}
