import ApusModels
import ApusText
import Testing

/// What `apus inspect` shows.
@Suite struct GGUFSummaryTests {
    @Test func aGGUFFileIsSummarised() throws {
        let summary = try FileSummary(path: Fixtures.path("formats/types.gguf"))
        #expect(summary.format == "GGUF version 3, alignment 32")
        #expect(summary.tensors.count == 15)
        #expect(summary.totals.map(\.byteCount).reduce(0, +) == summary.tensors.compactMap(\.byteCount).reduce(0, +))
        let json = try #require(try JSONValue(parsing: summary.json.serialized()).objectValue)
        #expect(json["metadata"]?["types.nested"] == [[1, 2], [3]])
        #expect(json["metadata"]?["types.int64"] == .integer(.min))
        #expect(json["totals"]?["Q6_K"]?["elements"] == 1024)
        #expect(json["configuration"]?.isNull == true)
        for part in ["types.string", "naïve", "Q4_K", "[2, 512]", "block_count is missing"] {
            #expect(summary.text.contains(part), "\(part)")
        }
    }

    @Test func longArraysAreAbbreviated() throws {
        let folder = try TestFolder()
        var writer = GGUFWriter()
        writer.set("long", .array(GGUFArray((0..<100_000).map { "token\($0)" })))
        writer.set("not a number", .float32(.nan))
        try writer.write(to: folder.path("m")) { _ in fatalError("no tensor was announced") }
        let summary = try FileSummary(path: folder.path("m"))
        #expect(summary.text.contains("100,000 of string: \"token0\""))
        #expect(summary.text.utf8.count < 1000)
        let json = try JSONValue(parsing: summary.json.serialized())
        #expect(json["metadata"]?["long"]?["count"] == 100_000)
        #expect(json["metadata"]?["not a number"] == "nan")
    }

    @Test(arguments: [
        "models/llama2", "models/llama2/model.safetensors", "models/llama-sharded/model.safetensors.index.json",
    ])
    func safetensorsAreSummarisedWithTheirConfiguration(_ name: String) throws {
        let summary = try FileSummary(path: Fixtures.path(name))
        #expect(summary.format.hasPrefix("safetensors"))
        let configuration = try summary.configuration.get()
        #expect(configuration.architecture == .llama)
        #expect(summary.tensors.count == configuration.tensorRoles.count)
    }

    @Test func damageIsAnError() throws {
        let folder = try TestFolder()
        try folder.write("", "empty")
        for path in [folder.path("empty"), folder.path("absent"), folder.path] {
            #expect(throws: ModelFileError.self) { try FileSummary(path: path) }
        }
    }
}
