import ApusModels
import ApusTeaching
import ApusTensor
import ApusTraining
import Testing

/// Outputs drawn from weights that are being trained.
@Suite struct RolloutTests {
    private func requests(_ samples: Int = 3) -> [RolloutRequest] {
        // A long prompt too: beyond a page and a step.
        let long = (0..<140).map { Int32($0 % 200) }
        return PolicyFixture.prompts.prefix(4).map {
            RolloutRequest(prompt: $0.index, tokens: $0.tokens, samples: samples, seed: UInt64(100 * $0.index))
        } + [RolloutRequest(prompt: 9, tokens: long, samples: samples, seed: 77)]
    }

    private func trainerLogProbabilities(
        _ model: TrainableDecoder, _ requests: [RolloutRequest], _ drawn: [[Rollout]]
    ) -> [[[Float]]] {
        zip(requests, drawn).map { request, outputs in
            outputs.map { output in
                let tokens = request.tokens + output.tokens.dropLast()
                let targets = Array(repeating: Int32(-1), count: request.tokens.count - 1) + output.tokens
                let all = withoutGradients {
                    model.loss(tokens, targets: targets, model.batch(starts: [0, tokens.count]))
                        .logProbabilities.floats
                }
                return Array(all.suffix(output.tokens.count))
            }
        }
    }

    private func largestDifference(_ drawn: [[Rollout]], _ found: [[[Float]]]) -> Float {
        zip(drawn.joined(), found.joined()).reduce(0) { largest, pair in
            zip(pair.0.logProbabilities, pair.1).reduce(largest) { max($0, abs($1.0 - $1.1)) }
        }
    }

    /// On a GPU outputs are drawn there, unless its decoder does not serve the policy or the recipe says otherwise.
    @Test func whereOutputsAreDrawn() throws {
        func place(
            _ attention: RecipeAttention = .gqa, _ device: Device = .cuda(0), asked: Device? = nil,
            logProbabilities: PolicyLogProbabilities = .trainer, latentWidth: Int? = nil
        ) throws -> (isGPU: Bool, note: String?) {
            var recipe = Recipe()
            recipe.model.attention = attention
            recipe.model.latentWidth = latentWidth
            recipe.training.device = device
            recipe.policyGradient.rolloutDevice = asked
            recipe.policyGradient.logProbabilities = logProbabilities
            let policy = try recipe.model.decoderConfiguration(vocabulary: 100, maxPositions: 64)
            return try PolicyGradientTask.placeOfRollouts(recipe, policy)
        }
        for (found, isGPU) in [
            (try place(), true), (try place(.mha, asked: .cuda(0)), true), (try place(.gqa, .cpu), false),
            (try place(asked: .cpu), false),
        ] {
            #expect(found.isGPU == isGPU)
            #expect(found.note == nil)
        }
        for attention in [RecipeAttention.gta, .mla, .gla] { #expect(try place(attention).isGPU) }
        let refused = try place(.mla, latentWidth: 320)
        #expect(!refused.isGPU)
        #expect(refused.note?.contains("320") == true)
        #expect(throws: GPUDecoderError.self) { try place(.mla, asked: .cuda(0), latentWidth: 320) }
        #expect(try place(logProbabilities: .engine).note?.contains("log_probabilities") == true)
    }

    /// Engine and trainer agree, before an update and after it, when the engine reads the new weights where they are.
    @Test(arguments: [RecipeAttention.mha, .mqa, .gqa, .gta, .mla, .gla])
    func logProbabilitiesAreTheTrainers(_ attention: RecipeAttention) async throws {
        let model = try PolicyFixture.model(attention, deviation: 0.3)
        let engine = try PolicyFixture.engine(model)
        let requests = requests()
        let first = try await engine.draw(requests)
        #expect(largestDifference(first, trainerLogProbabilities(model, requests, first)) <= 1e-4)

        // The kernels that draw give each token the same number when they read it, to the last bit.
        func read() async throws -> [[Float]] {
            try await engine.logProbabilities(
                of: zip(requests, first).flatMap { request, outputs in
                    outputs.map { (request.prompt, request.tokens, $0.tokens) }
                })
        }
        #expect(try await read() == first.joined().map(\.logProbabilities))

        let optimizer = AdamW(model, AdamW.Settings(), on: model.operations.backend)
        model.loss([1, 2, 3, 4], targets: [2, 3, 4, 5], model.batch(starts: [0, 4])).loss.backward()
        optimizer.update(learningRate: 0.05, norm: optimizer.gradientNorm())
        try await engine.refresh()
        let second = try await engine.draw(requests)
        let found = trainerLogProbabilities(model, requests, second)
        #expect(largestDifference(second, found) <= 1e-4)
        #expect(try await read() != first.joined().map(\.logProbabilities))
        // The update was large enough to tell.
        #expect(largestDifference(first, trainerLogProbabilities(model, requests, first)) > 1e-2)
    }

    @Test func outputsDependOnTheirSeedAlone() async throws {
        let model = try PolicyFixture.model(deviation: 0.3)
        let engine = try PolicyFixture.engine(model)
        let requests = requests()
        let together = try await engine.draw(requests)
        for (request, outputs) in zip(requests, together) {
            let alone = try await engine.draw([request])
            #expect(alone == [outputs])
            // Output i is the only output of the seed i later.
            var one = request
            one.samples = 1
            one.seed += 2
            let single = try await engine.draw([one])
            #expect(single[0][0] == outputs[2])
        }
        // More outputs than run at once.
        var many = requests[1]
        many.samples = 70
        let all = try await engine.draw([many])[0]
        #expect(all.count == 70 && Array(all.prefix(3)) == together[1])
        many.seed += 64
        many.samples = 6
        #expect(try await engine.draw([many])[0] == Array(all.suffix(6)))
        #expect(Set(together[0].map(\.tokens)).count > 1)
    }

    @Test func outputsEndWithTheirEndOrAtTheLimit() async throws {
        let model = try PolicyFixture.model(deviation: 0)
        let engine = try PolicyFixture.engine(model, prompt: 4, output: 40, sequences: 64)
        // Uniform over the vocabulary: about one in seven outputs of 40 tokens ends.
        let outputs = try await engine.draw([RolloutRequest(prompt: 0, tokens: [1], samples: 64, seed: 1)])[0]
        for output in outputs {
            #expect(output.isComplete == (output.tokens.last == PolicyFixture.end))
            #expect(output.isComplete || output.tokens.count == 40)
            #expect(output.tokens.dropLast().allSatisfy { $0 != PolicyFixture.end })
            #expect(output.logProbabilities.count == output.tokens.count)
        }
        #expect(outputs.contains { $0.isComplete } && outputs.contains { !$0.isComplete })
    }

    @Test func whatDoesNotFitIsNamed() throws {
        let model = try PolicyFixture.model()
        #expect(throws: PolicyGradientError.promptsDoNotFit(context: 256, prompt: 200, output: 57)) {
            try PolicyFixture.engine(model, prompt: 200, output: 57)
        }
    }
}
