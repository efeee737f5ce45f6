import ApusAttention
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Reads an architecture's keys from GGUF metadata.
struct GGUFConfigurationReader {
    let architecture: DecoderConfiguration.Architecture
    let file: GGUFFile
    let prefix: String

    /// Architectures under GGUF's names. Mistral's files say `llama`.
    /// `apus-gta` and `apus-gla` are this project's own, for models that no other reader of GGUF knows.
    private static let architectures: [(name: String, architecture: DecoderConfiguration.Architecture)] = [
        ("llama", .llama), ("qwen2", .qwen2), ("qwen3", .qwen3), ("gptneox", .gptNeoX), ("deepseek2", .deepseekV2),
        ("minicpm3", .miniCPM3), (tiedName, .llama), (latentName, .llama),
    ]
    /// Llama with grouped-tied attention.
    static let tiedName = "apus-gta"
    /// Llama with grouped latent attention.
    static let latentName = "apus-gla"

    init(_ file: GGUFFile) throws {
        self.file = file
        guard let name = try file.metadata.string("general.architecture") else {
            throw ModelFileError.missingKey(file: file.file.name, key: "general.architecture")
        }
        guard let entry = Self.architectures.first(where: { $0.name == name }) else {
            throw ModelFileError.unsupported(
                file: file.file.name, what: "architecture", found: name.abbreviated(),
                supported: Self.architectures.map(\.name).joined(separator: ", "))
        }
        prefix = name
        // DeepSeek-V2 and V3 share a name; the third's router is the logistic one.
        let gating = try file.metadata.integer("\(name).expert_gating_func")
        architecture = entry.architecture == .deepseekV2 && gating == 2 ? .deepseekV3 : entry.architecture
    }

    func malformed(_ key: String, _ expected: String, _ found: String) -> ModelFileError {
        .malformed(file: file.file.name, place: "key \(key)", expected: expected, found: found)
    }

    /// An integer, or an array with the same integer for each layer.
    func integer(_ suffix: String) throws -> Int? {
        let key = "\(prefix).\(suffix)"
        guard let array = file.metadata[key]?.array else { return try file.metadata.integer(key) }
        guard let values = array.integers, let first = values.first, values.allSatisfy({ $0 == first }) else {
            throw malformed(key, "one integer for all layers", "\(array.count) \(array.elementType) that differ")
        }
        return first
    }

    func required(_ suffix: String, _ range: ClosedRange<Int>) throws -> Int {
        let key = "\(prefix).\(suffix)"
        guard let value = try integer(suffix) else {
            throw ModelFileError.missingKey(file: file.file.name, key: key)
        }
        guard range.contains(value) else {
            throw malformed(key, "\(range.lowerBound) to \(range.upperBound)", "\(value)")
        }
        return value
    }

    func number(_ suffix: String) throws -> Double? { try file.metadata.number("\(prefix).\(suffix)") }

    func bool(_ suffix: String) throws -> Bool? { try file.metadata.bool("\(prefix).\(suffix)") }

    func has(_ tensor: LayerTensor) -> Bool { file.info(TensorNames.gguf.name(of: .layer(0, tensor))) != nil }

    /// Rows of the embedding; a file without tensors (a vocabulary alone) counts its tokens.
    func vocabularySize() throws -> Int {
        if let rows = file.info(TensorNames.gguf.name(of: .tokenEmbedding))?.extents.first { return rows }
        if let tokens = try file.metadata.array("tokenizer.ggml.tokens", of: .string) { return tokens.count }
        return try required("vocab_size", 1...Int(Int32.max))
    }

    /// Refuses, by name, settings that would change the result and that this decoder does not support.
    func checkUnused(_ attention: AttentionConfiguration, headWidth: Int) throws {
        if !architecture.isDeepSeekLike, let experts = try integer("expert_count"), experts > 0 {
            throw ModelFileError.unsupported(
                file: file.file.name, what: "mixture of experts: \(prefix).expert_count", found: "\(experts)",
                supported: "0")
        }
        if case .latent = attention { return }
        if let width = try integer("attention.value_length"), width != headWidth {
            throw malformed("\(prefix).attention.value_length", "the key length \(headWidth)", "\(width)")
        }
    }

    func rotary(_ attention: AttentionConfiguration, headWidth: Int) throws -> RotaryConfiguration {
        let isDeepSeek = architecture == .deepseekV2 || architecture == .deepseekV3
        let isInterleaved = isDeepSeek || architecture == .llama && attention == .grouped
        return RotaryConfiguration(
            width: try integer("rope.dimension_count") ?? headWidth, theta: try number("rope.freq_base") ?? 10000,
            scaling: try scaling(), style: isInterleaved ? .interleaved : .halfSplit)
    }

    private func scaling() throws -> RotaryScaling {
        if let factors = try frequencyFactors("rope_freqs.weight") { return .perFrequency(factors) }
        let key = "\(prefix).rope.scaling.type"
        // Files from before the key existed state a linear factor alone.
        let legacy = try number("rope.scale_linear")
        let type = try file.metadata.string(key) ?? (legacy == nil ? "none" : "linear")
        let factor = try number("rope.scaling.factor") ?? legacy ?? 1
        switch type {
        case "none": return .none
        case "linear": return factor == 1 ? .none : .linear(factor: factor)
        case "yarn":
            guard factor > 0 else { throw malformed("\(prefix).rope.scaling.factor", "a number above 0", "\(factor)") }
            let multiplier = try number("rope.scaling.yarn_attn_factor") ?? number("rope.scaling.attn_factor") ?? 1
            // DeepSeek's files sharpen the scores instead of scaling cosine and sine.
            let derived = architecture.isDeepSeekLike ? 1 : yarnAttentionFactor(factor)
            return .yarn(
                factor: factor, betaFast: try number("rope.scaling.yarn_beta_fast") ?? 32,
                betaSlow: try number("rope.scaling.yarn_beta_slow") ?? 1,
                originalContext: try integer("rope.scaling.original_context_length") ?? integer("context_length")
                    ?? 2048,
                attentionFactor: multiplier * derived)
        case "longrope":
            guard let short = try frequencyFactors("rope_factors_short.weight"),
                let long = try frequencyFactors("rope_factors_long.weight")
            else { throw ModelFileError.missingTensor(file: file.file.name, tensor: "rope_factors_short.weight") }
            return .longRope(
                short: short, long: long,
                originalContext: try integer("rope.scaling.original_context_length") ?? integer("context_length")
                    ?? 2048, attentionFactor: try number("rope.scaling.attn_factor") ?? 1)
        default:
            throw ModelFileError.unsupported(
                file: file.file.name, what: "key \(key)", found: type.abbreviated(),
                supported: "none, linear, yarn, longrope")
        }
    }

    /// One divisor per frequency: Llama 3's scaling, or LongRoPE's.
    private func frequencyFactors(_ name: String) throws -> [Float]? {
        guard file.info(name) != nil else { return nil }
        let tensor = try file.tensor(named: name)
        guard tensor.dtype == .f32, tensor.shape.rank == 1 else {
            throw ModelFileError.tensorDType(
                file: file.file.name, tensor: name, expected: "a vector of f32",
                found: "\(tensor.dtype) \(tensor.shape)")
        }
        return tensor.floats
    }
}
