import ApusTensor

/// Everything that a training run is told: model, data, optimiser, schedule, run.
///
/// ```swift
/// let recipe = try Recipe.read("gla.yaml", overrides: ["optimizer.learning_rate=3e-4"])
/// let seen = recipe.tokensPerStep
/// ```
///
/// The keys of the file are those of ``Recipe/reference``, in `snake_case`; every key has a default. A value that is
/// nil here (`null` in the file) is chosen from the others: see the `resolved` properties.
public struct Recipe: Sendable, Equatable {
    /// What is learnt; nil: `sft` where there are conversations, else `pretrain`.
    public var task: RecipeTask?
    /// The network.
    public var model = Model()
    /// What it reads.
    public var data = TrainingData()
    /// How weights change.
    public var optimizer = Optimizer()
    /// How the learning rate changes.
    public var schedule = Schedule()
    /// The run.
    public var training = Training()
    /// Preferences that a reward model learns.
    public var reward = Reward()
    /// What a policy learns from.
    public var policyGradient = PolicyGradient()
    /// What `apus compare` varies.
    public var compare = Compare()

    /// A recipe of defaults.
    public init() {}

    /// A decoder's sizes. Symbols as in "Hardware-Efficient Attention for Fast Decoding" (arXiv 2505.21487).
    public struct Model: Sendable, Equatable {
        /// A model to start from, a GGUF file or a Hugging Face folder; sizes are then its own.
        public var from: String?
        /// The attention variant.
        public var attention = RecipeAttention.gqa
        /// Width of the residual stream.
        public var hiddenSize = 256
        /// Decoder layers.
        public var layers = 6
        /// Query heads (h_q).
        public var heads = 4
        /// KV heads (h_kv) of gqa and gta.
        public var kvHeads: Int?
        /// Head width (d_h).
        public var headWidth: Int?
        /// Latent heads (h_c) of gla and gla_q.
        public var latentHeads = 2
        /// Width of a latent (d_c) of mla, gla and gla_q.
        public var latentWidth: Int?
        /// RoPE width (d_R) of gta, mla, gla and gla_q.
        public var ropeWidth: Int?
        /// Width of the low-rank query of mla, gla and gla_q; 0 for a full query.
        public var queryRank: Int?
        /// Width of the SwiGLU feed-forward network.
        public var feedForwardWidth: Int?
        /// Tokens in the vocabulary.
        public var vocabulary: Int?
        /// Whether the input table is also the output's.
        public var tieEmbeddings = true
        /// RoPE's base.
        public var ropeTheta = 10_000.0
        /// RMSNorm's epsilon.
        public var normEpsilon = 1e-5
        /// Standard deviation of the weights at the start.
        public var initStd = 0.02
    }

    /// Where the tokens come from and how they are cut.
    public struct TrainingData: Sendable, Equatable {
        /// A folder that `apus data prepare` wrote.
        public var path: String?
        /// Files of text to prepare first, where there is no such folder.
        public var text: [String] = []
        /// Files of text held out for validation.
        public var validationText: [String] = []
        /// The share of documents held out where there are no such files.
        public var validationFraction = 0.01
        /// The member of JSON Lines rows that holds the text.
        public var field = "text"
        /// The paragraph between documents.
        public var separator = "<|endoftext|>"
        /// A tokenizer.json, a folder that holds one, or a GGUF file.
        public var tokenizer: String?
        /// Tokens of a BPE vocabulary to train on the text, where there is no tokenizer.
        public var trainVocabulary: Int?
        /// Files of conversations (JSON Lines) to learn the answers of, in place of text.
        public var chat: [String] = []
        /// Conversations held out for validation.
        public var chatValidation: [String] = []
        /// A Jinja file in place of the model's own chat template.
        public var chatTemplate: String?
        /// Tokens of a sequence.
        public var sequenceLength = 256
        /// Sequences of a micro-batch.
        public var batchSize = 16
        /// Micro-batches whose gradients are added up for one step.
        public var accumulation = 1
        /// Whether a token attends to earlier documents in its sequence.
        public var acrossDocuments = true
    }

    /// AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
    public struct Optimizer: Sendable, Equatable {
        /// The peak learning rate.
        public var learningRate = 1e-3
        /// Decay rates of the two moments.
        public var betas = [0.9, 0.95]
        /// Added to the root of the second moment.
        public var epsilon = 1e-8
        /// Weight decay; norms and biases have none.
        public var weightDecay = 0.1
        /// The largest norm of all gradients together; 0 for any.
        public var clip = 1.0
    }

    /// The learning rate over the run, as a share of the peak.
    public struct Schedule: Sendable, Equatable {
        /// Its form after the warm-up.
        public var kind = ScheduleKind.cosine
        /// Steps of linear warm-up.
        public var warmupSteps: Int?
        /// The share of the peak at the end.
        public var minRatio = 0.1
        /// The share of all steps in which `wsd` decays.
        public var decayFraction = 0.2
    }

    /// The run.
    public struct Training: Sendable, Equatable {
        /// Optimiser steps; exclusive with tokens.
        public var steps: Int?
        /// Tokens to train on, rounded up to whole steps; exclusive with steps.
        public var tokens: Int?
        /// Seed of the weights and the order of the data.
        public var seed = 0
        /// Where the model is trained.
        public var device = Device.cpu
        /// Arithmetic of the products.
        public var compute = ComputePrecision.bf16
        /// Whether layers are computed a second time for the backward pass instead of kept.
        public var gradientCheckpointing = false
        /// Steps between evaluations; 0 for only at the end.
        public var evaluateEvery = 250
        /// Sequences of an evaluation; nil for all held-out text.
        public var evaluateWindows: Int? = 64
        /// Steps between checkpoints; 0 for only at the end.
        public var checkpointEvery = 500
        /// Evaluations without a better one after which the run ends; the model of the best one is kept apart.
        public var patience: Int?
        /// Checkpoints that are kept.
        public var keepCheckpoints = 2
        /// Steps between lines of the log.
        public var logEvery = 10
        /// Stops where the loss exceeds its recent mean by this many nats; 0 for never.
        public var spikeThreshold = 3.0
        /// The folder that receives checkpoints and logs.
        public var output = "run"
        /// The machine's peak in FLOP/s, for the share of it that is reached; nil: the measured rate of large products.
        public var peakFlops: Double?
    }

    /// A comparison.
    public struct Compare: Sendable, Equatable {
        /// The variants to train.
        public var attention: [RecipeAttention] = [.mha, .mqa, .gqa, .gta, .mla, .gla]
        /// A run of each variant for each seed.
        public var seeds = [0, 1]
        /// Whether feed-forward widths are changed so that all variants have as many parameters as the first.
        public var matchParameters = true
    }
}

/// The attention variants of a recipe: ``AttentionVariant`` with the two query forms of grouped latent attention apart.
public enum RecipeAttention: String, Sendable, Hashable, CaseIterable {
    /// Multi-head attention.
    case mha
    /// Multi-query attention.
    case mqa
    /// Grouped-query attention.
    case gqa
    /// Grouped-tied attention.
    case gta
    /// Multi-head latent attention.
    case mla
    /// Grouped latent attention.
    case gla
    /// Grouped latent attention whose query latent is split by latent head, too.
    case glaQ = "gla_q"
}

/// Forms of the learning rate after the warm-up.
public enum ScheduleKind: String, Sendable, Hashable, CaseIterable {
    /// Half a cosine down to the last ratio.
    case cosine
    /// Warm-up, stable, decay: constant, then linear down to the last ratio.
    case wsd
    /// Constant.
    case constant
}

/// Arithmetic of the products in training; master weights are float32 in either.
public enum ComputePrecision: String, Sendable, Hashable, CaseIterable {
    /// float32.
    case float32
    /// bf16 factors with float32 sums.
    case bf16
}
