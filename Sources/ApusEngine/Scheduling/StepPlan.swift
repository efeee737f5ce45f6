/// What one step computes.
package struct StepPlan {
    /// Tokens of one sequence.
    package struct Entry {
        /// The sequence.
        package let sequence: ScheduledSequence
        /// Its first token to compute: how many are in the cache.
        package let start: Int
        /// Tokens to compute, drafts not among them.
        package let count: Int
        /// Drafts to compute after them.
        package let drafts: Int

        /// Whether the last token is computed, so that logits are wanted.
        package var reachesEnd: Bool { start + count == sequence.tokens.count }
    }

    /// Decoding sequences first, then prompts.
    package internal(set) var entries: [Entry] = []
    /// Pages to copy, in this order, before the step.
    package internal(set) var copies: [(from: Int32, to: Int32)] = []
    /// Sequences that lost their pages.
    package internal(set) var preempted: [ScheduledSequence] = []
    /// Sequences that began to run.
    package internal(set) var admitted: [ScheduledSequence] = []

    /// Nothing to compute.
    package init() {}

    /// Tokens to compute.
    package var tokens: Int { entries.reduce(0) { $0 + $1.count + $1.drafts } }
}
