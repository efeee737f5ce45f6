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
        for shape in GPUDecoderCheck.shapes { #expect(refusal(shape.configuration) == nil) }
    }

    /// Ranks have all heads, inner elements and tokens of the head among them, none twice, and the same latents or groups of the
    /// cache as ``ModelSharding`` says.
    @Test(arguments: [2, 4, 8]) func partsOfRanks(_ ranks: Int) throws {
        for (name, model) in GPURanksCheck.shapes {
            let whole = try GPUDecoderShape(model)
            #expect(whole.headTokens == 0..<model.vocabularySize)
            let parts = try (0..<ranks).map {
                try GPUDecoderShape(model, part: ModelSharding(model, rank: $0, ranks: ranks))
            }
            #expect(parts.reduce(0) { $0 + $1.heads } == whole.heads, "\(name)")
            #expect(parts.reduce(0) { $0 + $1.inner } == whole.inner, "\(name)")
            #expect(parts.reduce(0) { $0 + $1.attended } == whole.attended, "\(name)")
            #expect(parts.flatMap(\.headTokens) == Array(whole.headTokens), "\(name)")
            for part in parts {
                #expect(part.vocabulary == whole.vocabulary && part.width == whole.width && part.layers == whole.layers)
                let groups = whole.format.geometry.groups
                #expect(part.format.geometry.groups == max(groups / ranks, 1), "\(name)")
                #expect(part.format.geometry.key == whole.format.geometry.key, "the RoPE key is on every rank")
            }
        }
    }

    @Test func partsThatKernelsDoNotTakeAreRefusedByName() throws {
        // 72 elements of a feed-forward over 2 ranks are 36, no multiple of 8.
        let model = llama()
        let part = try ModelSharding(model, rank: 0, ranks: 2)
        #expect(
            throws: GPUDecoderError.unsupported(name: "feed-forward width", found: "36", expected: "a multiple of 8")
        ) {
            try GPUDecoder.require(model, part: part)
        }
    }

    @Test func expertsAreNotCut() throws {
        let model = llama {
            $0.architecture = .deepseekV2
            $0.experts = ExpertConfiguration(count: 8, expertsPerToken: 2, width: 32)
        }
        let part = try ModelSharding(model, rank: 0, ranks: 2)
        #expect(
            throws: GPUDecoderError.unsupported(
                name: "feed-forward over ranks", found: "experts", expected: "a dense one")
        ) {
            try GPUDecoder.require(model, part: part)
        }
    }

    @Test func whatItRefusesByName() {
        let changes: [(String, (inout DecoderConfiguration) -> Void)] = [
            ("shared width", { $0.attention = .tied(rotaryWidth: 8) }),
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

    @Test func whatItRefusesOfExperts() {
        func refusal(_ change: (inout ExpertConfiguration) -> Void) -> String? {
            self.refusal(
                llama {
                    var experts = ExpertConfiguration(count: 8, expertsPerToken: 2, width: 24, sharedWidth: 16)
                    change(&experts)
                    $0.experts = experts
                })
        }
        #expect(refusal { _ in } == nil)
        #expect(refusal { $0.count = 257 } == "experts")
        #expect(refusal { ($0.count, $0.expertsPerToken) = (64, 33) } == "experts a token")
        #expect(refusal { ($0.count, $0.selection) = (66, .groupLimited(groups: 33, kept: 2)) } == "groups of experts")
        #expect(refusal { $0.width = 20 } == "expert width")
        #expect(refusal { $0.sharedWidth = 20 } == "width of shared experts")
        let model = llama {
            $0.experts = ExpertConfiguration(count: 8, expertsPerToken: 2, width: 24)
            $0.feedForwardBias = true
        }
        #expect(self.refusal(model) == "feed-forward biases")
    }

    /// However rows share out their picks, their chunks are no more than there is room for.
    @Test func chunksOfExperts() {
        var random = SystemRandomNumberGenerator()
        for (count, perToken) in [(8, 2), (64, 6), (256, 8), (4, 4)] {
            let experts = ExpertConfiguration(count: count, expertsPerToken: perToken, width: 64)
            for rows in [1, 3, 64, 700] {
                let height = experts.stepHeight(rows: rows)
                #expect([8, 16, 32, 64].contains(height))
                for favourites in [count, perToken] {
                    var visits = [Int](repeating: 0, count: count)
                    for _ in 0..<rows {
                        for expert in (0..<favourites).shuffled(using: &random).prefix(perToken) { visits[expert] += 1 }
                    }
                    let chunks = visits.reduce(0) { $0 + ($1 + height - 1) / height }
                    #expect(chunks <= experts.chunks(rows: rows, height: height))
                }
            }
        }
    }

    @Test func whatItRefusesOfTiedAndLatentAttention() {
        func refusal(_ attention: AttentionConfiguration, _ change: (inout DecoderConfiguration) -> Void = { _ in })
            -> String?
        {
            self.refusal(
                llama {
                    ($0.attention, $0.headWidth, $0.rotary) = (attention, 64, RotaryConfiguration(width: 32))
                    change(&$0)
                })
        }
        func latent(_ change: (inout LatentConfiguration) -> Void = { _ in }) -> AttentionConfiguration {
            var widths = LatentConfiguration.gla(headWidth: 64, rotaryWidth: 32)
            change(&widths)
            return .latent(widths)
        }
        let tied = AttentionConfiguration.tied(rotaryWidth: 32)
        #expect(refusal(tied) == nil && refusal(latent()) == nil)
        #expect(refusal(latent { ($0.latentWidth, $0.rotaryWidth) = (512, 64) }) == nil)
        #expect(refusal(latent { $0.queryRank = nil }) == nil)
        for attention in [tied, latent()] {
            #expect(refusal(attention) { $0.windows = [16, nil] } == "sliding windows")
            #expect(refusal(attention) { $0.queryKeyNorm = true } == "norms of queries and keys")
        }
        #expect(refusal(.tied(rotaryWidth: 24)) == "shared width")
        #expect(refusal(latent { $0.latentWidth = 640 }) == "output width")
        #expect(refusal(latent { $0.latentWidth = 320 }) == "output width")
        #expect(refusal(latent { $0.latentWidth = 144 }) == "latent width")
        #expect(refusal(latent { $0.rotaryWidth = 40 }) == "key width")
        #expect(refusal(latent { $0.rotaryWidth = 80 }) == "key width")
        #expect(refusal(latent { $0.contentWidth = 36 }) == "content width")
        #expect(refusal(latent { $0.valueWidth = 36 }) == "value width")
        #expect(refusal(latent { $0.queryRank = 100 }) == "query latent")
        #expect(throws: Never.self) { try GPUDecoder.require(llama()) }
    }

    @Test func errorsSayWhatWasExpected() {
        let error = GPUDecoderError.limit(name: "sequences", found: 9, limit: 8)
        #expect("\(error)".contains("at most 8 sequences, found 9"))
        #expect("\(GPUDecoderError.noRoom(free: 10, pageBytes: 20))".contains("10 bytes"))
    }
}
