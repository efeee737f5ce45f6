import ApusTraining

/// A prompt as a policy reads it.
public struct PolicyPrompt: Sendable, Equatable {
    /// Its place in its files, from 0: for messages.
    public var index: Int
    /// The prompt.
    public var prompt: RewardPrompt
    /// Its tokens.
    public var tokens: [Int32]

    /// A prompt.
    public init(index: Int, prompt: RewardPrompt, tokens: [Int32]) {
        self.index = index
        self.prompt = prompt
        self.tokens = tokens
    }
}

/// Prompts without end: each once an epoch, in an order that follows from the seed and the epoch.
struct PromptOrder: Sendable {
    let count: Int
    let seed: UInt64

    /// The prompt at a place.
    subscript(position: Int) -> Int {
        let epoch = UInt64(position / count)
        return WindowOrder(count: count, seed: WindowOrder.mix(WindowOrder.mix(seed) ^ epoch))[position % count]
    }
}

/// Seeds that do not meet: what is drawn depends on the run's seed, what for, and which one.
enum DrawSeeds {
    enum Purpose: UInt64 {
        case rollout = 1
        case evaluation = 2
        case normalization = 3
        case minibatches = 4
    }

    static func seed(_ run: UInt64, _ purpose: Purpose, _ number: Int) -> UInt64 {
        WindowOrder.mix(WindowOrder.mix(run &* 8 &+ purpose.rawValue) ^ UInt64(number))
    }
}
