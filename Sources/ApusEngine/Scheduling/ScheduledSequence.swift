/// One sequence as the scheduler sees it: its tokens, how many of them are in the cache, and on which pages.
///
/// Belongs to one ``Scheduler``, which alone changes what is not settable.
package final class ScheduledSequence {
    /// Where a sequence stands among others: lower ones run first and lose their pages last.
    package struct Order: Comparable, Sendable {
        /// Priority, or priority and age together.
        package let level: Double
        /// Order of submission.
        package let arrival: Int

        /// A place in the order.
        package init(level: Double, arrival: Int) {
            self.level = level
            self.arrival = arrival
        }

        /// By level, then by arrival.
        package static func < (a: Order, b: Order) -> Bool {
            a.level < b.level || (a.level == b.level && a.arrival < b.arrival)
        }
    }

    /// What the scheduler does with a sequence.
    package enum State: Sendable {
        /// It has no pages.
        case waiting
        /// It has pages for all its tokens.
        case running
        /// It is not the scheduler's any more.
        case finished
    }

    /// Its place among others.
    package let order: Order
    /// Whose it is, for the scheduler's user.
    package let tag: Int
    /// Whether full pages are looked up in the prefix cache, and offered to it.
    package let prefixUse: PrefixUse
    /// Samples that will fork off once the prompt has been computed.
    package internal(set) var forks: Int
    /// The prompt, and what has been generated.
    package internal(set) var tokens: [Int32]
    /// Tokens to be computed after the last one on trial; set before a step, dropped by it.
    package var drafts: [Int32] = []
    /// Tokens in the cache.
    package internal(set) var computed = 0
    /// The page table.
    package internal(set) var pages: [Int32] = []
    /// Waiting, running, finished.
    package internal(set) var state = State.waiting
    /// Tokens found in the prefix cache when it last began to run.
    package internal(set) var found = 0
    var registered = 0
    var chain: PagePool.Chain = 0

    /// A sequence that waits.
    package init(
        order: Order, tag: Int = 0, tokens: [Int32], forks: Int = 0, prefixUse: PrefixUse = .readWrite
    ) {
        self.order = order
        self.tag = tag
        self.tokens = tokens
        self.forks = forks
        self.prefixUse = prefixUse
    }

    /// Tokens not in the cache.
    package var remaining: Int { tokens.count - computed }
}

/// How a sequence uses the prefix cache.
package enum PrefixUse: Sendable {
    /// Not at all.
    case none
    /// Its pages can be found, but it computes all of its own tokens.
    case write
    /// It begins with what can be found, and its pages can be found.
    case readWrite
}
