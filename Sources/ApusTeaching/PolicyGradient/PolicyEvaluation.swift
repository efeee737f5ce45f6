import ApusText

/// A policy on held-out prompts, after some steps.
public struct PolicyEvaluation: Sendable, Equatable {
    /// The mean of something over prompts, with its standard error.
    public struct Estimate: Sendable, Equatable {
        /// Each prompt's mean over its outputs.
        public var byPrompt: [Double]

        /// An estimate from each prompt's mean.
        public init(byPrompt: [Double]) { self.byPrompt = byPrompt }

        /// The mean over prompts.
        public var mean: Double { byPrompt.reduce(0, +) / Double(max(byPrompt.count, 1)) }

        /// Standard error of the mean difference to another estimate on the same prompts.
        public func differenceError(to other: Estimate) -> Double {
            let differences = zip(byPrompt, other.byPrompt).map { $0 - $1 }
            return (GroupSpread.variance(differences) / Double(max(differences.count, 1))).squareRoot()
        }
    }

    /// Steps made.
    public var step: Int
    /// The reward that the policy learns from, shaped as it learns from it.
    public var proxy: Estimate
    /// What it stands for.
    public var groundTruth: Estimate?
    /// Mean over outputs of log policy - log reference.
    public var kl: Double?
    /// Mean tokens of an output.
    public var length: Double

    /// An evaluation.
    public init(step: Int, proxy: Estimate, groundTruth: Estimate?, kl: Double? = nil, length: Double) {
        self.step = step
        self.proxy = proxy
        self.groundTruth = groundTruth
        self.kl = kl
        self.length = length
    }

    /// Whether the proxy has risen since the evaluation in which the ground truth was highest while the ground truth has fallen,
    /// each by more than two standard errors of the paired difference: the policy has learnt what the proxy gets wrong.
    public static func hasParted(_ evaluations: [PolicyEvaluation]) -> Bool {
        guard let last = evaluations.last, let truth = last.groundTruth else { return false }
        let best = evaluations.dropLast().max {
            ($0.groundTruth?.mean ?? -.infinity) < ($1.groundTruth?.mean ?? -.infinity)
        }
        guard let best, let bestTruth = best.groundTruth else { return false }
        let rise = last.proxy.mean - best.proxy.mean
        let fall = bestTruth.mean - truth.mean
        return rise > 2 * last.proxy.differenceError(to: best.proxy) && rise > 0
            && fall > 2 * truth.differenceError(to: bestTruth) && fall > 0
    }
}

extension PolicyEvaluation {
    var json: JSONValue {
        var object: JSONObject = [
            "step": .integer(Int64(step)), "proxy": .array(proxy.byPrompt.map { .double($0) }),
            "length": .double(length),
        ]
        if let groundTruth { object["groundTruth"] = .array(groundTruth.byPrompt.map { .double($0) }) }
        if let kl { object["kl"] = .double(kl) }
        return .object(object)
    }

    init(_ node: JSONNode) throws(JSONError) {
        func estimate(_ node: JSONNode) throws(JSONError) -> Estimate {
            var values: [Double] = []
            for element in try node.elements() { values.append(try element.double()) }
            return Estimate(byPrompt: values)
        }
        step = try node.int("step")
        proxy = try estimate(try node.child("proxy"))
        length = try node.double("length")
        groundTruth = nil
        if let member = try node.optional("groundTruth") { groundTruth = try estimate(member) }
        kl = try node.optional("kl")?.double()
    }
}
