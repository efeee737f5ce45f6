import ApusModels
import ApusTensor
import CApusKernels
import Foundation
import Testing

/// The decoder against Hugging Face transformers on small random models of every family (Tests/Fixtures/models.py).
@Suite struct FamilyLogitsTests {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/models")

    static let families = [
        "llama2", "llama3", "llama3-older-config", "llama-sharded", "smollm2", "mistral-window", "qwen2",
        "qwen2-older-config", "qwen2-tied", "qwen3", "gptneox", "gptneox-older-config", "gptneox-sequential",
    ]
    static let ggufFamilies = ["llama2", "qwen2", "qwen3", "gptneox"]

    struct Expected {
        let tokens: [[Int32]]
        let values: [Float]

        init(_ name: String, values key: String = "logits") throws {
            let file = try SafetensorsFile(path: folder.appending(path: "\(name)/expected.safetensors").path)
            let ids = try file.tensor(named: "tokens")
            tokens = ids.withElements(of: Int64.self) { all in
                let width = ids.shape[1]
                return (0..<ids.shape[0]).map { row in all[(row * width)..<((row + 1) * width)].map { Int32($0) } }
            }
            values = try file.tensor(named: key).floats
        }
    }

    /// ||a - b|| / ||b||.
    static func relativeError(_ a: [Float], _ b: [Float]) -> Double {
        guard a.count == b.count else { return .infinity }
        var difference = 0.0
        var norm = 0.0
        for (x, y) in zip(a, b) {
            difference += (Double(x) - Double(y)) * (Double(x) - Double(y))
            norm += Double(y) * Double(y)
        }
        return (difference / norm).squareRoot()
    }

    static func decoder(_ path: String, threads: Int = 2, precision: Precision = .automatic) throws -> Decoder {
        let backend = CPUBackend(threads: threads, precision: precision)
        return try Decoder(checkpoint: try Checkpoints.open(folder.appending(path: path).path), backend: backend)
    }

    @Test(arguments: families) func logitsEqualTransformers(_ name: String) throws {
        let expected = try Expected(name)
        let decoder = try Self.decoder(name)
        let found = try expected.tokens.flatMap { try decoder.logits(of: $0).flatMap { $0 } }
        #expect(Self.relativeError(found, expected.values) <= 2e-5)
    }

    @Test(arguments: ggufFamilies) func ggufLogitsEqualTransformers(_ name: String) throws {
        let expected = try Expected(name)
        let decoder = try Self.decoder("\(name)/model.gguf")
        let found = try expected.tokens.flatMap { try decoder.logits(of: $0).flatMap { $0 } }
        #expect(Self.relativeError(found, expected.values) <= 2e-5)
    }

    /// bf16 weights: exact with float32 arithmetic; rounded activations and a bf16 cache stay within the format's rounding.
    @Test func bf16WeightsFollowTheirPrecision() throws {
        let expected = try Expected("llama-bf16")
        let exact = try Self.decoder("llama-bf16", precision: .float32)
        let found = try expected.tokens.flatMap { try exact.logits(of: $0, cacheType: .f32).flatMap { $0 } }
        #expect(Self.relativeError(found, expected.values) <= 2e-5)
        let automatic = try Self.decoder("llama-bf16")
        let rounded = try expected.tokens.flatMap { try automatic.logits(of: $0).flatMap { $0 } }
        #expect(Self.relativeError(rounded, expected.values) <= 1e-2)
    }

    /// A long prompt's last token runs apart where its activations would be rounded otherwise, and its logits stand nearer
    /// to float32 arithmetic for it. Only dots of bf16 round them.
    @Test func lastTokenOfALongPromptIsExact() throws {
        let automatic = try Self.decoder("llama-bf16")
        let exact = try Self.decoder("llama-bf16", precision: .float32)
        defer { _ = apus_select_isa("best") }
        if apus_select_isa("avx512") == 0 { #expect(automatic.prefillSteps(1000) == [512, 488]) }
        guard apus_select_isa("avx512bf16") == 0 else { return }
        #expect(automatic.prefillSteps(0) == [])
        #expect(automatic.prefillSteps(128) == [128])
        #expect(automatic.prefillSteps(129) == [128, 1])
        #expect(automatic.prefillSteps(1000) == [512, 487, 1])
        #expect(exact.prefillSteps(1000) == [512, 488])
        #expect(try Self.decoder("llama2").prefillSteps(600) == [512, 88])
        let vocabulary = automatic.configuration.vocabularySize
        let prompt = (0..<200).map { Int32($0 * 37 % vocabulary) }
        func lastRow(_ decoder: Decoder, _ steps: [Int]) throws -> [Float] {
            let cache = try decoder.makeCache(tokens: prompt.count, type: .f32)
            let sequence = cache.makeSequence()
            var rest = prompt[...]
            var row: [Float] = []
            for step in steps {
                let input = DecoderInput(tokens: Array(rest.prefix(step)), sequence: sequence, logits: .last)
                row = try decoder.forward([input], cache: cache).floats
                rest = rest.dropFirst(step)
            }
            return row
        }
        let expected = try lastRow(exact, [prompt.count])
        let apart = Self.relativeError(try lastRow(automatic, automatic.prefillSteps(prompt.count)), expected)
        let together = Self.relativeError(try lastRow(automatic, [prompt.count]), expected)
        #expect(apart > 0 && apart < together / 2, "\(apart), \(together)")
    }

    @Test func rewardScoresEqualTransformers() throws {
        let expected = try Expected("llama-reward", values: "scores")
        let decoder = try Self.decoder("llama-reward")
        let found = try expected.tokens.flatMap { try decoder.logits(of: $0).flatMap { $0 } }
        #expect(Self.relativeError(found, expected.values) <= 2e-5)
    }

    /// Prefill in chunks of any size, then token by token, beside another sequence: the rows of one pass.
    @Test(arguments: families) func chunksAndBatchesGiveTheLogitsOfOnePass(_ name: String) throws {
        let expected = try Expected(name)
        let decoder = try Self.decoder(name, threads: 3)
        let cache = try decoder.makeCache(tokens: 64, sequences: 2)
        let sequences = expected.tokens.map { _ in cache.makeSequence() }
        var rows = expected.tokens.map { _ in [Float]() }
        for (start, count) in [(0, 1), (1, 3), (4, 5), (9, 1), (10, 1), (11, 1)] {
            let inputs = zip(expected.tokens, sequences).map { tokens, sequence in
                DecoderInput(tokens: Array(tokens[start..<(start + count)]), sequence: sequence, logits: .all)
            }
            let logits = try decoder.forward(inputs, cache: cache).floats
            let width = decoder.outputWidth * count
            for index in rows.indices { rows[index] += logits[(index * width)..<((index + 1) * width)] }
        }
        #expect(Self.relativeError(rows.flatMap { $0 }, expected.values) <= 2e-5)
    }

    @Test func tokensFromOutsideAreChecked() throws {
        let decoder = try Self.decoder("llama2")
        #expect(throws: DecoderError.noTokens) { try decoder.logits(of: []) }
        #expect(throws: DecoderError.unknownToken(67, index: 1, vocabulary: 67)) { try decoder.logits(of: [1, 67]) }
        #expect(throws: DecoderError.unknownToken(-1, index: 0, vocabulary: 67)) { try decoder.logits(of: [-1]) }
        let many = [Int32](repeating: 1, count: 1025)
        #expect(throws: DecoderError.tooManyTokens(count: 1025, limit: 1024)) { try decoder.logits(of: many) }
    }
}
