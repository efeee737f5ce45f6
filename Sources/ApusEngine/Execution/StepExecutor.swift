import ApusAttention
import ApusModels
import ApusTensor

/// What computes an engine's steps. The hidden states of a step stay with it until the next one begins.
protocol StepExecutor: AnyObject {
    /// Copies a page of every layer.
    func copyPage(from: Int32, to: Int32) throws

    /// Runs the layers over new tokens, which are appended to their sequences' pages.
    /// - Parameters:
    ///   - tokens: of all tables, in their order.
    ///   - tables: of each sequence its pages, the tokens that these hold already, and the number of its new ones.
    func runLayers(_ tokens: [Int32], _ tables: [StepTable]) throws

    /// Rows of the step's hidden states after the final norm: float32 [rows, hidden], in the host's memory.
    func normalizedStates(_ rows: Range<Int>) throws -> Tensor

    /// Logits of rows of the step: float32 [rows, outputs], in the host's memory.
    func logits(rows: [Int]) throws -> Tensor

    /// The likeliest token of each row of the step, where they are known already; nil where ``logits(rows:)`` must tell.
    func likeliestTokens(rows: [Int]) throws -> [Int32]?

    /// Goes on with other weights of the same model, from the next step on.
    func replaceWeights(by decoder: Decoder)

    /// Told while there is nothing to do: how often, in seconds; nil for never.
    var idleSeconds: Double? { get }

    /// There is nothing to do yet.
    func idle()

    /// Nothing will follow.
    func stop()
}

/// A sequence of a step.
struct StepTable: Equatable {
    /// Its pages, enough for all tokens.
    var pages: [Int32]
    /// The tokens that they hold already.
    var length: Int
    /// The number of new ones.
    var tokens: Int
}
