import ApusModels
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Mean and standard deviation of a reward over some outputs, stored with a reward model in `reward.json`.
public struct RewardNormalization: Sendable, Equatable {
    /// The file's name.
    public static let fileName = "reward.json"

    /// The mean.
    public var mean: Double
    /// The standard deviation.
    public var deviation: Double
    /// Rewards that it was measured over.
    public var count: Int

    /// Measures rewards.
    ///
    /// Precondition: at least one.
    public init(_ rewards: [Double]) {
        precondition(!rewards.isEmpty, "a mean of no rewards")
        let count = Double(rewards.count)
        let mean = rewards.reduce(0, +) / count
        self.mean = mean
        deviation = (rewards.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count).squareRoot()
        self.count = rewards.count
    }

    /// Reads what stands beside a reward model's weights; nil where nothing does.
    /// - Throws: `JSONError` for a file that is none.
    public init?(folder: String) throws {
        let path = "\(folder)/\(Self.fileName)"
        guard let contents = FileManager.default.contents(atPath: path) else { return nil }
        try self.init(JSONNode(try JSONValue(parsing: Array(contents)), name: path))
    }

    init(_ node: JSONNode) throws(JSONError) {
        mean = try node.double("mean")
        deviation = try node.double("standard_deviation")
        count = try node.int("rewards")
    }

    /// Less the mean, over the deviation; 0 where rewards do not vary.
    public func normalized(_ reward: Double) -> Double { deviation > 0 ? (reward - mean) / deviation : 0 }

    /// What ``init(folder:)`` reads.
    public var json: JSONValue {
        ["mean": .double(mean), "standard_deviation": .double(deviation), "rewards": .integer(Int64(count))]
    }
}
