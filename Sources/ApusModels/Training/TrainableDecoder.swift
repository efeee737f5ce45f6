import ApusAttention
import ApusTensor

/// A decoder in its training form: the same weights as ``Decoder``, under the same names, differentiable.
///
/// The Llama family (Llama, Mistral, Qwen2, Qwen3), GTA and GLA models, and DeepSeek-V2/V3 without experts: pre-norm RMSNorm
/// and SwiGLU. What it cannot train is a ``TrainingModelError`` by name.
public final class TrainableDecoder: Module {
    /// What the model is.
    public let configuration: DecoderConfiguration
    /// The operations it runs on.
    public let operations: DifferentiableOperations
    /// Whether layers keep only their inputs, and run again for their gradients.
    public var checkpointsLayers = false
    let names: TensorNames
    private let weights: [TensorRole: Parameter]
    private let layers: [Layer]

    /// The weights and the form of one layer.
    private struct Layer {
        let attention: any AttentionTrainingForm
        let output: Projection
        let feedForwardNorm: Parameter
        let gate: Parameter
        let up: Parameter
        let down: Parameter
        /// The norm after the layer: the next layer's first, or the final one.
        let nextNorm: Parameter
    }

    /// A model whose weights come from `tensor`: float32, of the shape asked for, not shared with anybody.
    /// - Throws: ``TrainingModelError`` where the configuration cannot be trained, and what `tensor` throws.
    public init(
        _ configuration: DecoderConfiguration, on operations: DifferentiableOperations,
        tensor: (_ role: TensorRole, _ shape: Shape) throws -> Tensor
    ) throws {
        try Self.checkTrainable(configuration)
        self.configuration = configuration
        self.operations = operations
        names = .huggingFace(configuration)
        var weights: [TensorRole: Parameter] = [:]
        for role in configuration.tensorRoles {
            weights[role] = Parameter(try tensor(role, configuration.shape(of: role)))
        }
        self.weights = weights
        layers = (0..<configuration.layerCount).map { index in
            let tensors = LayerWeights(configuration: configuration, index: index, weights: weights)
            let isLast = index + 1 == configuration.layerCount
            return Layer(
                attention: tensors.attention, output: tensors.projection(.output, .outputBias),
                feedForwardNorm: tensors[.feedForwardNorm], gate: tensors[.gate], up: tensors[.up],
                down: tensors[.down],
                nextNorm: weights[isLast ? .finalNorm : .layer(index + 1, .attentionNorm)]!)
        }
    }

    /// A batch of packed sequences that begin at the rows `starts` (the last is the number of rows).
    public func batch(starts: [Int]) -> TrainingBatch {
        TrainingBatch(
            starts: starts, rotary: configuration.rotary.embedding, sliding: configuration.slidingRotary?.embedding)
    }

    /// The normalised last hidden state [tokens, hidden], in the dtype of products.
    public func hidden(_ tokens: [Int32], _ batch: TrainingBatch) -> Tensor {
        precondition(tokens.count == batch.starts.last, "\(tokens.count) tokens for sequences \(batch.starts)")
        let epsilon = Float(configuration.normEpsilon)
        let embedded = operations.embedding(tokens, table: weights[.tokenEmbedding]!)
        guard configuration.layerCount > 0 else {
            return operations.rmsNorm(embedded, weight: weights[.finalNorm]!, epsilon: epsilon)
        }
        let first = operations.rmsNorm(embedded, weight: weights[.layer(0, .attentionNorm)]!, epsilon: epsilon)
        var state = [embedded, first]
        for layer in layers {
            let run = { [operations] (state: [Tensor]) -> [Tensor] in
                let attended = layer.attention(state[1], batch, on: operations)
                let mixed = operations.linear(attended, layer.output.weight, bias: layer.output.bias)
                let (x, normalized) = operations.addRMSNorm(
                    mixed, to: state[0], weight: layer.feedForwardNorm, epsilon: epsilon)
                let inner = operations.linear([normalized], [[LinearPart(layer.gate)], [LinearPart(layer.up)]])
                let fed = operations.linear(operations.swiglu(gate: inner[0], up: inner[1]), layer.down)
                let next = operations.addRMSNorm(fed, to: x, weight: layer.nextNorm, epsilon: epsilon)
                return [next.sum, next.normalized]
            }
            state = checkpointsLayers ? operations.checkpoint(state, run) : run(state)
        }
        return state[1]
    }

    /// Cross-entropy of predicting `targets` (negative: not counted) after each token.
    /// - Parameter weights: factor on each row's loss; nil for the mean over the rows that count.
    /// - Returns: the loss, and each row's log-probability of its target.
    public func loss(
        _ tokens: [Int32], targets: [Int32], _ batch: TrainingBatch, weights: [Float]? = nil
    ) -> (loss: Tensor, logProbabilities: [Float]) {
        operations.crossEntropy(hidden(tokens, batch), head: headWeight, targets: targets, weights: weights)
    }

    /// Logits after each token, float32 [tokens, vocabulary].
    public func logits(_ tokens: [Int32], _ batch: TrainingBatch) -> Tensor {
        operations.linear(hidden(tokens, batch), headWeight)
    }

    private var headWeight: Parameter { weights[configuration.tiesEmbeddings ? .tokenEmbedding : .head]! }

    /// Calls `visit` with every parameter under its Hugging Face name, in the order the model uses them.
    public func visitParameters(_ visit: (_ name: String, _ parameter: Parameter) -> Void) {
        for role in configuration.tensorRoles { visit(names.name(of: role), weights[role]!) }
    }
}

/// Finds a layer's weights and puts its attention together.
private struct LayerWeights {
    let configuration: DecoderConfiguration
    let index: Int
    let weights: [TensorRole: Parameter]

    subscript(_ tensor: LayerTensor) -> Parameter { weights[.layer(index, tensor)]! }

    func projection(_ weight: LayerTensor, _ bias: LayerTensor) -> Projection {
        Projection(self[weight], bias: weights[.layer(index, bias)])
    }

    var attention: any AttentionTrainingForm {
        let window = configuration.windows[index]
        var kvHeads = configuration.kvHeads
        if case .latent = configuration.attention { kvHeads = configuration.queryHeads }
        let heads = AttentionHeads(
            queryHeads: configuration.queryHeads, kvHeads: kvHeads, scale: Float(configuration.attentionScale),
            window: window, usesSlidingRotary: window != nil)
        switch configuration.attention {
        case .grouped:
            let epsilon = Float(configuration.normEpsilon)
            return GroupedTrainingForm(
                heads: heads, headWidth: configuration.headWidth, query: projection(.query, .queryBias),
                key: projection(.key, .keyBias), value: projection(.value, .valueBias),
                norms: configuration.queryKeyNorm ? (self[.queryNorm], self[.keyNorm], epsilon) : nil)
        case .tied(let rotaryWidth):
            return TiedTrainingForm(
                heads: heads, headWidth: configuration.headWidth, rotaryWidth: rotaryWidth,
                query: projection(.query, .queryBias), state: projection(.tiedState, .tiedStateBias),
                rotaryKey: projection(.rotaryKey, .rotaryKeyBias))
        case .latent(let latent):
            let queries = 0..<latent.queryLatents
            let latents = 0..<latent.latentHeads
            return LatentTrainingForm(
                heads: heads, configuration: latent,
                query: latent.queryRank == nil
                    ? .full(projection(.query, .queryBias))
                    : .latent(
                        down: projection(.queryDown, .queryDownBias), norms: queries.map { self[.queryLatentNorm($0)] },
                        up: queries.map { projection(.queryUp($0), .queryUpBias($0)) }),
                down: projection(.latentDown, .latentDownBias), norms: latents.map { self[.latentNorm($0)] },
                up: latents.map { projection(.latentUp($0), .latentUpBias($0)) })
        }
    }
}
