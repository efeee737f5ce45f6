/// A mixture of experts in place of a layer's feed-forward (DeepSeekMoE): a router picks `expertsPerToken` of the routed
/// experts for each token; shared experts, one feed-forward of `sharedWidth`, see every token.
public struct ExpertConfiguration: Sendable, Hashable {
    /// How a router's logits become affinities.
    public enum Scoring: String, Sendable, Hashable, CaseIterable {
        /// Softmax over all experts (DeepSeek-V2).
        case softmax
        /// The logistic function of each (DeepSeek-V3).
        case sigmoid
    }

    /// Which experts a token may choose from.
    public enum Selection: Sendable, Hashable {
        /// All.
        case greedy
        /// Those of the `kept` groups out of `groups` that hold the largest affinity.
        case groupLimited(groups: Int, kept: Int)
        /// Those of the `kept` groups with the largest sum of their two best; affinities for the choice, not for the
        /// weights, are corrected by a learned bias (auxiliary-loss-free balancing, DeepSeek-V3).
        case corrected(groups: Int, kept: Int)
    }

    /// Routed experts.
    public var count: Int
    /// Routed experts that a token visits.
    public var expertsPerToken: Int
    /// Width inside one routed expert.
    public var width: Int
    /// Width inside the shared experts together; 0 for none.
    public var sharedWidth: Int
    /// Leading layers with a dense feed-forward instead.
    public var denseLayers: Int
    /// How logits become affinities.
    public var scoring: Scoring
    /// Which experts a token may choose from.
    public var selection: Selection
    /// Whether the weights of the chosen experts are divided by their sum.
    public var normalisesWeights: Bool
    /// Factor on the weights.
    public var weightScale: Double

    /// A mixture from its sizes; by default chosen greedily by softmax.
    public init(
        count: Int, expertsPerToken: Int, width: Int, sharedWidth: Int = 0, denseLayers: Int = 0,
        scoring: Scoring = .softmax, selection: Selection = .greedy, normalisesWeights: Bool = false,
        weightScale: Double = 1
    ) {
        self.count = count
        self.expertsPerToken = expertsPerToken
        self.width = width
        self.sharedWidth = sharedWidth
        self.denseLayers = denseLayers
        self.scoring = scoring
        self.selection = selection
        self.normalisesWeights = normalisesWeights
        self.weightScale = weightScale
    }

    /// Whether the choice is corrected by a learned bias.
    public var hasCorrection: Bool { if case .corrected = selection { true } else { false } }
}
