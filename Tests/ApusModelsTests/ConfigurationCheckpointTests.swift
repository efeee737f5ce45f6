import ApusAttention
import ApusModels
import ApusTensor
import Testing

/// Models that transformers and gguf wrote under `Tests/Fixtures/models`.
@Suite struct ConfigurationCheckpointTests {
    static let safetensors = [
        "llama2", "llama3", "llama3-older-config", "llama-bf16", "llama-sharded", "llama-reward", "smollm2",
        "mistral-window", "qwen2", "qwen2-older-config", "qwen2-tied", "qwen3", "gptneox", "gptneox-sequential",
        "gptneox-older-config",
    ]
    static let gguf = ["llama2", "llama3", "qwen2", "qwen3", "gptneox"]

    @Test(arguments: safetensors)
    func everyWeightOfAFolderIsFoundOnce(_ name: String) throws {
        let checkpoint = try Checkpoints.open(Fixtures.path("models/\(name)"))
        try checkComplete(checkpoint)
    }

    @Test(arguments: gguf)
    func everyWeightOfAGGUFFileIsFoundOnce(_ name: String) throws {
        let checkpoint = try Checkpoints.open(Fixtures.path("models/\(name)/model.gguf"))
        try checkComplete(checkpoint, besides: ["rope_freqs.weight"])
    }

    @Test(arguments: gguf)
    func bothFormatsOfAModelAgree(_ name: String) throws {
        let folder = try Checkpoints.open(Fixtures.path("models/\(name)")).configuration
        var file = try Checkpoints.open(Fixtures.path("models/\(name)/model.gguf")).configuration
        #expect(abs(file.normEpsilon - folder.normEpsilon) < 1e-10)
        // What the formats state differently by design, or one of them not at all.
        file.normEpsilon = folder.normEpsilon
        file.rotary.style = folder.rotary.style
        file.fusedQKV = folder.fusedQKV
        (file.bosToken, file.eosTokens, file.padToken) = (folder.bosToken, folder.eosTokens, folder.padToken)
        if case .perFrequency(let factors) = file.rotary.scaling {
            let plain = RotaryConfiguration(width: folder.rotary.width, theta: folder.rotary.theta).embedding
            let expected = zip(plain.inverseFrequencies, folder.rotary.embedding.inverseFrequencies).map(/)
            #expect(factors.count == expected.count)
            for (found, wanted) in zip(factors, expected) { #expect(abs(Double(found) / wanted - 1) < 1e-6) }
            file.rotary.scaling = folder.rotary.scaling
        }
        #expect(file == folder)
    }

    /// Every role resolves to a tensor of the right shape, and no tensor is left over.
    private func checkComplete(_ checkpoint: any Checkpoint, besides extra: Set<String> = []) throws {
        let roles = checkpoint.configuration.tensorRoles
        for role in roles { _ = try checkpoint.finiteTensor(role) }
        let names = roles.map { checkpoint.name(of: $0) }
        #expect(Set(names) == Set(checkpoint.tensorNames).subtracting(extra))
        #expect(names.count == Set(names).count)
    }

    @Test func familiesDifferWhereTheyShould() throws {
        func configuration(_ name: String) throws -> DecoderConfiguration {
            try Checkpoints.open(Fixtures.path("models/\(name)")).configuration
        }
        let llama3 = try configuration("llama3")
        #expect(
            llama3.rotary.scaling
                == .llama3(factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContext: 128))
        #expect(try configuration("llama3-older-config") == llama3)
        #expect(llama3.tiesEmbeddings && llama3.kvHeads == 2 && llama3.queryHeads == 4)
        let mistral = try configuration("mistral-window")
        #expect(mistral.architecture == .mistral && mistral.windows == [5, 5])
        let qwen2 = try configuration("qwen2")
        #expect(qwen2.attentionBias && !qwen2.attentionOutputBias && qwen2.windows == [nil, nil])
        #expect(try configuration("qwen2-older-config") == qwen2)
        let qwen3 = try configuration("qwen3")
        #expect(qwen3.queryKeyNorm && !qwen3.attentionBias && qwen3.headWidth == 12 && qwen3.rotary.theta == 1e6)
        let neoX = try configuration("gptneox")
        #expect(neoX.parallelResidual && neoX.normKind == .layer && neoX.fusedQKV == .perHead && !neoX.isGated)
        #expect(neoX.rotary.width == 4 && neoX.activation == .gelu && neoX.feedForwardBias)
        #expect(try configuration("gptneox-older-config") == neoX)
        #expect(try !configuration("gptneox-sequential").parallelResidual)
        #expect(try configuration("llama-reward").head == .score(labels: 1))
        #expect(try configuration("llama-bf16").weightDType == .bf16)
        #expect(try configuration("llama2").eosTokens == [2])
    }
}
