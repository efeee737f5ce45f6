import ApusText
import ApusTraining
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct DataPreparationTests {
    @Test func shardsHoldTheTokensOfTheDocuments() throws {
        try withFolder { folder in
            let documents = ["The first document.", "A second one,\n\nin two paragraphs.", "Third: ünïcode 雨燕."]
            let held = ["What is held out."]
            try write(documents.joined(separator: "\n\n<|endoftext|>\n\n"), folder + "/a.txt")
            try write(held.map { "{\"text\": \"\($0)\"}" }.joined(), folder + "/b.jsonl")
            var preparation = DataPreparation(
                folder: folder + "/out", sources: [folder + "/a.txt"], tokenizer: .trained(size: 300))
            preparation.validationSources = [folder + "/b.jsonl"]
            let manifest = try preparation.run()
            #expect(manifest.documentCount(.train) == 3 && manifest.documentCount(.validation) == 1)
            let data = try TokenDataset(folder: folder + "/out", split: .train)
            let tokenizer = try data.loadTokenizer()
            let expected = documents.flatMap { (text: String) -> [Int32] in tokenizer.encode(text) + [0] }
            #expect(tokenizer.spelling(0) == Array("<|endoftext|>".utf8))
            #expect(data.tokenCount == expected.count)
            let all = try data.windows(0..<1, length: expected.count - 1)
            #expect(all.tokens == expected)
            let lengths = documents.map { tokenizer.encode($0).count + 1 }
            #expect(all.documentStarts == [[0, lengths[0], lengths[0] + lengths[1]]])
            let validation = try TokenDataset(folder: folder + "/out", split: .validation)
            #expect(try validation.windows(0..<1, length: 3).tokens == Array(tokenizer.encode(held[0]).prefix(4)))
        }
    }

    @Test func anInterruptedPreparationGoesOnAndGivesTheSameBytes() throws {
        try withFolder { folder in
            let text = (0..<30_000).map { "Line \($0) of the long text, \($0 * $0).\n" + ($0 % 900 == 0 ? marker : "") }
            try write(text.joined(), folder + "/a.txt")
            func preparation(_ name: String) -> DataPreparation {
                var result = DataPreparation(
                    folder: folder + "/" + name, sources: [folder + "/a.txt"], tokenizer: .trained(size: 300))
                result.shardByteCount = 400_000
                result.validationFraction = 0.2
                return result
            }
            let whole = try preparation("whole").run()
            #expect(whole.shards.count > 3)
            struct Stop: Error {}
            // What a kill leaves: shards that no manifest names yet, and a torn temporary.
            for kept in [0, 1, 2] {
                let name = "broken\(kept)"
                _ = try preparation(name).run()
                try cut(folder + "/" + name, to: kept)
                try write("torn", folder + "/" + name + "/train-00009.tokens.part-12ab")
                let again = try preparation(name).run()
                #expect(again.shards == whole.shards && again.blocks == whole.blocks && again.isComplete)
                for shard in whole.shards {
                    #expect(try read(folder + "/\(name)/" + shard.file) == read(folder + "/whole/" + shard.file))
                }
                let names = try FileManager.default.contentsOfDirectory(atPath: folder + "/" + name)
                #expect(!names.contains { $0.contains(".part-") })
            }
            // Nothing is done twice.
            var isCalled = false
            _ = try preparation("whole").run { _ in isCalled = true }
            #expect(!isCalled)
        }
    }

    @Test func changedSourcesAndSettingsAreNamed() throws {
        try withFolder { folder in
            try write("Some text.", folder + "/a.txt")
            var preparation = DataPreparation(
                folder: folder + "/out", sources: [folder + "/a.txt"], tokenizer: .trained(size: 300))
            _ = try preparation.run()
            preparation.seed = 3
            let error = #expect(throws: TokenDataError.self) { try preparation.run() }
            #expect(error?.description.contains("seed 0 -> seed 3") == true)
            preparation.seed = 0
            try write("Some other text.", folder + "/a.txt")
            #expect(throws: TokenDataError.changed(folder: folder + "/out", what: [folder + "/a.txt was written to"])) {
                try preparation.run()
            }
            preparation.folder = folder
            #expect(throws: TokenDataError.occupied(folder: folder)) { try preparation.run() }
            preparation.folder = folder + "/new"
            preparation.sources = [folder + "/none.txt"]
            #expect(throws: TokenDataError.self) { try preparation.run() }
        }
    }

    @Test func largeVocabulariesTakeFourBytes() throws {
        try withFolder { folder in
            try write("many words", folder + "/a.txt")
            // A vocabulary with an id beyond 65,535.
            let trained = try BPETrainer(vocabularySize: 257, specialTokens: ["<|endoftext|>"]).train([""])
            let json = trained.json.replacing("\"id\":0,", with: "\"id\":70000,").replacing(
                "\"<|endoftext|>\":0,", with: "\"<|endoftext|>\":70000,")
            try write(json, folder + "/tokenizer.json")
            var preparation = DataPreparation(
                folder: folder + "/out", sources: [folder + "/a.txt"], tokenizer: .file(folder + "/tokenizer.json"))
            preparation.validationFraction = 0
            let manifest = try preparation.run()
            #expect(manifest.vocabularySize == 70_001)
            let data = try TokenDataset(folder: folder + "/out", split: .train)
            #expect(try data.windows(0..<1, length: data.tokenCount - 1).tokens.last == 70_000)
        }
    }

    @Test func damagedShardsAreErrors() throws {
        try withFolder { folder in
            try write("A b c d e f.\n<|endoftext|>\nSecond.", folder + "/a.txt")
            var preparation = DataPreparation(
                folder: folder + "/out", sources: [folder + "/a.txt"], tokenizer: .trained(size: 260))
            preparation.validationFraction = 0
            _ = try preparation.run()
            let path = folder + "/out/train-00000.tokens"
            let good = try read(path)
            for count in [0, 10, 63, 64, good.count - 1] {
                try Data(good[..<count]).write(to: URL(filePath: path))
                #expect(throws: TokenDataError.self) { try TokenDataset(folder: folder + "/out", split: .train) }
            }
            for place in [0, 8, 12, 17, 24, 40, 47, 48, 56, good.count - 8, good.count - 1] {
                var bad = good
                bad[place] ^= 0xFF
                try Data(bad).write(to: URL(filePath: path))
                #expect(throws: TokenDataError.self) { try TokenDataset(folder: folder + "/out", split: .train) }
            }
            var bad = good
            bad[65] = 0xFF
            try Data(bad).write(to: URL(filePath: path))
            let data = try TokenDataset(folder: folder + "/out", split: .train)
            let error = #expect(throws: TokenDataError.self) { try data.windows(0..<1, length: 4) }
            guard case .tokenOutOfRange(path, 0, 260, _) = error else {
                Issue.record("found \(String(describing: error))")
                return
            }
            #expect(throws: TokenDataError.noSplit(folder: folder + "/out", split: "validation")) {
                try TokenDataset(folder: folder + "/out", split: .validation)
            }
        }
    }
}

private let marker = "<|endoftext|>\n"

/// Takes a finished folder back to its first `count` shards.
private func cut(_ folder: String, to count: Int) throws {
    let path = folder + "/manifest.json"
    var root = try JSONValue(parsing: Array(read(path))).objectValue!
    let shards = root["shards"]!.arrayValue!
    // Each group of shards holds a block here, and has a training and a validation part or one of them.
    var groups: [[JSONValue]] = []
    for shard in shards {
        let number = shard.objectValue!["file"]!.stringValue!.split(separator: "-")[1]
        if let last = groups.last?.first?.objectValue?["file"]?.stringValue, last.split(separator: "-")[1] == number {
            groups[groups.count - 1].append(shard)
        } else {
            groups.append([shard])
        }
    }
    let blocks = root["blocks"]!.intValue!
    let bytes = root["text_bytes"]!.intValue!
    #expect(groups.count == blocks)
    root["shards"] = .array(Array(groups[..<count].joined()))
    root["blocks"] = .integer(Int64(count))
    root["text_bytes"] = .integer(Int64(count == 0 ? 0 : bytes))
    root["complete"] = .bool(false)
    try write(JSONValue.object(root).serialized(), path)
}

private func read(_ path: String) throws -> Data { try Data(contentsOf: URL(filePath: path)) }

private func write(_ text: String, _ path: String) throws { try Data(text.utf8).write(to: URL(filePath: path)) }

private func withFolder(_ body: (String) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.path + "/apus-data-\(UInt64.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
}
