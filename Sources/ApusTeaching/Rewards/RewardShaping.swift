import ApusTraining

/// What is done to rewards before a policy learns from them: a share of the prompts is scaled, then all are normalised.
public struct RewardShaping: Sendable, Equatable {
    /// Multiplies the rewards of a share of the prompts.
    public var factor: Double
    /// That share.
    public var share: Double
    /// What they are scaled about.
    public var about: RewardScaleCentre
    /// Chooses the prompts.
    public var seed: UInt64
    /// Subtracted from all rewards.
    public var mean = 0.0
    /// Divides them.
    public var deviation = 1.0

    /// Rewards as they are, but for the scaling.
    public init(factor: Double = 1, share: Double = 0.5, about: RewardScaleCentre = .zero, seed: UInt64 = 0) {
        self.factor = factor
        self.share = share
        self.about = about
        self.seed = seed
    }

    /// Takes the pooled mean and standard deviation of rewards of the initial policy's outputs as those to normalise with.
    /// Rewards that are all equal are only shifted.
    /// - Parameters:
    ///   - rewards: as the reward function gave them, by prompt and output.
    ///   - prompts: each prompt's place among `count`.
    /// - Throws: ``RewardDataError``.
    public mutating func normalize(by rewards: [[Double]], prompts: [Int], of count: Int) throws {
        let pooled = try RewardSamples(
            zip(rewards, prompts).map { scaled($0, prompt: $1, of: count) }
        ).normalisation
        mean = pooled.mean
        deviation = pooled.deviation > 0 ? pooled.deviation : 1
    }

    /// The rewards of one prompt's outputs, shaped.
    public func shaped(_ rewards: [Double], prompt: Int, of count: Int) -> [Double] {
        scaled(rewards, prompt: prompt, of: count).map { ($0 - mean) / deviation }
    }

    /// Whether the rewards of a prompt are scaled: so many of `count` are, drawn by the seed.
    public func isScaled(_ prompt: Int, of count: Int) -> Bool {
        guard factor != 1 else { return false }
        return WindowOrder(count: count, seed: WindowOrder.mix(seed))[prompt] < Int((share * Double(count)).rounded())
    }

    private func scaled(_ rewards: [Double], prompt: Int, of count: Int) -> [Double] {
        guard isScaled(prompt, of: count) else { return rewards }
        let centre =
            about == .zero ? 0 : rewards.reduce(0, +) / Double(max(rewards.count, 1))
        return rewards.map { centre + factor * ($0 - centre) }
    }
}
