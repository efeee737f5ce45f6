import ApusTensor

/// Sizes of the reproduction of "What Makes a Reward Model a Good Teacher?" (arXiv 2503.15477) with a small policy.
public struct ReproductionPlan: Sendable, Equatable {
    /// Text that the policy is pretrained on.
    public var books: [String]
    /// Text that is held out; empty: some of the books.
    public var heldOutBooks: [String] = []
    /// Human preference pairs: their prompts are what policies are asked, their answers what they are fine-tuned on and the
    /// off-policy pairs.
    public var preferences: [String]
    /// The fixed reward that everything is held against: a sum of rewards as recipes name them, and of `learned`, a reward
    /// model from all human pairs.
    public var groundTruth = ["learned"]
    /// Everything is drawn from it.
    public var seed = 0
    /// The policy, an instruction-tuned model that is neither pretrained nor fine-tuned here; nil for one of the sizes below.
    public var policy: String?
    /// Where models are trained, outputs drawn and reward models score.
    public var device = Device.cpu

    /// Tokens of the vocabulary, trained on the books.
    public var vocabulary = 4096
    /// Width of the policy's residual stream, layers, query heads, KV heads.
    public var hiddenSize = 256
    /// See ``hiddenSize``.
    public var layers = 6
    /// See ``hiddenSize``.
    public var heads = 4
    /// Tokens that the policy is pretrained on.
    public var pretrainingTokens = 4_000_000
    /// Steps of fine-tuning on chosen answers.
    public var fineTuningSteps = 300
    /// Tokens of a conversation that policies and reward models read at most.
    public var sequenceLength = 256
    /// Tokens of a prompt at most.
    public var promptTokens = 96
    /// Tokens of an output at most.
    public var outputTokens = 48

    /// Prompts that on-policy pairs are drawn for.
    public var pairPrompts = 4000
    /// Outputs of each of these prompts.
    public var pairSamples = 4
    /// Pairs of each prompt at most.
    public var pairsPerPrompt = 3
    /// Pairs that each reward model learns from, held-out ones included.
    public var pairs = 8000
    /// A reward model's learning rate.
    public var rewardLearningRate = 3e-4
    /// Epochs of a reward model at most; it stops where the accuracy on held-out pairs stops to rise.
    public var rewardEpochs = 2
    /// Shares of on-policy pairs, a reward model each.
    public var shares = [1, 0.75, 0.5, 0.25, 0]

    /// Held-out prompts that everything is measured on.
    public var measuredPrompts = 100
    /// Outputs of each of them.
    public var measuredSamples = 10
    /// Seeds of the policy gradient.
    public var seeds = [0, 1, 2]
    /// Estimators, with the number of seeds that each is run with.
    public var estimators: [(task: String, seeds: Int)] { [("rloo", seeds.count), ("grpo", grpoSeeds)] }
    /// Seeds of GRPO.
    public var grpoSeeds = 1
    /// Steps of each policy gradient.
    public var steps = 30
    /// Steps between measurements of the policy.
    public var evaluateEvery = 10
    /// Prompts of a step.
    public var promptsPerStep = 32
    /// Outputs of each.
    public var samples = 4
    /// The policy gradient's learning rate.
    public var learningRate = 2e-4
    /// Shares of the reward models that the second part holds against each other for two policies; empty: no second part.
    public var secondShares = [1, 0.5, 0]
    /// Seeds of the second part.
    public var secondSeeds = 1

    /// The reproduction: about two hours on two cores, pretraining not counted.
    public init(books: [String], preferences: [String]) {
        self.books = books
        self.preferences = preferences
    }

    /// Takes a model as the policy, with learning rates for one of its size.
    public mutating func take(policy path: String) {
        policy = path
        (learningRate, rewardLearningRate) = (1e-5, 5e-5)
    }

    /// A reproduction of some minutes, whose figures are rough.
    public static func quick(books: [String], preferences: [String]) -> ReproductionPlan {
        var plan = ReproductionPlan(books: books, preferences: preferences)
        plan.vocabulary = 1024
        plan.hiddenSize = 128
        plan.layers = 3
        plan.pretrainingTokens = 1_000_000
        plan.fineTuningSteps = 120
        plan.sequenceLength = 128
        plan.promptTokens = 64
        plan.outputTokens = 32
        plan.pairPrompts = 400
        plan.pairs = 800
        plan.shares = [1, 0.5, 0]
        plan.measuredPrompts = 50
        plan.measuredSamples = 8
        plan.seeds = [0]
        plan.grpoSeeds = 0
        plan.steps = 24
        plan.evaluateEvery = 8
        plan.promptsPerStep = 16
        plan.learningRate = 3e-4
        plan.secondShares = []
        return plan
    }
}
