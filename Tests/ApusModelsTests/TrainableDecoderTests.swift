import ApusAttention
import ApusModels
import ApusTensor
import Foundation
import Testing

/// The training form: against transformers, against the decode form, and its gradients along random directions.
@Suite struct TrainableDecoderTests {
    @Test(arguments: [
        "llama2", "llama3", "smollm2", "mistral-window", "qwen2", "qwen2-tied", "qwen3", "gta", "gla", "gla-split",
        "mla",
    ])
    func logitsEqualTransformersAndTheFormulas(_ name: String) throws {
        let expected = try FamilyLogitsTests.Expected(name)
        let model = try TrainableDecoder(
            Checkpoints.open(FamilyLogitsTests.folder.appending(path: name).path), on: DifferentiableOperations())
        let starts = expected.tokens.reduce(into: [0]) { $0.append($0.last! + $1.count) }
        let logits = withoutGradients { model.logits(expected.tokens.flatMap { $0 }, model.batch(starts: starts)) }
        #expect(FamilyLogitsTests.relativeError(logits.floats, expected.values) <= 2e-5)
    }

    @Test func whatCannotBeTrainedIsNamed() throws {
        let error = #expect(throws: TrainingModelError.self) {
            _ = try TrainableDecoder(
                Checkpoints.open(FamilyLogitsTests.folder.appending(path: "gptneox").path),
                on: DifferentiableOperations())
        }
        #expect(error == .unsupported("layer norms"))
    }

    /// Odd sizes of every variant.
    static let variants: [String: DecoderConfiguration] = {
        func base(_ kvHeads: Int, rotary: Int, style: RotaryStyle = .halfSplit) -> DecoderConfiguration {
            DecoderConfiguration(
                architecture: .llama, vocabularySize: 61, hiddenSize: 40, layerCount: 2, queryHeads: 6,
                kvHeads: kvHeads, headWidth: 10, feedForwardWidth: 52,
                rotary: RotaryConfiguration(width: rotary, style: style), maxPositions: 64)
        }
        func latent(_ heads: Int, rank: Int?, splits: Bool = false) -> DecoderConfiguration {
            var configuration = base(6, rotary: 4)
            configuration.attention = .latent(
                LatentConfiguration(
                    latentHeads: heads, latentWidth: 18, rotaryWidth: 4, contentWidth: 10, valueWidth: 10,
                    queryRank: rank, splitsQueryLatent: splits, hasDownBias: true, hasUpBias: true))
            return configuration
        }
        var qwen3 = base(2, rotary: 10)
        qwen3.queryKeyNorm = true
        qwen3.attentionBias = true
        qwen3.tiesEmbeddings = true
        qwen3.windows[1] = 5
        var tied = base(3, rotary: 4)
        tied.attention = .tied(rotaryWidth: 4)
        return [
            "mha": base(6, rotary: 10), "mqa": base(1, rotary: 6), "gqa": base(2, rotary: 10, style: .interleaved),
            "gqa with norms, biases and a window": qwen3, "gta": tied, "mla": latent(1, rank: 14),
            "mla with full queries": latent(1, rank: nil), "gla": latent(2, rank: 14),
            "gla of three": latent(3, rank: 15),
            "gla_q": latent(2, rank: 14, splits: true),
        ]
    }()

    static let names = variants.keys.sorted()

    /// A checkpoint that would be read back as another model is not written.
    @Test func whatHasNoFormInFilesIsRefused() throws {
        var biased = DecoderConfiguration(
            architecture: .llama, vocabularySize: 13, hiddenSize: 8, layerCount: 1, queryHeads: 2, kvHeads: 1,
            headWidth: 4, feedForwardWidth: 8, rotary: RotaryConfiguration(width: 4), maxPositions: 16)
        var interleaved = biased
        var latent = biased
        biased.attentionBias = true
        interleaved.rotary.style = .interleaved
        latent.kvHeads = 2
        latent.attention = .latent(.gla(headWidth: 4, rotaryWidth: 4))
        for (configuration, what) in [
            (biased, "llama with attention biases"), (interleaved, "pairs of rotary embedding"), (latent, "attention"),
        ] {
            let model = try TrainableDecoder(initializing: configuration, seed: 1, on: DifferentiableOperations())
            let folder = try TestFolder()
            let error = #expect(throws: ModelFileError.self) { try model.writeHuggingFaceFiles(to: folder.path) }
            #expect("\(try #require(error))".contains("for safetensors: \(what)"))
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
        }
    }

    private func model(_ name: String, compute: DType = .f32) throws -> TrainableDecoder {
        let operations = DifferentiableOperations(compute: compute)
        // Weights large enough that attention is far from uniform.
        let model = try TrainableDecoder(
            initializing: Self.variants[name]!, seed: 3, deviation: 0.3, on: operations)
        return model
    }

    private let tokens: [Int32] = (0..<23).map { Int32(($0 * 37 + 11) % 61) }
    private var targets: [Int32] { tokens.map { $0 % 7 == 0 ? -1 : ($0 * 5 + 1) % 61 } }
    private let starts = [0, 9, 9, 10, 23]

    /// Training form and decode form of the same weights: the prompt in pieces of 1 to 5 tokens and as a whole.
    @Test(arguments: names, [[23], [1, 2, 3, 4, 5, 5, 3], [17, 1, 5]])
    func bothFormsAgree(_ name: String, _ pieces: [Int]) throws {
        let model = try model(name)
        let expected = withoutGradients { model.logits(tokens, model.batch(starts: [0, tokens.count])) }
        let decoder = try Decoder(checkpoint: MemoryCheckpoint(model), backend: CPUBackend(threads: 2))
        let cache = try decoder.makeCache(tokens: tokens.count, type: .f32)
        let sequence = cache.makeSequence()
        var (rows, start) = ([Float](), 0)
        for count in pieces {
            let input = DecoderInput(
                tokens: Array(tokens[start..<start + count]), sequence: sequence, logits: .all)
            rows += try decoder.forward([input], cache: cache).floats
            start += count
        }
        #expect(FamilyLogitsTests.relativeError(rows, expected.floats) <= 1e-5)
    }

    /// The loss along a random direction in the space of all weights changes as the gradient says.
    @Test(arguments: names) func gradientsFollowTheLoss(_ name: String) throws {
        let model = try model(name)
        let batch = model.batch(starts: starts)
        let (_, gradients) = valueAndGrad(model) { model.loss(tokens, targets: targets, batch).loss }
        for (index, (name, parameter)) in model.parameters().enumerated() {
            let gradient = try #require(gradients[name])
            // Along the sign of the gradient, so that the change stands well above float32's rounding.
            let direction = gradient.floats.enumerated().map { i, g in
                (g >= 0 ? 1 : -1) * Float((i &* 31 &+ index) % 5 + 1) / 5
            }
            let slope = zip(gradient.floats, direction).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
            guard slope > 1e-4 else {
                #expect(slope >= 0)
                continue
            }
            let values = parameter.value.floats
            let step = Float(min(0.02 / slope, 1e-2))
            func loss(at factor: Float) -> Double {
                parameter.update { value, _ in
                    value.withMutableElements(of: Float.self) { elements in
                        for i in elements.indices { elements[i] = values[i] + factor * direction[i] }
                    }
                    return false
                }
                return Double(withoutGradients { model.loss(tokens, targets: targets, batch).loss.floats[0] })
            }
            let measured =
                (8 * (loss(at: step) - loss(at: -step)) - (loss(at: 2 * step) - loss(at: -2 * step)))
                / (12 * Double(step))
            _ = loss(at: 0)
            #expect(abs(measured - slope) < 5e-3 * slope, "\(name): \(measured) measured, \(slope) from the gradient")
        }
    }

    @Test(arguments: names) func checkpointingLayersChangesNoBit(_ name: String) throws {
        let model = try model(name, compute: .bf16)
        let batch = model.batch(starts: starts)
        let plain = valueAndGrad(model) { model.loss(tokens, targets: targets, batch).loss }
        model.checkpointsLayers = true
        let again = valueAndGrad(model) { model.loss(tokens, targets: targets, batch).loss }
        #expect(plain.value == again.value)
        for (name, gradient) in plain.gradients { #expect(gradient.floats == again.gradients[name]!.floats, "\(name)") }
    }

    /// Sequences of a batch do not see one another.
    @Test(arguments: names) func packingChangesNoSequence(_ name: String) throws {
        let model = try model(name)
        let packed = withoutGradients { model.logits(tokens, model.batch(starts: starts)) }
        let last = Array(tokens[10...])
        let alone = withoutGradients { model.logits(last, model.batch(starts: [0, last.count])) }
        #expect(FamilyLogitsTests.relativeError(packed.rows(10..<23).reshaped([13, 61]).floats, alone.floats) < 1e-6)
    }

    @Test(arguments: names) func bfloat16StaysNearFloat32(_ name: String) throws {
        let exact = try model(name)
        let rounded = try model(name, compute: .bf16)
        let batch = exact.batch(starts: starts)
        let a = withoutGradients { rounded.logits(tokens, batch) }
        let b = withoutGradients { exact.logits(tokens, batch) }
        #expect(FamilyLogitsTests.relativeError(a.floats, b.floats) < 3e-2)
    }
}
