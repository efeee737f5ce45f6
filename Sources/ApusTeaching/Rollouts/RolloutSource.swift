/// What draws outputs from a model that is being trained.
///
/// Outputs are drawn from the policy itself: temperature 1, no filters. Between a change of weights and the next
/// ``draw(_:)`` stands a ``refresh()``.
public protocol RolloutSource: AnyObject {
    /// Goes on with the weights as they are now.
    func refresh() async throws

    /// Draws the outputs of all requests, with the log-probability of each token under the policy that drew it.
    /// - Returns: the outputs of each request, in order.
    /// - Throws: ``PolicySamplingError`` that names the prompt; what fails on a device.
    func draw(_ requests: [RolloutRequest]) async throws -> [[Rollout]]

    /// Log-probabilities of outputs under the weights as they are, by the kernels that draw.
    /// - Parameter outputs: each with its prompt's place, for messages.
    /// - Throws: ``PolicySamplingError`` that names the prompt; ``PolicyGradientError/engineLogProbabilities`` where there
    ///   are no such kernels.
    func logProbabilities(
        of outputs: [(prompt: Int, tokens: [Int32], output: [Int32])]
    ) async throws -> [[Float]]
}
