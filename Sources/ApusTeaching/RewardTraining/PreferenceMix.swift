import ApusTraining

/// Preference pairs from the policy and from others, in a given share, some of them held out.
public struct PreferenceMix: Sendable {
    /// Pairs to learn from.
    public let train: [PreferencePair]
    /// Pairs that are held out; no prompt of theirs is among the others.
    public let heldOut: [PreferencePair]
    /// On-policy pairs in the whole mix.
    public let onPolicy: Int

    /// Reads and mixes what a recipe names. Which pairs are taken follows from the recipe's seed.
    /// - Throws: ``TeachingDataError``, `TextDataError`.
    public init(_ recipe: Recipe) throws {
        let reward = recipe.reward
        let on = try reward.onPolicy.flatMap { try PreferencePair.read($0) }
        let off = try reward.offPolicy.flatMap { try PreferencePair.read($0) }
        let counts = Self.counts(on: on.count, off: off.count, share: reward.onPolicyShare, pairs: reward.pairs)
        for (files, wanted, found) in [
            (reward.onPolicy, counts.on, on.count), (reward.offPolicy, counts.off, off.count),
        ] where wanted > found {
            throw TeachingDataError.tooFew(files: files, expected: wanted, found: found)
        }
        let seed = UInt64(recipe.training.seed)
        let mix = Self.drawn(on, counts.on, seed: seed) + Self.drawn(off, counts.off, seed: seed &+ 1)
        onPolicy = counts.on
        if reward.validation.isEmpty {
            (train, heldOut) = Self.splitByPrompt(
                mix, fraction: reward.validationFraction, seed: recipe.training.seed)
        } else {
            train = mix
            heldOut = try reward.validation.flatMap { try PreferencePair.read($0) }
        }
    }

    /// How many pairs of each kind.
    private static func counts(on: Int, off: Int, share: Double?, pairs: Int?) -> (on: Int, off: Int) {
        guard let share else {
            // As many of each as they are, or in that proportion.
            guard let pairs, on + off > 0 else { return (on, off) }
            let ofOn = Int((Double(pairs) * Double(on) / Double(on + off)).rounded())
            return (ofOn, pairs - ofOn)
        }
        var total = pairs ?? Int.max
        if pairs == nil {
            if share > 0 { total = min(total, Int(Double(on) / share)) }
            if share < 1 { total = min(total, Int(Double(off) / (1 - share))) }
        }
        let ofOn = Int((Double(total) * share).rounded())
        return (min(ofOn, pairs == nil ? on : ofOn), min(total - ofOn, pairs == nil ? off : total - ofOn))
    }

    private static func drawn(_ pairs: [PreferencePair], _ count: Int, seed: UInt64) -> [PreferencePair] {
        guard count > 0 else { return [] }
        let order = WindowOrder(count: pairs.count, seed: seed)
        return (0..<count).map { pairs[order[$0]] }
    }

    /// Holds out all pairs of some prompts, so that no prompt is in both parts.
    private static func splitByPrompt(
        _ pairs: [PreferencePair], fraction: Double, seed: Int
    ) -> (train: [PreferencePair], heldOut: [PreferencePair]) {
        var known: Set<String> = []
        let prompts = pairs.map(\.prompt.key).filter { known.insert($0).inserted }
        let held = Set(HeldOut.split(prompts, fraction: fraction, seed: seed).validation)
        return (
            pairs.filter { !held.contains($0.prompt.key) }, pairs.filter { held.contains($0.prompt.key) }
        )
    }
}

extension RewardPrompt {
    /// Equal for equal conversations.
    var key: String { messages.map { "\($0.role)\u{0}\($0.content?.text ?? "")" }.joined(separator: "\u{1}") }
}
