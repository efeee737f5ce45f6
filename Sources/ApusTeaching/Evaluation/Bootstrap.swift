import ApusTensor

/// A figure with its interval.
public struct Estimate: Sendable, Equatable {
    /// Of all prompts.
    public let value: Double
    /// The 2.5 and 97.5 percentiles over resampled prompts.
    public let low: Double
    /// See ``low``.
    public let high: Double
}

/// Resamples of prompts, with replacement: what a figure would have been on other prompts of the same kind.
///
/// The same resamples serve all figures and all reward models, so that differences between models are paired.
public struct Bootstrap: Sendable {
    /// Prompts of each resample, by index.
    public let resamples: [[Int]]
    private let all: [Int]

    /// Resamples of `prompts` prompts.
    public init(prompts: Int, resamples: Int = 1000, seed: UInt64 = 0) {
        var random = SplitMix64(state: seed)
        all = Array(0..<prompts)
        self.resamples =
            prompts == 0
            ? [] : (0..<resamples).map { _ in (0..<prompts).map { _ in Int.random(in: 0..<prompts, using: &random) } }
    }

    /// A figure of some prompts, with its interval.
    public func estimate(_ figure: ([Int]) -> Double) -> Estimate {
        let values = resamples.map(figure).sorted()
        return Estimate(
            value: figure(all), low: Self.quantile(values, 0.025), high: Self.quantile(values, 0.975))
    }

    /// The share of resamples in which the first figure is above the second; ties count half.
    public func probability(_ first: ([Int]) -> Double, above second: ([Int]) -> Double) -> Double {
        guard !resamples.isEmpty else { return 0.5 }
        let wins = resamples.reduce(0.0) { sum, prompts in
            let (one, two) = (first(prompts), second(prompts))
            return sum + (one > two ? 1 : one == two ? 0.5 : 0)
        }
        return wins / Double(resamples.count)
    }

    /// A quantile of sorted values, between neighbours.
    static func quantile(_ sorted: [Double], _ share: Double) -> Double {
        guard let last = sorted.last else { return .nan }
        let place = share * Double(sorted.count - 1)
        let index = Int(place)
        guard index + 1 < sorted.count else { return last }
        return sorted[index] + (place - Double(index)) * (sorted[index + 1] - sorted[index])
    }
}
