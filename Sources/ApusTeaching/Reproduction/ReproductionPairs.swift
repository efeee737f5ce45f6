import ApusModels
import ApusText
import ApusTraining

/// The human sets as the reproduction uses them, and the ground truth's labels.
struct ReproductionPairs {
    /// Pairs whose prompts and sides are short enough, without those that are held out.
    let train: [PreferencePair]
    /// Pairs of held-out prompts.
    let heldOut: [PreferencePair]

    /// Of so many prompts one is held out.
    private static let heldOutEvery: UInt64 = 10

    /// Reads the sets and keeps what fits, as policies and reward models read it.
    /// - Throws: ``TeachingDataError``, ``ReproductionError/tooFewPrompts(found:needed:)``.
    init(_ plan: ReproductionPlan, encoder: RewardEncoder) throws {
        var (train, heldOut) = ([PreferencePair](), [PreferencePair]())
        for file in plan.preferences {
            for pair in try PreferencePair.read(file) {
                func tokens(_ answer: String) throws -> Int { try encoder.tokens(answer, prompt: pair.prompt).count }
                guard try tokens("") <= plan.promptTokens,
                    try max(tokens(pair.chosen), tokens(pair.rejected)) <= plan.sequenceLength
                else { continue }
                // By the prompt, so that no prompt is in both parts.
                if Self.hash(pair.prompt.key) % Self.heldOutEvery == 0 {
                    heldOut.append(pair)
                } else {
                    train.append(pair)
                }
            }
        }
        self.train = train
        self.heldOut = heldOut
        let found = Self.prompts(heldOut).count
        guard found >= 2, !train.isEmpty else { throw ReproductionError.tooFewPrompts(found: found, needed: 2) }
    }

    /// The prompts of some pairs, each once.
    static func prompts(_ pairs: [PreferencePair]) -> [RewardPrompt] {
        var known: Set<String> = []
        return pairs.map(\.prompt).filter { known.insert($0.key).inserted }
    }

    /// The pairs with the better side by a reward in front; those of equal reward are left out.
    static func labelled(_ pairs: [PreferencePair], by truth: any RewardFunction) throws -> [PreferencePair] {
        try zip(pairs, rewards(of: pairs, by: truth)).compactMap { pair, rewards in
            guard rewards[0] != rewards[1] else { return nil }
            return rewards[0] > rewards[1]
                ? pair : PreferencePair(prompt: pair.prompt, chosen: pair.rejected, rejected: pair.chosen)
        }
    }

    /// Rewards of the chosen and the rejected side of each pair.
    static func rewards(of pairs: [PreferencePair], by reward: any RewardFunction) throws -> [[Double]] {
        try rewards(of: pairs.map { [$0.chosen, $0.rejected] }, to: pairs.map(\.prompt), by: reward)
    }

    /// Prompts whose outputs are rewarded together, so that a reward can stop in between.
    private static let block = 256

    /// Rewards of each prompt's outputs.
    static func rewards(
        of outputs: [[String]], to prompts: [RewardPrompt], by reward: any RewardFunction
    ) throws -> [[Double]] {
        try stride(from: 0, to: prompts.count, by: block).flatMap { first in
            try reward.checkedRewards(
                of: (first..<min(first + block, prompts.count)).map {
                    RewardGroup(index: $0, prompt: prompts[$0], outputs: outputs[$0])
                })
        }
    }

    /// Pairs among a prompt's outputs, the better by a reward in front: `limit` a prompt at most, drawn by the seed.
    static func amongOutputs(
        _ outputs: [[String]], of prompts: [RewardPrompt], by truth: any RewardFunction, limit: Int, seed: UInt64
    ) throws -> [PreferencePair] {
        try rewards(of: outputs, to: prompts, by: truth).enumerated().flatMap { index, rewards -> [PreferencePair] in
            let (prompt, texts) = (prompts[index], outputs[index])
            let places = texts.indices.flatMap { one in (0..<one).map { (one, $0) } }.filter { one, other in
                rewards[one] != rewards[other] && texts[one] != texts[other]
            }
            guard !places.isEmpty else { return [] }
            let order = WindowOrder(count: places.count, seed: WindowOrder.mix(seed ^ UInt64(index)))
            return (0..<min(limit, places.count)).map { place in
                let (one, other) = places[order[place]]
                let isBetter = rewards[one] > rewards[other]
                return PreferencePair(
                    prompt: prompt, chosen: texts[isBetter ? one : other], rejected: texts[isBetter ? other : one])
            }
        }
    }

    /// FNV-1a.
    private static func hash(_ text: String) -> UInt64 {
        WindowOrder.mix(
            text.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 })
    }
}

extension PreferencePair {
    /// The pair as a row of JSON Lines that ``read(_:)`` reads.
    var json: JSONObject {
        ["prompt": prompt.json, "chosen": .string(chosen), "rejected": .string(rejected)]
    }
}

extension RewardPrompt {
    /// The prompt as rows hold it.
    var json: JSONValue {
        switch content {
        case .text(let text): .string(text)
        case .messages(let messages): .array(messages.map(\.json))
        }
    }
}
