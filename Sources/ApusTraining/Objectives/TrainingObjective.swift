import ApusTensor
import ApusText

/// What a run minimises: it turns each optimiser step into losses, and says what was reached.
///
/// Batches follow from the step's number, the weights and ``state``, so that a run that goes on from a checkpoint equals
/// the unbroken one bit for bit.
///
/// ```swift
/// let objective = CrossEntropyObjective(model, data: batches, accumulation: 2)
/// let trainer = Trainer(model: model, objective: objective, settings: settings)
/// ```
public protocol TrainingObjective: AnyObject {
    /// Parameters that are trained beside the decoder's, such as a value head: the optimiser, checkpoints and resumed runs
    /// cover them. Nil for none.
    var heads: (any Module)? { get }

    /// Whether a loss far above its recent mean means that training has gone wrong.
    var hasComparableLoss: Bool { get }

    /// The micro-batches of a step, asked for once, with the weights of `step` steps.
    ///
    /// Where it throws, ``state`` must be what it was before: a checkpoint is written then.
    /// - Parameter step: steps made before.
    func microBatches(step: Int) async throws -> [MicroBatch]

    /// Gets ready, while a device computes the step before, what ``microBatches(step:)`` needs of the data, which it does
    /// itself where this was not called. ``state`` stays as it is.
    func prepare(step: Int)

    /// Figures of the step whose micro-batches were asked for last; the weights have changed since.
    func finishStep() throws -> [TrainingMetric]

    /// Figures on what is held out; nil where nothing is.
    func evaluate() async throws -> TrainingEvaluation?

    /// What a resumed run needs beyond weights, moments and the number of steps.
    var state: JSONValue { get }

    /// Goes on from a ``state``.
    /// - Throws: what is wrong with it.
    func restore(_ state: JSONValue) throws

    /// Files that belong beside the weights of a checkpoint.
    var files: [(name: String, contents: [UInt8])] { get }
}

extension TrainingObjective {
    /// None.
    public var heads: (any Module)? { nil }
    /// True.
    public var hasComparableLoss: Bool { true }
    /// Does nothing.
    public func prepare(step: Int) {}
    /// None.
    public func finishStep() throws -> [TrainingMetric] { [] }
    /// Nothing.
    public var state: JSONValue { .null }
    /// Does nothing.
    public func restore(_ state: JSONValue) throws {}
    /// None.
    public var files: [(name: String, contents: [UInt8])] { [] }
}

/// A figure of a step or an evaluation: for the log, TensorBoard and the status line.
public struct TrainingMetric: Sendable, Equatable {
    /// Its key in the log; an evaluation's stands after `validation_`.
    public var name: String
    /// The figure.
    public var value: Double
    /// Whether the status line shows it.
    public var isShown: Bool

    /// A figure.
    public init(_ name: String, _ value: Double, isShown: Bool = false) {
        self.name = name
        self.value = value
        self.isShown = isShown
    }
}

/// A part of an optimiser step whose gradients are added up.
public struct MicroBatch {
    /// Factor of its loss in the step's.
    public var weight: Double
    /// Tokens that it computes.
    public var tokens: Int
    /// Computes the loss, a recorded scalar. Called once; the backward pass follows at once.
    public var loss: () throws -> Tensor

    /// A part of a step.
    public init(weight: Double, tokens: Int, loss: @escaping () throws -> Tensor) {
        self.weight = weight
        self.tokens = tokens
        self.loss = loss
    }
}

/// What was reached on held-out data.
public struct TrainingEvaluation: Sendable, Equatable {
    /// The figures, the loss first.
    public var metrics: [TrainingMetric]
    /// Over how many tokens, pairs or prompts.
    public var count: Int
    /// What was counted: "tokens".
    public var unit: String
    /// What the best checkpoint has most of.
    public var score: Double

    /// Figures on held-out data. Precondition: at least one.
    public init(metrics: [TrainingMetric], count: Int, unit: String, score: Double) {
        precondition(!metrics.isEmpty, "an evaluation without a loss")
        self.metrics = metrics
        self.count = count
        self.unit = unit
        self.score = score
    }

    /// The loss.
    public var loss: Double { metrics[0].value }
}
