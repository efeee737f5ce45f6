import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The clipped surrogate of a policy gradient over some outputs, and a KL term, as a loss of log-probabilities.
///
/// With a ratio r of new to old probabilities: -min(r A, clip(r, 1 - low, 1 + high) A) (Schulman et al. 2017, arXiv 1707.06347),
/// per token (GRPO, PPO) or of a whole output (RLOO, REINFORCE: r is the product over its tokens). The KL term, per token, is
/// k3: exp(d) - d - 1 with d = log reference - log policy (Schulman 2020; GRPO's equation 4).
public struct PolicySurrogate: Sendable {
    /// What a ratio is taken of.
    public enum Ratio: Sendable {
        /// Each token.
        case token
        /// A whole output.
        case sequence
    }

    /// One output.
    public struct Output: Sendable {
        /// Log-probabilities before the first update; nil where this is the first, so that the ratio is 1.
        public var old: [Float]?
        /// Log-probabilities as they are now, where others compute them than the pass that gives gradients; nil for that pass's.
        public var new: [Float]?
        /// Log-probabilities under the reference; nil without a KL term.
        public var reference: [Float]?
        /// Of each token.
        public var advantages: [Float]
        /// Factor of each token's part of the loss (for ratios of outputs: of the output's part, and of each token's KL).
        public var weight: Double

        /// An output.
        public init(
            old: [Float]?, new: [Float]? = nil, reference: [Float]?, advantages: [Float], weight: Double
        ) {
            self.old = old
            self.new = new
            self.reference = reference
            self.advantages = advantages
            self.weight = weight
        }
    }

    /// What a pass over the outputs found.
    public struct Figures: Sendable, Equatable {
        /// Ratios taken.
        public var ratios = 0
        /// Ratios whose gradient the clip took.
        public var clipped = 0
        /// Sum of the ratios.
        public var ratioSum = 0.0
        /// Sum of the k3 terms over tokens.
        public var klSum = 0.0
        /// Tokens.
        public var tokens = 0

        /// Nothing yet.
        public init() {}
    }

    /// What ratios are of.
    public var ratio: Ratio
    /// How far below 1 a ratio moves at most, and above.
    public var clip: (low: Double, high: Double)
    /// Factor of the KL term; 0 for none.
    public var klWeight: Double
    /// The outputs, whose tokens are the rows in order.
    public let outputs: [Output]
    private let starts: [Int]

    /// A surrogate.
    public init(ratio: Ratio, clip: (low: Double, high: Double), klWeight: Double, outputs: [Output]) {
        self.ratio = ratio
        self.clip = clip
        self.klWeight = klWeight
        self.outputs = outputs
        starts = outputs.reduce(into: [0]) { $0.append($0.last! + $1.advantages.count) }
    }

    private var isPerToken: Bool {
        if case .token = ratio { return true }
        return false
    }

    /// Whether a row's part depends on it alone: unless an output's ratio is not known to be 1.
    private var isRowwise: Bool { isPerToken || outputs.allSatisfy { $0.old == nil } }

    /// The loss for ``DifferentiableOperations/crossEntropy(_:head:targets:_:)``.
    /// - Parameter report: told what each call found.
    public func loss(_ report: @escaping (Figures) -> Void = { _ in }) -> LogProbabilityLoss {
        LogProbabilityLoss(isRowwise: isRowwise) { rows, logProbabilities in
            evaluate(rows, logProbabilities, report)
        }
    }

    /// The value for some rows, and its derivative by each log-probability.
    private func evaluate(
        _ rows: Range<Int>, _ logProbabilities: [Float], _ report: (Figures) -> Void
    ) -> (value: Double, derivatives: [Float]) {
        var (value, figures) = (0.0, Figures())
        let (isPerToken, isRowwise) = (isPerToken, isRowwise)
        var derivatives = [Float](repeating: 0, count: rows.count)
        for (index, output) in outputs.enumerated()
        where starts[index] < rows.upperBound && starts[index + 1] > rows.lowerBound {
            let part = max(starts[index], rows.lowerBound)..<min(starts[index + 1], rows.upperBound)
            let local = part.lowerBound - starts[index]..<part.upperBound - starts[index]
            let new =
                output.new?[local]
                ?? logProbabilities[part.lowerBound - rows.lowerBound..<part.upperBound - rows.lowerBound]
            var slopes = [Double](repeating: 0, count: part.count)
            if isRowwise {
                for (place, token) in local.enumerated() {
                    let logRatio = output.old.map { Double(new[new.startIndex + place]) - Double($0[token]) } ?? 0
                    let found = clipped(logRatio, Double(output.advantages[token]), &figures)
                    if isPerToken || token == 0 { value -= output.weight * found.value }
                    slopes[place] = -output.weight * found.slope
                }
            } else {
                let logRatio = zip(new, output.old ?? Array(new)).reduce(0.0) { $0 + Double($1.0) - Double($1.1) }
                let found = clipped(logRatio, Double(output.advantages[0]), &figures)
                value -= output.weight * found.value
                for place in slopes.indices { slopes[place] = -output.weight * found.slope }
            }
            if let reference = output.reference {
                for (place, token) in local.enumerated() {
                    let d = Double(reference[token]) - Double(new[new.startIndex + place])
                    let k3 = exp(min(d, 60)) - d - 1
                    figures.klSum += k3
                    value += klWeight * output.weight * k3
                    slopes[place] += klWeight * output.weight * (1 - exp(min(d, 60)))
                }
            }
            figures.tokens += part.count
            for (place, slope) in slopes.enumerated() {
                derivatives[part.lowerBound - rows.lowerBound + place] = Float(slope)
            }
        }
        report(figures)
        return (value, derivatives)
    }

    /// min(r A, clip(r) A) and its derivative by the logarithm of r.
    private func clipped(
        _ logRatio: Double, _ advantage: Double, _ figures: inout Figures
    ) -> (value: Double, slope: Double) {
        // A ratio that has left all bounds stays a number.
        let r = exp(min(max(logRatio, -60), 60))
        let bounded = min(max(r, 1 - clip.low), 1 + clip.high)
        let isClipped = bounded * advantage < r * advantage
        figures.ratios += 1
        figures.ratioSum += r
        if isClipped { figures.clipped += 1 }
        return isClipped ? (bounded * advantage, 0) : (r * advantage, r * advantage)
    }
}
