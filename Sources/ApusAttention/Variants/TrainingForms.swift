import ApusTensor

/// Packed sequences of one training step: what every layer needs to know of them.
public struct TrainingBatch: Sendable {
    /// First row of each sequence, and the number of rows at the end. Rows see earlier rows of their own sequence.
    public let starts: [Int]
    /// Angles of the rows' positions for layers without a window, and for all unless `sliding` is given.
    public let rotary: RotaryAngles
    /// Angles for layers with a window, where they differ.
    public let sliding: RotaryAngles?

    /// Sequences that begin at the rows `starts`, each with positions from 0.
    /// - Parameters:
    ///   - starts: ascending from 0; the last is the number of rows.
    ///   - rotary: the embedding of layers without a window.
    ///   - sliding: that of layers with one, where it differs.
    public init(starts: [Int], rotary: RotaryEmbedding, sliding: RotaryEmbedding? = nil) {
        precondition(starts.first == 0 && zip(starts, starts.dropFirst()).allSatisfy(<=), "starts \(starts)")
        self.init(
            starts: starts, rotary: RotaryAngles(starts, rotary), sliding: sliding.map { RotaryAngles(starts, $0) })
    }

    private init(starts: [Int], rotary: RotaryAngles, sliding: RotaryAngles?) {
        self.starts = starts
        self.rotary = rotary
        self.sliding = sliding
    }

    /// The batch with its angles in a device's memory.
    package func on(_ backend: any DifferentiableBackend) -> TrainingBatch {
        TrainingBatch(starts: starts, rotary: rotary.on(backend), sliding: sliding?.on(backend))
    }
}

extension RotaryAngles {
    /// Angles of sequences that begin at the rows `starts`: those of the longest, and parts of them for the others.
    init(_ starts: [Int], _ embedding: RotaryEmbedding) {
        let lengths = zip(starts, starts.dropFirst()).map { $1 - $0 }
        let longest = embedding.rows((0..<Int32(lengths.max() ?? 0)).map { $0 })
        func packed(_ rows: Tensor) -> Tensor {
            let width = embedding.width / 2
            let result = Tensor(uninitialized: [starts.last ?? 0, width])
            let (source, target) = (rows.pointer(as: Float.self), result.pointer(as: Float.self))
            for (start, length) in zip(starts, lengths) {
                (target + start * width).update(from: source, count: length * width)
            }
            withExtendedLifetime(rows) {}
            return result
        }
        self.init(
            cosine: packed(longest.cosine), sine: packed(longest.sine), isInterleaved: embedding.style == .interleaved)
    }
}

/// The training form of an attention variant: explicit keys and values, differentiable, without the output projection.
///
/// The decode form of the same weights, absorbed and over the paged cache, must give the same numbers.
public protocol AttentionTrainingForm: Sendable {
    /// Attends within the sequences of a batch.
    /// - Parameter x: normalised rows [tokens, hidden], in the dtype of products.
    /// - Returns: [tokens, query heads x value width], in the dtype of products.
    func callAsFunction(_ x: Tensor, _ batch: TrainingBatch, on operations: DifferentiableOperations) -> Tensor
}

/// A weight and its bias.
public struct Projection: Sendable {
    /// [outputs, inputs].
    public let weight: Parameter
    /// [outputs], or nil.
    public let bias: Parameter?

    /// A projection.
    public init(_ weight: Parameter, bias: Parameter? = nil) {
        self.weight = weight
        self.bias = bias
    }

    func part(_ rows: Range<Int>? = nil, input: Int = 0) -> LinearPart {
        LinearPart(weight, rows: rows, bias: bias, input: input)
    }
}

/// What all variants share.
public struct AttentionHeads: Sendable {
    /// Query heads.
    public let queryHeads: Int
    /// Heads with keys and values of their own (of latent attention, all query heads).
    public let kvHeads: Int
    /// Factor on scores.
    public let scale: Float
    /// Tokens a row sees, itself included; nil for all.
    public let window: Int?
    /// Whether the layer rotates by ``TrainingBatch/sliding``, where there is one.
    public let usesSlidingRotary: Bool

    /// The heads of a layer.
    public init(queryHeads: Int, kvHeads: Int, scale: Float, window: Int? = nil, usesSlidingRotary: Bool = false) {
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.scale = scale
        self.window = window
        self.usesSlidingRotary = usesSlidingRotary
    }

    func attend(
        _ operands: AttentionOperands, _ batch: TrainingBatch, on operations: DifferentiableOperations
    ) -> Tensor {
        operations.attention(
            operands, rotary: usesSlidingRotary ? batch.sliding ?? batch.rotary : batch.rotary,
            SequenceAttention(starts: batch.starts, scale: scale, window: window))
    }
}

/// MHA, GQA and MQA by the number of KV heads, with Qwen3's norms of queries and keys where given.
public struct GroupedTrainingForm: AttentionTrainingForm {
    let heads: AttentionHeads
    let headWidth: Int
    let query: Projection
    let key: Projection
    let value: Projection
    let norms: (query: Parameter, key: Parameter, epsilon: Float)?

    /// Weights: query [h_q x d_h, hidden], key and value [h_kv x d_h, hidden], norms [d_h].
    public init(
        heads: AttentionHeads, headWidth: Int, query: Projection, key: Projection, value: Projection,
        norms: (query: Parameter, key: Parameter, epsilon: Float)? = nil
    ) {
        self.heads = heads
        self.headWidth = headWidth
        self.query = query
        self.key = key
        self.value = value
        self.norms = norms
    }

    /// See ``AttentionTrainingForm/callAsFunction(_:_:on:)``.
    public func callAsFunction(_ x: Tensor, _ batch: TrainingBatch, on operations: DifferentiableOperations) -> Tensor {
        guard let norms else {
            // Queries, keys and values side by side: one product, where their weights lie so.
            let all = operations.linear([x], [[query.part(), key.part(), value.part()]])[0]
            let (q, kv) = (heads.queryHeads * headWidth, heads.kvHeads * headWidth)
            return heads.attend(
                AttentionOperands(
                    query: HeadsView(all, columns: 0..<q, heads: heads.queryHeads, elements: 0..<headWidth),
                    key: HeadsView(all, columns: q..<q + kv, heads: heads.kvHeads, elements: 0..<headWidth),
                    value: HeadsView(
                        all, columns: q + kv..<q + 2 * kv, heads: heads.kvHeads, elements: 0..<headWidth)), batch,
                on: operations)
        }
        let projected = operations.linear([x], [[query.part()], [key.part()], [value.part()]])
        let q = normalized(projected[0], norms.query, norms.epsilon, operations)
        let k = normalized(projected[1], norms.key, norms.epsilon, operations)
        return heads.attend(
            AttentionOperands(
                query: HeadsView(q, heads: heads.queryHeads, elements: 0..<headWidth),
                key: HeadsView(k, heads: heads.kvHeads, elements: 0..<headWidth),
                value: HeadsView(projected[2], heads: heads.kvHeads, elements: 0..<headWidth)), batch, on: operations)
    }

    private func normalized(
        _ x: Tensor, _ weight: Parameter, _ epsilon: Float, _ operations: DifferentiableOperations
    ) -> Tensor {
        let perHead = operations.reshape(x, [x.count / headWidth, headWidth])
        let normalized = operations.rmsNorm(perHead, weight: weight, epsilon: epsilon, output: x.dtype)
        return operations.reshape(normalized, x.shape)
    }
}

/// GTA: one state per KV head is its value and, but for the last d_R elements, its key; one rotated key for all heads.
public struct TiedTrainingForm: AttentionTrainingForm {
    let heads: AttentionHeads
    let headWidth: Int
    let rotaryWidth: Int
    let query: Projection
    let state: Projection
    let rotaryKey: Projection

    /// Weights: query [h_q x d_h, hidden], RoPE on the last d_R of each head; state [h_kv x d_h, hidden]; rotaryKey
    /// [d_R, hidden].
    public init(
        heads: AttentionHeads, headWidth: Int, rotaryWidth: Int, query: Projection, state: Projection,
        rotaryKey: Projection
    ) {
        self.heads = heads
        self.headWidth = headWidth
        self.rotaryWidth = rotaryWidth
        self.query = query
        self.state = state
        self.rotaryKey = rotaryKey
    }

    /// See ``AttentionTrainingForm/callAsFunction(_:_:on:)``.
    public func callAsFunction(_ x: Tensor, _ batch: TrainingBatch, on operations: DifferentiableOperations) -> Tensor {
        let all = operations.linear([x], [[query.part(), state.part(), rotaryKey.part()]])[0]
        let (q, states) = (heads.queryHeads * headWidth, heads.kvHeads * headWidth)
        func tied(_ elements: Range<Int>) -> HeadsView {
            HeadsView(all, columns: q..<q + states, heads: heads.kvHeads, elements: elements)
        }
        return heads.attend(
            AttentionOperands(
                query: HeadsView(all, columns: 0..<q, heads: heads.queryHeads, elements: 0..<headWidth),
                key: tied(0..<headWidth - rotaryWidth),
                keyOnce: HeadsView(
                    all, columns: q + states..<q + states + rotaryWidth, heads: 1, elements: 0..<rotaryWidth),
                value: tied(0..<headWidth)), batch, on: operations)
    }
}

/// MLA (one latent head) and GLA (several): keys and values are up-projections of normalised latents, beside one RoPE key.
public struct LatentTrainingForm: AttentionTrainingForm {
    /// Where queries come from.
    public enum Query: Sendable {
        /// Straight from the hidden state: [h_q x (content + d_R), hidden].
        case full(Projection)
        /// Through latents: down [sum of ranks, hidden]; for each latent its norm and its up-projection.
        case latent(down: Projection, norms: [Parameter], up: [Projection])
    }

    let heads: AttentionHeads
    let configuration: LatentConfiguration
    let query: Query
    let down: Projection
    let norms: [Parameter]
    let up: [Projection]

    /// Weights as ``LatentConfiguration`` says: down [h_c x d_c + d_R, hidden]; for each latent head its norm [d_c] and
    /// up-projection [h_q / h_c x (content + value), d_c].
    public init(
        heads: AttentionHeads, configuration: LatentConfiguration, query: Query, down: Projection, norms: [Parameter],
        up: [Projection]
    ) {
        self.heads = heads
        self.configuration = configuration
        self.query = query
        self.down = down
        self.norms = norms
        self.up = up
    }

    /// See ``AttentionTrainingForm/callAsFunction(_:_:on:)``.
    public func callAsFunction(_ x: Tensor, _ batch: TrainingBatch, on operations: DifferentiableOperations) -> Tensor {
        let width = configuration.latentWidth
        var outputs = norms.indices.map { [down.part($0 * width..<($0 + 1) * width)] }
        outputs.append([down.part(norms.count * width..<norms.count * width + configuration.rotaryWidth)])
        switch query {
        case .full(let projection): outputs.append([projection.part()])
        case .latent(let queryDown, let queryNorms, _):
            let rank = queryDown.weight.shape[0] / queryNorms.count
            outputs += queryNorms.indices.map { [queryDown.part($0 * rank..<($0 + 1) * rank)] }
        }
        let projected = operations.linear([x], outputs)
        let latents = zip(projected, norms).map { normalized($0, $1, operations) }
        let rotaryKey = projected[norms.count]
        let keysAndValues = upProjected(latents, up, operations)
        let queries =
            switch query {
            case .full: projected[norms.count + 1]
            case .latent(_, let queryNorms, let queryUp):
                upProjected(
                    zip(projected[(norms.count + 1)...], queryNorms).map { normalized($0, $1, operations) }, queryUp,
                    operations)
            }
        let (content, value) = (configuration.contentWidth, configuration.valueWidth)
        return heads.attend(
            AttentionOperands(
                query: HeadsView(queries, heads: heads.queryHeads, elements: 0..<configuration.queryWidth),
                key: HeadsView(keysAndValues, heads: heads.queryHeads, elements: 0..<content),
                keyOnce: HeadsView(rotaryKey, heads: 1, elements: 0..<configuration.rotaryWidth),
                value: HeadsView(keysAndValues, heads: heads.queryHeads, elements: content..<(content + value))), batch,
            on: operations)
    }

    private func normalized(_ x: Tensor, _ weight: Parameter, _ operations: DifferentiableOperations) -> Tensor {
        operations.rmsNorm(x, weight: weight, epsilon: Float(configuration.normEpsilon))
    }

    /// Each latent through its own projection, side by side.
    private func upProjected(
        _ latents: [Tensor], _ up: [Projection], _ operations: DifferentiableOperations
    ) -> Tensor {
        operations.linear(latents, [up.enumerated().map { $1.part(input: $0) }])[0]
    }
}
