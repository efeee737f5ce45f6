/// What gives outputs a number: a reward model, a verifier, a sum of others.
public protocol RewardFunction: Sendable {
    /// For tables and messages.
    var name: String { get }

    /// Rewards of outputs of one prompt, in order.
    /// - Throws: what went wrong; the caller names the prompt.
    func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double]

    /// Rewards of the outputs of several prompts, by prompt, where they come at less cost together; nil (the default) where
    /// it makes no difference.
    /// - Throws: ``RewardError`` that names the prompt; what has failed on a device.
    func rewards(of groups: [RewardGroup]) throws -> [[Double]]?
}

/// The outputs of one prompt.
public struct RewardGroup: Sendable {
    /// The prompt's place, for messages.
    public var index: Int
    /// The prompt.
    public var prompt: RewardPrompt
    /// Its outputs.
    public var outputs: [String]

    /// Outputs that want rewards.
    public init(index: Int, prompt: RewardPrompt, outputs: [String]) {
        self.index = index
        self.prompt = prompt
        self.outputs = outputs
    }
}

extension RewardFunction {
    /// Nil.
    public func rewards(of groups: [RewardGroup]) throws -> [[Double]]? { nil }

    /// Rewards of the outputs of several prompts, by prompt: together where they come at less cost so. Each is a finite
    /// number.
    /// - Throws: as ``checkedRewards(of:prompt:index:)``, and what has failed on a device.
    public func checkedRewards(of groups: [RewardGroup]) throws -> [[Double]] {
        guard let found = try rewards(of: groups) else {
            return try groups.map { try checkedRewards(of: $0.outputs, prompt: $0.prompt, index: $0.index) }
        }
        for (group, values) in zip(groups, found) { try check(values, of: group.outputs.count, index: group.index) }
        return found
    }

    /// As ``rewards(of:prompt:)``, and each of them is a finite number.
    /// - Throws: ``RewardError`` that names the prompt by its index; `CancellationError` where the reward throws it.
    public func checkedRewards(of outputs: [String], prompt: RewardPrompt, index: Int) throws -> [Double] {
        let values: [Double]
        do {
            values = try rewards(of: outputs, prompt: prompt)
        } catch let stop as CancellationError {
            throw stop
        } catch {
            throw RewardError.failed(reward: name, prompt: index, problem: "\(error)")
        }
        try check(values, of: outputs.count, index: index)
        return values
    }

    private func check(_ values: [Double], of count: Int, index: Int) throws {
        guard values.count == count else {
            throw RewardError.failed(
                reward: name, prompt: index, problem: "expected \(count) rewards, found \(values.count)")
        }
        if let output = values.firstIndex(where: { !$0.isFinite }) {
            throw RewardError.notFinite(reward: name, prompt: index, output: output, found: values[output])
        }
    }
}

/// A reward that cannot be had.
public enum RewardError: Error, CustomStringConvertible {
    /// The reward of an output is NaN or infinite.
    case notFinite(reward: String, prompt: Int, output: Int, found: Double)
    /// The reward function threw.
    case failed(reward: String, prompt: Int, problem: String)
    /// A model that gives no single score.
    case notARewardModel(path: String, found: String)
    /// A conversation longer than the model reads.
    case tooLong(tokens: Int, limit: Int)
    /// A pattern that is none.
    case pattern(String, problem: String)
    /// A verifier needs an answer that the prompt lacks.
    case noAnswer(verifier: String)
    /// A text that names no reward.
    case specification(String, expected: String)
    /// A process or an endpoint that gave no rewards.
    case external(String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .notFinite(let reward, let prompt, let output, let found):
            "\(reward): expected a finite reward, found \(found) for output \(output) of prompt \(prompt)"
        case .failed(let reward, let prompt, let problem): "\(reward), prompt \(prompt): \(problem)"
        case .notARewardModel(let path, let found):
            "\(path): expected a model with a score head of one label, found \(found)"
        case .tooLong(let tokens, let limit):
            "the conversation has \(tokens) tokens, and the reward model reads \(limit) at most"
        case .pattern(let pattern, let problem): "expected a regular expression, found \(pattern): \(problem)"
        case .noAnswer(let verifier): "\(verifier): the prompt has no answer to compare with"
        case .specification(let text, let expected): "\(text): expected \(expected)"
        case .external(let problem): problem
        }
    }
}

/// A weighted sum of other rewards.
public struct WeightedReward: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name: String
    private let parts: [(weight: Double, reward: any RewardFunction)]

    /// The sum of each reward times its weight.
    public init(_ parts: [(weight: Double, reward: any RewardFunction)], name: String? = nil) {
        self.parts = parts
        self.name = name ?? parts.map { "\($0.weight) \($0.reward.name)" }.joined(separator: " + ")
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        var sums = [Double](repeating: 0, count: outputs.count)
        for part in parts {
            for (index, value) in try part.reward.rewards(of: outputs, prompt: prompt).enumerated() {
                sums[index] += part.weight * value
            }
        }
        return sums
    }

    /// See ``RewardFunction/rewards(of:)``: nil where all of its parts say so.
    public func rewards(of groups: [RewardGroup]) throws -> [[Double]]? {
        let together = try parts.map { try $0.reward.rewards(of: groups) }
        guard together.contains(where: { $0 != nil }) else { return nil }
        var sums = groups.map { [Double](repeating: 0, count: $0.outputs.count) }
        for (part, found) in zip(parts, together) {
            let values = try found ?? part.reward.checkedRewards(of: groups)
            for group in sums.indices {
                for (index, value) in values[group].enumerated() { sums[group][index] += part.weight * value }
            }
        }
        return sums
    }
}
