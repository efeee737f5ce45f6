import ApusAttention
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension DecoderConfiguration {
    /// The configuration in a GGUF file's metadata (source: the GGUF specification's standardised keys and llama.cpp's
    /// defaults for absent ones). Presence of bias, head and score tensors is read from the file's tensor list.
    public init(gguf file: GGUFFile) throws {
        let reader = try GGUFConfigurationReader(file)
        let layers = try reader.required("block_count", 1...Self.maximumLayers)
        let hidden = try reader.required("embedding_length", 1...Self.maximumWidth)
        let queryHeads = try reader.required("attention.head_count", 1...Self.maximumWidth)
        let headWidth = try reader.integer("attention.key_length") ?? hidden / queryHeads
        self.init(
            architecture: reader.architecture, vocabularySize: try reader.vocabularySize(), hiddenSize: hidden,
            layerCount: layers, queryHeads: queryHeads,
            kvHeads: try reader.integer("attention.head_count_kv") ?? queryHeads, headWidth: headWidth,
            feedForwardWidth: try reader.required("feed_forward_length", 1...(4 * Self.maximumWidth)),
            rotary: try reader.rotary(headWidth: headWidth),
            maxPositions: try reader.integer("context_length") ?? 2048)
        try reader.checkUnused(headWidth: headWidth)
        if reader.architecture == .gptNeoX {
            normKind = .layer
            normEpsilon = try reader.number("attention.layer_norm_epsilon") ?? 1e-5
            activation = .gelu
            fusedQKV = .stacked
            parallelResidual = try reader.bool("use_parallel_residual") ?? true
        } else {
            normEpsilon = try reader.number("attention.layer_norm_rms_epsilon") ?? 1e-5
            queryKeyNorm = reader.architecture == .qwen3
        }
        attentionBias = reader.has(fusedQKV == nil ? .queryBias : .fusedQKVBias)
        attentionOutputBias = reader.has(.outputBias)
        feedForwardBias = reader.has(.upBias)
        if let window = try reader.integer("attention.sliding_window"), window > 0 {
            windows = Array(repeating: window, count: layers)
        }
        if let labels = file.info(TensorNames.gguf.name(of: .score))?.extents.first {
            head = .score(labels: labels)
        }
        tiesEmbeddings = file.info(TensorNames.gguf.name(of: .head)) == nil
        bosToken = try file.metadata.integer("tokenizer.ggml.bos_token_id")
        padToken = try file.metadata.integer("tokenizer.ggml.padding_token_id")
        for name in ["eos", "eot", "eom"] {
            if let token = try file.metadata.integer("tokenizer.ggml.\(name)_token_id"), !eosTokens.contains(token) {
                eosTokens.append(token)
            }
        }
        let query = TensorRole.layer(0, fusedQKV == nil ? .query : .fusedQKV)
        weightDType = file.info(TensorNames.gguf.name(of: query))?.type.dtype
        try validate(source: file.file.name)
        dropForeignTokens()
    }
}

/// Reads an architecture's keys from GGUF metadata.
private struct GGUFConfigurationReader {
    let architecture: DecoderConfiguration.Architecture
    private let file: GGUFFile
    private let prefix: String

    /// Architectures under GGUF's names. Mistral's files say `llama`.
    private static let architectures: [(name: String, architecture: DecoderConfiguration.Architecture)] = [
        ("llama", .llama), ("qwen2", .qwen2), ("qwen3", .qwen3), ("gptneox", .gptNeoX),
    ]

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
        architecture = entry.architecture
    }

    private func malformed(_ key: String, _ expected: String, _ found: String) -> ModelFileError {
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
    func checkUnused(headWidth: Int) throws {
        if let experts = try integer("expert_count"), experts > 0 {
            throw ModelFileError.unsupported(
                file: file.file.name, what: "mixture of experts: \(prefix).expert_count", found: "\(experts)",
                supported: "0")
        }
        if let width = try integer("attention.value_length"), width != headWidth {
            throw malformed("\(prefix).attention.value_length", "the key length \(headWidth)", "\(width)")
        }
    }

    func rotary(headWidth: Int) throws -> RotaryConfiguration {
        RotaryConfiguration(
            width: try integer("rope.dimension_count") ?? headWidth, theta: try number("rope.freq_base") ?? 10000,
            scaling: try scaling(), style: architecture == .llama ? .interleaved : .halfSplit)
    }

    private func scaling() throws -> RotaryScaling {
        if let factors = try frequencyFactors() { return .perFrequency(factors) }
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
            return .yarn(
                factor: factor, betaFast: try number("rope.scaling.yarn_beta_fast") ?? 32,
                betaSlow: try number("rope.scaling.yarn_beta_slow") ?? 1,
                originalContext: try integer("rope.scaling.original_context_length") ?? integer("context_length")
                    ?? 2048,
                attentionFactor: multiplier * yarnAttentionFactor(factor))
        default:
            throw ModelFileError.unsupported(
                file: file.file.name, what: "key \(key)", found: type.abbreviated(), supported: "none, linear, yarn")
        }
    }

    /// Llama 3's scaling, which its GGUF files state as one divisor per frequency.
    private func frequencyFactors() throws -> [Float]? {
        let name = "rope_freqs.weight"
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
