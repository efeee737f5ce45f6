import ApusTraining
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct TokenDatasetTests {
    @Test func anEpochServesEachWindowOnce() throws {
        try withData { data in
            for length in [1, 7, 64, data.tokenCount - 1] {
                let count = try data.windowCount(length: length)
                #expect(count == (data.tokenCount - 1) / length)
                let inOrder = try data.windows(0..<count, length: length)
                var rows = (0..<count).map { row(inOrder, $0) }
                rows.sort { $0.lexicographicallyPrecedes($1) }
                for epoch in 0..<2 {
                    let batch = try data.sequences(epoch * count..<(epoch + 1) * count, seed: 5, length: length)
                    let served = (0..<count).map { row(batch, $0) }
                    #expect(served.sorted { $0.lexicographicallyPrecedes($1) } == rows)
                    if count > 20 {
                        #expect(batch.tokens != inOrder.tokens)
                        #expect(batch != (try data.sequences(0..<count, seed: 6, length: length)))
                    }
                }
            }
            let count = try data.windowCount(length: 7)
            #expect(
                try data.sequences(0..<count, seed: 5, length: 7)
                    != data.sequences(count..<2 * count, seed: 5, length: 7))
        }
    }

    @Test func aBatchFollowsFromSeedAndStepAlone() throws {
        try withData { data in
            let batches = try (0..<50).map { try data.batch(step: $0, seed: 1, rows: 6, length: 20) }
            for step in [49, 3, 17] {
                #expect(try data.batch(step: step, seed: 1, rows: 6, length: 20) == batches[step])
            }
            // A rank's share is a range of the same sequences.
            let share = try data.sequences(17 * 6 + 2..<17 * 6 + 4, seed: 1, length: 20)
            #expect(share.tokens == Array(batches[17].tokens[2 * 21..<4 * 21]))
            #expect(share.documentStarts == Array(batches[17].documentStarts[2..<4]))
        }
    }

    @Test func inputsTargetsAndSegmentsFit() throws {
        try withData { data in
            let batch = try data.batch(step: 2, seed: 0, rows: 3, length: 50)
            #expect(batch.inputs.count == 150 && batch.targets.count == 150)
            #expect(batch.segmentStarts.count == 150)
            var starts = 0
            for row in 0..<3 {
                for place in 0..<50 {
                    #expect(batch.inputs[row * 50 + place] == batch.tokens[row * 51 + place])
                    #expect(batch.targets[row * 50 + place] == batch.tokens[row * 51 + place + 1])
                    // The token after the end of a document, id 0, is the next one's first.
                    let isStart = place > 0 && batch.tokens[row * 51 + place - 1] == 0
                    if place > 0 { #expect(batch.documentStarts[row].contains(place) == isStart) }
                    let segment = Int(batch.segmentStarts[row * 50 + place])
                    let expected = batch.documentStarts[row].last { $0 <= place } ?? 0
                    #expect(segment == expected)
                    starts += isStart ? 1 : 0
                }
            }
            #expect(starts > 0)
        }
    }

    @Test func tooFewTokensAreAnError() throws {
        try withData { data in
            #expect(throws: TokenDataError.self) { try data.windowCount(length: data.tokenCount) }
            #expect(throws: TokenDataError.self) {
                try data.batch(step: 0, seed: 0, rows: 1, length: data.tokenCount)
            }
        }
    }
}

private func row(_ batch: TokenBatch, _ index: Int) -> [Int32] {
    Array(batch.tokens[index * (batch.length + 1)..<(index + 1) * (batch.length + 1)])
}

/// Several shards of many documents.
private func withData(_ body: (TokenDataset) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.path + "/apus-tokens-\(UInt64.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    var files: [String] = []
    for file in 0..<4 {
        let documents = (0..<30).map { "Document \($0 * 7 + file) of file \(file) says \($0 * $0)." }
        files.append(path + "/\(file).txt")
        try Data(documents.joined(separator: "\n<|endoftext|>\n").utf8).write(to: URL(filePath: files[file]))
    }
    var preparation = DataPreparation(folder: path + "/out", sources: files, tokenizer: .trained(size: 300))
    preparation.validationFraction = 0
    preparation.shardByteCount = 1
    #expect(try preparation.run().shards.count == 4)
    try body(TokenDataset(folder: path + "/out", split: .train))
}
