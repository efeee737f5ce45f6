import ApusAttention
import ApusTensor

/// Everything the decoder needs to know about a model before it reads a weight: one value for the Llama family (Llama,
/// SmolLM2, Mistral, Qwen2, Qwen3, and the GTA and GLA models that share its other layers), DeepSeek-V2 and V3, MiniCPM3
/// and GPT-NeoX (Pythia), from Hugging Face's `config.json` or GGUF metadata.
public struct DecoderConfiguration: Sendable, Equatable {
    /// The model families, under the names of Hugging Face's `model_type`.
    public enum Architecture: String, Sendable, Hashable, CaseIterable {
        case llama, mistral, qwen2, qwen3
        case gptNeoX = "gpt_neox"
        case deepseekV2 = "deepseek_v2"
        case deepseekV3 = "deepseek_v3"
        case miniCPM3 = "minicpm3"

        /// Whether the family's attention is MLA under DeepSeek's names.
        public var isDeepSeekLike: Bool { self == .deepseekV2 || self == .deepseekV3 || self == .miniCPM3 }
    }

    /// What stands on top of the last hidden state.
    public enum Head: Sendable, Hashable {
        /// Logits over the vocabulary.
        case languageModel
        /// One score per label, from the last token's state (a reward model has one label).
        case score(labels: Int)
    }

    /// The feed-forward's non-linearity.
    public enum Activation: String, Sendable, Hashable, CaseIterable {
        /// x times the logistic function of x.
        case silu
        /// x times the normal distribution function of x, exact (erf).
        case gelu
        /// GELU by its tanh approximation.
        case geluTanh
    }

    /// The kind of normalisation.
    public enum NormKind: String, Sendable, Hashable {
        /// Root mean square, a weight and no bias.
        case rms
        /// Layer norm, weight and bias.
        case layer
    }

    /// How query, key and value rows lie in one fused weight of [3 · queryHeads · headWidth, hiddenSize].
    public enum FusedQKV: String, Sendable, Hashable {
        /// Head after head, each with its query, key and value rows (Hugging Face's GPT-NeoX).
        case perHead
        /// All query rows, then all key rows, then all value rows (GGUF).
        case stacked
    }

    /// The model family.
    public var architecture: Architecture
    /// What the model computes from the last hidden state.
    public var head: Head = .languageModel
    /// Rows of the token embedding.
    public var vocabularySize: Int
    /// Width of the residual stream.
    public var hiddenSize: Int
    /// Number of layers.
    public var layerCount: Int
    /// Query heads per layer.
    public var queryHeads: Int
    /// Key-value heads per layer; divides `queryHeads`. Latent attention does not use it.
    public var kvHeads: Int
    /// Elements of one head (of latent attention, of its content part); `queryHeads · headWidth` need not be `hiddenSize`.
    public var headWidth: Int
    /// The attention variant.
    public var attention: AttentionConfiguration = .grouped
    /// Factor on the scores beside 1 / sqrt of the query's width (DeepSeek's YaRN sharpens them).
    public var attentionScaleFactor = 1.0
    /// Width inside the feed-forward (of mixture-of-experts models, in the dense layers).
    public var feedForwardWidth: Int
    /// The experts of layers that have them.
    public var experts: ExpertConfiguration?
    /// The feed-forward's non-linearity (of the gate, where there is one).
    public var activation: Activation = .silu
    /// The kind of all norms.
    public var normKind: NormKind = .rms
    /// Added to the variance (or mean square) under the root.
    public var normEpsilon: Double = 1e-5
    /// The rotary embedding of layers without a window, and of all layers unless `slidingRotary` is set.
    public var rotary: RotaryConfiguration
    /// The rotary embedding of layers with a sliding window, where it differs.
    public var slidingRotary: RotaryConfiguration?
    /// Whether query, key and value projections have biases.
    public var attentionBias = false
    /// Whether the attention's output projection has a bias.
    public var attentionOutputBias = false
    /// Whether the feed-forward's projections have biases.
    public var feedForwardBias = false
    /// Whether queries and keys are normalised per head before rotation (Qwen3).
    public var queryKeyNorm = false
    /// Layout of the fused query-key-value weight; nil where the three are tensors of their own.
    public var fusedQKV: FusedQKV?
    /// Whether attention and feed-forward both read the layer's input (GPT-NeoX), rather than one after the other.
    public var parallelResidual = false
    /// Per layer, how many tokens a token sees, itself included; nil for all before it.
    public var windows: [Int?]
    /// Factor on the token embeddings.
    public var embeddingScale = 1.0
    /// Factor on what attention and feed-forward add to the residual stream.
    public var residualScale = 1.0
    /// Factor on the last hidden state before the head.
    public var logitScale = 1.0
    /// Whether the output head is the token embedding.
    public var tiesEmbeddings = false
    /// Positions the model is meant for.
    public var maxPositions: Int
    /// Token that opens a text. Ids outside the vocabulary are left out of this and the next two.
    public var bosToken: Int?
    /// Tokens that end an answer.
    public var eosTokens: [Int] = []
    /// Token that fills up batches.
    public var padToken: Int?
    /// Dtype of the weights in the file, as far as it says.
    public var weightDType: DType?

    /// A Llama-like configuration; everything not given stands at its default and can be set afterwards.
    /// ``validate(source:)`` checks the result.
    public init(
        architecture: Architecture, vocabularySize: Int, hiddenSize: Int, layerCount: Int, queryHeads: Int,
        kvHeads: Int? = nil, headWidth: Int, feedForwardWidth: Int, rotary: RotaryConfiguration, maxPositions: Int
    ) {
        self.architecture = architecture
        self.vocabularySize = vocabularySize
        self.hiddenSize = hiddenSize
        self.layerCount = layerCount
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads ?? queryHeads
        self.headWidth = headWidth
        self.feedForwardWidth = feedForwardWidth
        self.rotary = rotary
        self.maxPositions = maxPositions
        windows = Array(repeating: nil, count: layerCount)
    }

    /// Whether the feed-forward has a gate beside its up projection (SwiGLU); GPT-NeoX has none.
    public var isGated: Bool { architecture != .gptNeoX }

    /// Width of an output row: the vocabulary, or the labels of a score head.
    public var outputWidth: Int {
        switch head {
        case .languageModel: vocabularySize
        case .score(let labels): labels
        }
    }

    /// Elements of one head's output, before the output projection.
    public var headValueWidth: Int {
        if case .latent(let latent) = attention { latent.valueWidth } else { headWidth }
    }

    /// Factor on the scores: 1 / sqrt of the width of a head's query, times ``attentionScaleFactor``.
    public var attentionScale: Double {
        var width = headWidth
        if case .latent(let latent) = attention { width = latent.queryWidth }
        return attentionScaleFactor / Double(width).squareRoot()
    }

    /// Whether a layer's feed-forward is a mixture of experts.
    public func hasExperts(layer: Int) -> Bool { experts.map { layer >= $0.denseLayers } ?? false }

    /// The rotary embedding of a layer.
    public func rotary(layer: Int) -> RotaryConfiguration {
        windows[layer] == nil ? rotary : slidingRotary ?? rotary
    }
}
