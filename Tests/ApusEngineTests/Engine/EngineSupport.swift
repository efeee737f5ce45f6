import ApusEngine
import ApusModels
import ApusTensor
import ApusText
import Foundation

/// Small models with random weights, made by other programs.
enum TestModels {
    /// Vocabulary of the models.
    static let vocabulary = 67

    /// A model of `Tests/Fixtures/models`, with a tokenizer of bytes.
    static func load(
        _ name: String, backend: any Backend = CPUBackend.shared, endTokens: Set<Int32> = [2]
    ) throws -> LanguageModel {
        let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        let checkpoint = try Checkpoints.open("\(root)/Fixtures/models/\(name)")
        return LanguageModel(
            decoder: try Decoder(checkpoint: checkpoint, backend: backend), tokenizer: try tokenizer.get(),
            chatTemplate: nil, samplingDefaults: SamplingParameters(), endTokens: endTokens)
    }

    private static let tokenizer = Result {
        try BPETrainer(vocabularySize: 260, specialTokens: ["<s>", "</s>", "<x>"]).train(["a text"]).tokenizer()
    }

    static func greedy(_ count: Int) -> SamplingParameters {
        var parameters = SamplingParameters()
        (parameters.maxTokens, parameters.ignoreEndOfSequence) = (count, true)
        return parameters
    }

    static func prompt(seed: Int, count: Int, vocabulary: Int = vocabulary) -> [Int32] {
        var state = UInt64(seed) &+ 1
        return (0..<count).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int32((state >> 33) % UInt64(vocabulary))
        }
    }
}

/// What came on a stream.
struct Collected {
    struct Sample {
        var text = ""
        var tokens: [SampledToken] = []
        var reason: FinishReason?
        var statistics = GenerationStatistics()
    }

    var samples: [Int: Sample] = [:]
    var cached: Int?
    var promptLogprobs: [SampledToken] = []
    var error: EngineError?
}

func collect(_ stream: GenerationStream) async -> Collected {
    var result = Collected()
    for await event in stream {
        switch event {
        case .started(let cached): result.cached = cached
        case .promptLogprobs(let logprobs): result.promptLogprobs = logprobs
        case .piece(let index, let piece):
            result.samples[index, default: .init()].text += piece.text
            result.samples[index, default: .init()].tokens += piece.tokens
        case .finished(let index, let reason, let statistics):
            result.samples[index, default: .init()].reason = reason
            result.samples[index, default: .init()].statistics = statistics
        case .failed(let error): result.error = error
        }
    }
    return result
}

extension Collected {
    subscript(_ index: Int) -> Sample { samples[index] ?? Sample() }
}
