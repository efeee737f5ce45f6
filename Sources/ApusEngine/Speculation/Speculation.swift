/// Who drafts tokens that the model then checks several at once (Leviathan, Kalman, Matias 2023).
///
/// The output is what it would be without drafts: the same tokens where sampling is greedy (to the last bit of the logits in
/// batch-invariant mode), the same distribution otherwise. How many tokens are drafted follows from what was accepted so far
/// and from what steps of so many rows have cost.
public enum Speculation: Sendable {
    /// Nobody.
    case none
    /// The sequence itself: what followed the last time that its last tokens came (Saxena 2023). Costs next to nothing, and
    /// helps where the output copies from prompt or output. A seed gives the same tokens as without.
    case promptLookup
    /// A smaller model with the same vocabulary, by rejection sampling.
    case draftModel(LanguageModel)
}
