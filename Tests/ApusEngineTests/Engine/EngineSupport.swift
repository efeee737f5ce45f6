import ApusEngine
import ApusModels
import ApusSynchronization
import ApusTensor
import ApusText
import Foundation

/// Small models with random weights, made by other programs.
enum TestModels {
    /// Vocabulary of the models.
    static let vocabulary = 67

    /// A model of `Tests/Fixtures/models`, with a tokenizer of bytes.
    static func load(_ name: String, endTokens: Set<Int32> = [2]) throws -> LanguageModel {
        try model(try checkpoint(name), endTokens: endTokens)
    }

    /// A model some of whose weights are quantised: those whose rows are whole blocks.
    static func wide(_ type: DType) throws -> LanguageModel {
        try model(
            ChangedCheckpoint(base: try checkpoint("qwen3")) { _, tensor in
                guard tensor.shape.rank == 2, tensor.shape[1] % 32 == 0 else { return tensor }
                return try tensor.encoded(as: type, backend: CPUBackend.shared)
            })
    }

    /// A model with some weights doubled.
    static func scaled(_ name: String) throws -> LanguageModel {
        try model(
            ChangedCheckpoint(base: try checkpoint(name)) { name, tensor in
                guard name.contains("down_proj") || name.contains("o_proj") else { return tensor }
                return Tensor(try tensor.float32().floats.map { $0 * 40 }, shape: tensor.shape)
            })
    }

    /// A model that gives NaN after one token. A loader refuses a NaN, so it comes when the embedding is read again.
    static func poisoned(token: Int) throws -> LanguageModel {
        let base = try checkpoint("llama2")
        let embedding = base.name(of: .tokenEmbedding)
        let readings = Locked(0)
        return try model(
            ChangedCheckpoint(base: base) { name, tensor in
                guard name == embedding else { return tensor }
                let count = readings.withLock { count in
                    count += 1
                    return count
                }
                var values = try tensor.float32().floats
                if count > 1 { values[token * tensor.shape[1]] = .nan }
                return Tensor(values, shape: tensor.shape)
            })
    }

    private static func checkpoint(_ name: String) throws -> any Checkpoint {
        let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        return try Checkpoints.open("\(root)/Fixtures/models/\(name)")
    }

    private static func model(_ checkpoint: any Checkpoint, endTokens: Set<Int32> = [2]) throws -> LanguageModel {
        LanguageModel(
            decoder: try Decoder(checkpoint: checkpoint, backend: CPUBackend.shared), tokenizer: try tokenizer.get(),
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

/// A checkpoint with some tensors changed as they are read.
struct ChangedCheckpoint: Checkpoint {
    let base: any Checkpoint
    let change: @Sendable (String, Tensor) throws -> Tensor

    var name: String { base.name }
    var configuration: DecoderConfiguration { base.configuration }
    var tensorNaming: TensorNames { base.tensorNaming }
    var generationDefaults: GenerationDefaults { base.generationDefaults }
    var tokenizer: TokenizerSource { base.tokenizer }
    func chatTemplate() throws -> String? { try base.chatTemplate() }
    var tensorNames: [String] { base.tensorNames }
    func hasTensor(named name: String) -> Bool { base.hasTensor(named: name) }
    func tensor(named name: String) throws -> Tensor { try change(name, try base.tensor(named: name)) }
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
