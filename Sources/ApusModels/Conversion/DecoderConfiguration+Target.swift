import ApusAttention

extension DecoderConfiguration {
    /// The GGUF architecture that holds such a model.
    /// - Throws: ``ModelFileError/unsupported(file:what:found:supported:)`` for what no architecture of GGUF says.
    func ggufArchitecture(source: String) throws -> String {
        let first = windows.first ?? nil
        guard windows.allSatisfy({ $0 == first }), slidingRotary == nil else {
            throw ModelFileError.unsupported(
                file: source, what: "for GGUF: sliding window", found: "some layers", supported: "all layers or none")
        }
        switch (architecture, attention) {
        case (.llama, .tied): return GGUFConfigurationReader.tiedName
        case (.llama, .latent): return GGUFConfigurationReader.latentName
        case (.llama, _), (.mistral, _): return "llama"
        case (.qwen2, _): return "qwen2"
        case (.qwen3, _): return "qwen3"
        case (.gptNeoX, _): return "gptneox"
        case (.deepseekV2, _), (.deepseekV3, _): return "deepseek2"
        case (.miniCPM3, _): return "minicpm3"
        }
    }

    /// The configuration with rows laid out as GGUF wants them.
    var inGGUF: DecoderConfiguration {
        var target = self
        switch (architecture, attention) {
        case (.llama, .grouped), (.mistral, _), (.deepseekV2, _), (.deepseekV3, _): target.rotary.style = .interleaved
        default: target.rotary.style = .halfSplit
        }
        if fusedQKV != nil { target.fusedQKV = .stacked }
        return target
    }

    /// The configuration with rows laid out as Hugging Face wants them. A Llama with windows, which GGUF knows, is a
    /// Mistral there.
    var inHuggingFace: DecoderConfiguration {
        var target = self
        switch architecture {
        case .deepseekV2, .deepseekV3: target.rotary.style = .interleaved
        default: target.rotary.style = .halfSplit
        }
        if fusedQKV != nil { target.fusedQKV = .perHead }
        if architecture == .llama, windows.contains(where: { $0 != nil }) { target.architecture = .mistral }
        return target
    }
}
