import ApusAttention
import ApusModels
import ApusTensor
import Testing

@Suite struct GPUDecoderTests {
    private func llama(_ change: (inout DecoderConfiguration) -> Void = { _ in }) -> DecoderConfiguration {
        var model = DecoderConfiguration(
            architecture: .llama, vocabularySize: 100, hiddenSize: 64, layerCount: 2, queryHeads: 4, kvHeads: 2,
            headWidth: 16, feedForwardWidth: 72, rotary: RotaryConfiguration(width: 16), maxPositions: 128)
        change(&model)
        return model
    }

    /// What is wrong with a model for the GPU's kernels, by name.
    private func refusal(_ model: DecoderConfiguration) -> String? {
        do {
            try GPUDecoder.require(model)
            return nil
        } catch {
            guard case .unsupported(let name, _, _) = error else { return "\(error)" }
            return name
        }
    }

    @Test func whatItServes() {
        #expect(refusal(llama()) == nil)
        #expect(refusal(llama { $0.windows = [16, nil] }) == nil)
        #expect(refusal(llama { ($0.queryKeyNorm, $0.attentionBias) = (true, true) }) == nil)
        for (_, configuration) in GPUDecoderCheck.shapes { #expect(refusal(configuration) == nil) }
    }

    @Test func whatItRefusesByName() {
        let changes: [(String, (inout DecoderConfiguration) -> Void)] = [
            ("attention", { $0.attention = .tied(rotaryWidth: 8) }),
            ("head", { $0.head = .score(labels: 1) }),
            ("norm", { $0.normKind = .layer }),
            ("activation", { $0.activation = .gelu }),
            ("residual", { $0.parallelResidual = true }),
            ("residual scale", { $0.residualScale = 0.5 }),
            ("head width", { $0.headWidth = 12 }),
            ("hidden size", { $0.hiddenSize = 60 }),
            ("feed-forward width", { $0.feedForwardWidth = 70 }),
            ("rotary width", { $0.slidingRotary = RotaryConfiguration(width: 8) }),
            (
                "rotary scaling",
                {
                    $0.rotary.scaling = .longRope(
                        short: [Float](repeating: 1, count: 8), long: [Float](repeating: 2, count: 8),
                        originalContext: 64,
                        attentionFactor: 1)
                }
            ),
            ("sliding windows", { ($0.queryHeads, $0.kvHeads, $0.windows) = (16, 1, [16, nil]) }),
        ]
        for (name, change) in changes { #expect(refusal(llama(change)) == name) }
    }

    @Test func errorsSayWhatWasExpected() {
        let error = GPUDecoderError.limit(name: "sequences", found: 9, limit: 8)
        #expect("\(error)".contains("at most 8 sequences, found 9"))
        #expect("\(GPUDecoderError.noRoom(free: 10, pageBytes: 20))".contains("10 bytes"))
    }
}
