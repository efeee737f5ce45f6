import ApusText

/// Where a run stands, beside weights and moments.
public struct TrainerState: Sendable, Equatable {
    /// Optimiser steps made.
    public var step = 0
    /// Tokens computed in them.
    public var tokens = 0
    /// Running mean of the loss; nil before the first step.
    public var recentLoss: Double?
    /// The best evaluation so far, where the best checkpoint is kept.
    public var best: Best?
    /// Evaluations since the best one.
    public var evaluationsSinceBest = 0
    /// The objective's own.
    public var objective = JSONValue.null

    /// The best evaluation.
    public struct Best: Sendable, Equatable {
        /// After so many steps.
        public var step: Int
        /// Its score.
        public var score: Double

        /// An evaluation after `step`.
        public init(step: Int, score: Double) {
            self.step = step
            self.score = score
        }
    }

    /// The state of a run that has not begun.
    public init() {}

    /// The bits of numbers, so that a resumed run goes on exactly.
    private static func bits(_ value: Double) -> JSONValue { .string(String(value.bitPattern, radix: 16)) }

    var json: JSONValue {
        var object = JSONObject([("step", .integer(Int64(step))), ("tokens", .integer(Int64(tokens)))])
        if let recentLoss { object["recent_loss_bits"] = Self.bits(recentLoss) }
        if let best {
            object["best_step"] = .integer(Int64(best.step))
            object["best_score_bits"] = Self.bits(best.score)
            object["evaluations_since_best"] = .integer(Int64(evaluationsSinceBest))
        }
        if objective != .null { object["objective"] = objective }
        return .object(object)
    }

    /// Reads a state.
    /// - Throws: `JSONError` for what is missing or of another type.
    init(_ node: JSONNode) throws(JSONError) {
        step = try node.child("step", expected: "an integer").int(in: 0...Int.max)
        tokens = try node.child("tokens", expected: "an integer").int(in: 0...Int.max)
        recentLoss = try node.optional("recent_loss_bits").map { node throws(JSONError) in try Self.number(node) }
        if let step = try node.optional("best_step") {
            best = Best(
                step: try step.int(in: 0...Int.max),
                score: try Self.number(try node.child("best_score_bits", expected: "bits of a number")))
            evaluationsSinceBest = try node.child("evaluations_since_best", expected: "an integer").int(in: 0...Int.max)
        }
        objective = try node.optional("objective")?.value ?? .null
    }

    private static func number(_ node: JSONNode) throws(JSONError) -> Double {
        guard let pattern = UInt64(try node.string(), radix: 16) else {
            throw node.error(expected: "the bits of a number in hexadecimal")
        }
        return Double(bitPattern: pattern)
    }
}
