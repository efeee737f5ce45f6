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
    /// Told when a backward pass has finished a layer: with all weights of ``parametersByBackward()`` up to it.
    package var afterLayerBackward: ((_ layer: Int) -> Void)?
    /// The ranks that it is cut over; nil where this process has all of it.
    public let ranks: TensorParallel?
    let names: TensorNames
    let weights: [TensorRole: Parameter]
    private let layers: [Layer]
    /// Steps of the same sequences share their angles.
    private var lastBatch: TrainingBatch?

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
    /// - Parameter ranks: the ranks that the model is cut over; nil for all of it. `tensor` gives whole weights in any case, over
    ///   ranks in main memory.
    /// - Throws: ``TrainingModelError`` where the configuration cannot be trained, and what `tensor` throws.
    public init(
        _ configuration: DecoderConfiguration, ranks: TensorParallel? = nil, on operations: DifferentiableOperations,
        tensor: (_ role: TensorRole, _ shape: Shape) throws -> Tensor
    ) throws {
        try Self.checkTrainable(configuration)
        self.configuration = configuration
        self.operations = operations
        self.ranks = ranks
        names = .huggingFace(configuration)
        let local = ranks?.sharding.local ?? configuration
        var weights: [TensorRole: Parameter] = [:]
        for role in local.tensorRoles {
            guard let sharding = ranks?.sharding else {
                weights[role] = Parameter(operations.backend.onDevice(try tensor(role, local.shape(of: role))))
                continue
            }
            let share = sharding.share(of: role)
            let part = try sharding.part(tensor(share.role, configuration.shape(of: share.role)), share.cut)
            // A copy: the part may be a view of the whole.
            let copy = Tensor(uninitialized: part.shape)
            CPUBackend.shared.convert(part, into: copy)
            // What is added once stays zero on the other ranks.
            weights[role] = Parameter(
                operations.backend.onDevice(copy), isTrainable: share.cut != .onFirstRank || sharding.rank == 0)
        }
        try operations.backend.check()
        self.weights = weights
        // Products of one input are one product.
        for index in 0..<configuration.layerCount {
            func join(_ tensors: [LayerTensor]) {
                Parameter.join(tensors.compactMap { weights[.layer(index, $0)] })
            }
            if case .tied = configuration.attention {
                join([.query, .tiedState, .rotaryKey])
            } else if case .grouped = configuration.attention, !configuration.queryKeyNorm {
                join([.query, .key, .value])
            }
            join([.gate, .up])
        }
        layers = (0..<configuration.layerCount).map { index in
            let tensors = LayerWeights(configuration: local, index: index, weights: weights)
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
        if let lastBatch, lastBatch.starts == starts { return lastBatch }
        let batch = TrainingBatch(
            starts: starts, rotary: configuration.rotary.embedding, sliding: configuration.slidingRotary?.embedding
        ).on(operations.backend)
        lastBatch = batch
        return batch
    }

    /// The normalised last hidden state [tokens, hidden], in the dtype of products.
    public func hidden(_ tokens: [Int32], _ batch: TrainingBatch) -> Tensor {
        precondition(tokens.count == batch.starts.last, "\(tokens.count) tokens for sequences \(batch.starts)")
        let epsilon = Float(configuration.normEpsilon)
        let table = weights[.tokenEmbedding]!
        let embedded = ranks?.embedding(tokens, table: table, operations) ?? operations.embedding(tokens, table: table)
        guard configuration.layerCount > 0 else {
            return operations.rmsNorm(embedded, weight: weights[.finalNorm]!, epsilon: epsilon)
        }
        let first = operations.rmsNorm(embedded, weight: weights[.layer(0, .attentionNorm)]!, epsilon: epsilon)
        var state = [embedded, first]
        for (index, layer) in layers.enumerated() {
            state = markingBackward(state, of: index)
            let run = { [operations, ranks] (state: [Tensor]) -> [Tensor] in
                func enter(_ x: Tensor) -> Tensor { ranks?.enter(x, operations) ?? x }
                func leave(_ x: Tensor) -> Tensor { ranks?.leave(x, operations) ?? x }
                let attended = layer.attention(enter(state[1]), batch, on: operations)
                let mixed = leave(operations.linear(attended, layer.output.weight, bias: layer.output.bias))
                let (x, normalized) = operations.addRMSNorm(
                    mixed, to: state[0], weight: layer.feedForwardNorm, epsilon: epsilon)
                let inner = operations.linear([enter(normalized)], [[LinearPart(layer.gate), LinearPart(layer.up)]])
                let fed = leave(operations.linear(operations.swiglu(halves: inner[0]), layer.down))
                let next = operations.addRMSNorm(fed, to: x, weight: layer.nextNorm, epsilon: epsilon)
                return [next.sum, next.normalized]
            }
            state = checkpointsLayers ? operations.checkpoint(state, run) : run(state)
        }
        return state[1]
    }

    /// The layer's input, recorded so that the gradients that pass it say that the layer is done.
    private func markingBackward(_ state: [Tensor], of layer: Int) -> [Tensor] {
        guard let afterLayerBackward else { return state }
        return operations.recorded(state, from: state) { gradients in
            afterLayerBackward(layer)
            return gradients
        }
    }

    /// Cross-entropy of predicting `targets` (negative: not counted) after each token.
    ///
    /// Precondition: the model has a language-model head.
    /// - Parameter weights: factor on each row's loss; nil for the mean over the rows that count.
    /// - Returns: the loss, and each row's log-probability of its target.
    public func loss(
        _ tokens: [Int32], targets: [Int32], _ batch: TrainingBatch, weights: [Float]? = nil
    ) -> (loss: Tensor, logProbabilities: Tensor) {
        loss(ofHidden: hidden(tokens, batch), targets: targets, weights: weights)
    }

    /// As ``loss(_:targets:_:weights:)``, of what ``hidden(_:_:)`` gave.
    public func loss(
        ofHidden hidden: Tensor, targets: [Int32], weights: [Float]? = nil
    ) -> (loss: Tensor, logProbabilities: Tensor) {
        guard let ranks else {
            return operations.crossEntropy(hidden, head: headWeight, targets: targets, weights: weights)
        }
        return operations.crossEntropy(
            ranks.enter(hidden, operations), head: headWeight, targets: targets, weights: weights,
            shard: ranks.vocabularyShard)
    }

    /// Elements of all weights of the whole model, of which a rank may have a part.
    public var wholeParameterCount: Int {
        configuration.tensorRoles.reduce(0) { $0 + configuration.shape(of: $1).count }
    }

    /// The model that this process trains: the whole, or its rank's part.
    var local: DecoderConfiguration { ranks?.sharding.local ?? configuration }

    /// Logits after each token, float32 [tokens, vocabulary]; over ranks without gradients.
    ///
    /// Precondition: the model has a language-model head; ranks are on CPUs.
    public func logits(_ tokens: [Int32], _ batch: TrainingBatch) -> Tensor {
        let own = operations.linear(hidden(tokens, batch), headWeight, output: .f32)
        return ranks?.gatherLogits(own, backend: operations.backend) ?? own
    }

    /// The score head at the last token of each sequence, float32 [sequences, labels].
    ///
    /// Precondition: the model has a score head, and no sequence is empty.
    public func scores(_ tokens: [Int32], _ batch: TrainingBatch) -> Tensor {
        guard let score = weights[.score] else { preconditionFailure("scores of a language model") }
        precondition(zip(batch.starts, batch.starts.dropFirst()).allSatisfy(<), "an empty sequence: \(batch.starts)")
        let last = operations.rows(hidden(tokens, batch), batch.starts.dropFirst().map { $0 - 1 })
        return operations.linear(last, score, output: .f32)
    }

    /// The language-model head's weight [vocabulary, hidden].
    ///
    /// Precondition: the model has such a head.
    public var headWeight: Parameter {
        precondition(configuration.head == .languageModel, "the language-model head of a model that scores")
        return weights[configuration.tiesEmbeddings ? .tokenEmbedding : .head]!
    }

    /// Calls `visit` with every parameter under its Hugging Face name, in the order the model uses them; over ranks those of
    /// this rank, as parts of a model of its own.
    public func visitParameters(_ visit: (_ name: String, _ parameter: Parameter) -> Void) {
        for role in local.tensorRoles { visit(names.name(of: role), weights[role]!) }
    }
}

extension TrainableDecoder {
    /// The weights in groups, in the order in which a backward pass finishes them: of each layer from the last to the first,
    /// then the rest.
    ///
    /// The norm before a layer's attention is computed at the end of the layer before it, and finished with that one.
    package func parametersByBackward() -> [[(name: String, parameter: Parameter)]] {
        var groups = [[(name: String, parameter: Parameter)]](repeating: [], count: configuration.layerCount + 1)
        let last = configuration.layerCount - 1
        for role in local.tensorRoles {
            let layer: Int? =
                switch role {
                case .layer(let index, .attentionNorm): index == 0 ? nil : index - 1
                case .layer(let index, _): index
                case .finalNorm, .finalNormBias, .head, .score: last
                case .tokenEmbedding: nil
                }
            let group = layer.map { last - $0 } ?? configuration.layerCount
            groups[group].append((names.name(of: role), weights[role]!))
        }
        return groups
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
