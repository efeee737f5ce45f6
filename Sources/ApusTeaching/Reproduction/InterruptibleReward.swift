/// A reward that ends with `CancellationError`, before the next prompt, where it should stop.
struct InterruptibleReward: RewardFunction {
    let reward: any RewardFunction
    let shouldStop: @Sendable () -> Bool

    var name: String { reward.name }

    func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        if shouldStop() { throw CancellationError() }
        return try reward.rewards(of: outputs, prompt: prompt)
    }

    func rewards(of groups: [RewardGroup]) throws -> [[Double]]? {
        if shouldStop() { throw CancellationError() }
        return try reward.rewards(of: groups)
    }
}
