import ApusAttention
import ApusLayers
import ApusTensor

/// New tokens of one sequence in one step.
public struct DecoderInput {
    /// Which rows of the sequence's logits are wanted.
    public enum Logits: Sendable {
        /// No row: the step only fills the cache.
        case none
        /// The row after the last token.
        case last
        /// The row after every token.
        case all
    }

    /// The tokens, at least one.
    public let tokens: [Int32]
    /// The sequence they extend.
    public let sequence: CacheSequence
    /// The rows wanted.
    public let logits: Logits

    /// Tokens that extend a sequence.
    public init(tokens: [Int32], sequence: CacheSequence, logits: Logits = .last) {
        self.tokens = tokens
        self.sequence = sequence
        self.logits = logits
    }
}

/// A decoder-only transformer in its decode form, over a paged cache: prefill and decoding of any batch are one function.
///
/// The Llama family (pre-norm, gated feed-forward, optional q/k norms, biases and sliding windows; grouped, tied or latent
/// attention), DeepSeek and MiniCPM3 (latent attention, mixtures of experts) and GPT-NeoX (layer norms, parallel residual,
/// plain feed-forward).
public final class Decoder: Sendable {
    /// What the model is.
    public let configuration: DecoderConfiguration
    /// The ranks that it is cut over; nil where this process has all of it.
    public let tensorParallel: TensorParallel?
    /// The device's operations.
    public let backend: any Backend
    let embedding: Embedding
    let layers: [DecoderLayer]
    let finalNorm: Norm
    let head: Linear
    /// Dtype of the projections, which decides the cache's default.
    let weightType: DType
    /// Tokens that latent attention up-projects at once; nil for what its bounds allow.
    let latentBlockTokens: Int?

    init(
        configuration: DecoderConfiguration, tensorParallel: TensorParallel?, backend: any Backend,
        embedding: Embedding,
        layers: [DecoderLayer], finalNorm: Norm, head: Linear, weightType: DType, latentBlockTokens: Int? = nil
    ) {
        self.configuration = configuration
        self.tensorParallel = tensorParallel
        self.backend = backend
        self.embedding = embedding
        self.layers = layers
        self.finalNorm = finalNorm
        self.head = head
        self.weightType = weightType
        self.latentBlockTokens = latentBlockTokens
    }

    /// Width of an output row: the vocabulary, or the labels of a score head.
    public var outputWidth: Int { configuration.outputWidth }

    /// The model that this process computes: the whole, or its rank's part.
    var local: DecoderConfiguration { tensorParallel?.sharding.local ?? configuration }

    /// Runs a step: appends every input's tokens to its sequence.
    /// - Returns: float32 [rows wanted, ``outputWidth``], inputs in order.
    /// - Parameter latentReading: how latent attention reads its cache; nil for what takes less time.
    /// - Throws: cache errors (out of pages), and nothing is appended then; ``CommunicationError`` between ranks.
    public func forward(
        _ inputs: [DecoderInput], cache: PagedCache, latentReading: LatentReading? = nil
    ) throws -> Tensor {
        let batch = try cache.begin(inputs.map { ($0.sequence, $0.tokens.count) })
        let x = try hiddenStates(inputs.flatMap(\.tokens), batch: batch, cache: cache, latentReading: latentReading)
        cache.commit(batch)
        let wanted = selected(x, inputs)  // [rows, hidden]
        let result = wanted.shape[0] == 0 ? Tensor(uninitialized: [0, outputWidth]) : logits(ofHidden: wanted)
        try tensorParallel?.check()
        return result
    }

    /// Runs the layers over a step whose pages have been found: appends `tokens` to the cache.
    /// - Returns: float32 [tokens, hidden], before the final norm.
    /// - Throws: cache errors when the workspace of latent attention cannot be had.
    package func hiddenStates(
        _ tokens: [Int32], batch: CacheBatch, cache: PagedCache, latentReading: LatentReading? = nil
    ) throws -> Tensor {
        let step = try makeStep(batch, cache, latentReading)
        // [T, hidden]
        let x = tensorParallel?.embedding(tokens, table: embedding.table, backend: backend) ?? embedding(tokens)
        if configuration.embeddingScale != 1 { backend.scale(x, by: Float(configuration.embeddingScale)) }
        for layer in layers { layer(x, step, tensorParallel) }  // in place
        try tensorParallel?.check()
        return x
    }

    /// Logits, or a score head's scores, of hidden states [rows, hidden]: float32 [rows, ``outputWidth``].
    package func logits(ofHidden x: Tensor) -> Tensor {
        let own = head(finalNorm(x))
        guard let tensorParallel, configuration.head == .languageModel else { return own }
        return tensorParallel.gatherLogits(own, backend: backend)
    }

    /// Hidden states [rows, hidden] after the final norm: what embeddings are made of.
    package func normalized(_ x: Tensor) -> Tensor { finalNorm(x) }

    /// The rows of the hidden state whose logits are wanted.
    private func selected(_ x: Tensor, _ inputs: [DecoderInput]) -> Tensor {
        var rows: [Int] = []
        var start = 0
        for input in inputs {
            switch input.logits {
            case .none: break
            case .last: rows.append(start + input.tokens.count - 1)
            case .all: rows += start..<(start + input.tokens.count)
            }
            start += input.tokens.count
        }
        if rows.count == x.shape[0] { return x }
        if let first = rows.first, rows.last == first + rows.count - 1 { return x.rows(first..<(first + rows.count)) }
        return x.gatheringRows(rows)
    }
}
