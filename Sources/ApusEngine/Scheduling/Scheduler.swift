/// Decides what each step computes, and on which pages. Knows nothing of models: the same decisions can be simulated.
///
/// A step has a budget of tokens. Decoding sequences come first, one token each and drafts where there is room; what is left
/// goes to prompts that run, in order, and then to sequences that wait, in order. A sequence begins to run when pages for all
/// its tokens can be had, so prompts that run never compete for pages; nobody overtakes the first that waits, so it is not
/// starved by smaller ones. When a decoding sequence needs a page and none is left, the last in order gives its pages back and
/// waits again; what it had computed may still be found in the prefix cache.
package struct Scheduler {
    /// Sizes.
    package struct Limits: Sendable {
        /// Tokens of a step.
        package var stepTokens: Int
        /// Sequences that run at once.
        package var maxSequences: Int
        /// Pages of the cache.
        package var pages: Int
        /// Tokens of a page.
        package var pageSize: Int
        /// Steps of more tokens are less exact; the last token of a prompt then waits for the next step, so that the row its
        /// answer begins with is as exact as those that follow.
        package var exactTokens: Int
        /// Prompt tokens of a step in which others decode, so that prompts hold up nobody's next token for long; more where so
        /// many prompts have gathered that they would take over ``backlogSteps`` steps.
        package var promptTokensBesideDecoding = Int.max
        /// See ``promptTokensBesideDecoding``.
        package var backlogSteps = 32

        /// Limits. Precondition: a step holds a token of each sequence.
        package init(stepTokens: Int, maxSequences: Int, pages: Int, pageSize: Int, exactTokens: Int = .max) {
            precondition(stepTokens >= maxSequences && maxSequences >= 1 && pages >= 1 && pageSize >= 1)
            self.stepTokens = stepTokens
            self.maxSequences = maxSequences
            self.pages = pages
            self.pageSize = pageSize
            self.exactTokens = exactTokens
        }
    }

    /// Counts since the beginning.
    package struct Counts: Sendable {
        /// Sequences that lost their pages.
        package var preemptions = 0
        /// Tokens looked up in the prefix cache.
        package var prefixQueries = 0
        /// Tokens found there.
        package var prefixHits = 0
    }

    /// The sizes it was made with.
    package let limits: Limits
    /// The pages.
    package internal(set) var pool: PagePool
    /// Sequences with pages, in order.
    package private(set) var running: [ScheduledSequence] = []
    /// Sequences without, in order.
    package private(set) var waiting: [ScheduledSequence] = []
    /// Counts since the beginning.
    package private(set) var counts = Counts()
    var slots = 0

    /// A scheduler without sequences.
    package init(_ limits: Limits) {
        self.limits = limits
        pool = PagePool(capacity: limits.pages, pageSize: limits.pageSize)
    }

    /// Whether nothing runs or waits.
    package var isIdle: Bool { running.isEmpty && waiting.isEmpty }

    /// Takes a sequence. Precondition: with all it will generate it fits the cache, and its samples fit `maxSequences`.
    package mutating func add(_ sequence: ScheduledSequence) {
        precondition(!sequence.tokens.isEmpty && sequence.forks < limits.maxSequences)
        sequence.state = .waiting
        Self.insert(sequence, into: &waiting)
    }

    /// Plans a step. Every entry's sequence holds the pages it writes to, alone.
    package mutating func schedule() -> StepPlan {
        var plan = StepPlan()
        var budget = limits.stepTokens
        planDecoding(&plan, &budget)
        if plan.tokens > 0 {
            budget = min(budget, max(limits.promptTokensBesideDecoding, backlog / limits.backlogSteps))
        }
        for sequence in running where budget > 0 && sequence.remaining > 1 { planPrompt(sequence, &plan, &budget) }
        if plan.preempted.isEmpty { admit(&plan, &budget) }
        return plan
    }

    /// Prompt tokens that are to be computed, of those who run and of those who wait and have a place.
    private var backlog: Int {
        let running = running.reduce(0) { $0 + ($1.remaining > 1 ? $1.remaining : 0) }
        return waiting.prefix(limits.maxSequences - slots).reduce(running) { $0 + $1.tokens.count }
    }

    /// Appends tokens that were drawn.
    package func append(_ tokens: [Int32], to sequence: ScheduledSequence) { sequence.tokens += tokens }

    /// Records that a sequence's first `computed` tokens are in the cache, gives pages back that it needs no more, and makes
    /// full ones known to others.
    package mutating func advance(_ sequence: ScheduledSequence, to computed: Int) {
        sequence.computed = computed
        sequence.drafts = []
        let needed = pool.pages(for: sequence.tokens.count)
        while sequence.pages.count > needed { pool.release(sequence.pages.removeLast()) }
        guard sequence.prefixUse != .none else { return }
        while (sequence.registered + 1) * limits.pageSize <= computed {
            let index = sequence.registered
            let start = index * limits.pageSize
            (sequence.pages[index], sequence.chain) = pool.register(
                sequence.pages[index], tokens: sequence.tokens[start..<start + limits.pageSize], after: sequence.chain)
            sequence.registered += 1
        }
    }

    /// A new sequence with the same tokens on the same pages, in place of one of the forks that were announced.
    /// Precondition: all its tokens are in the cache, and it holds no pages for more.
    package mutating func fork(_ sequence: ScheduledSequence) -> ScheduledSequence {
        precondition(
            sequence.forks > 0 && sequence.remaining == 0
                && sequence.pages.count == pool.pages(for: sequence.computed))
        sequence.forks -= 1
        let copy = ScheduledSequence(
            order: sequence.order, tag: sequence.tag, tokens: sequence.tokens, prefixUse: sequence.prefixUse)
        for page in sequence.pages { pool.retain(page) }
        (copy.pages, copy.computed, copy.found) = (sequence.pages, sequence.computed, sequence.found)
        (copy.registered, copy.chain, copy.state) = (sequence.registered, sequence.chain, .running)
        Self.insert(copy, into: &running)
        return copy
    }

    /// Takes a sequence out, with the forks it announced; its pages can be taken from then on.
    package mutating func finish(_ sequence: ScheduledSequence) {
        switch sequence.state {
        case .waiting: Self.remove(sequence, from: &waiting)
        case .running:
            Self.remove(sequence, from: &running)
            slots -= 1 + sequence.forks
            releasePages(sequence)
        case .finished: return
        }
        sequence.state = .finished
    }

    /// Makes unknown what a sequence has computed: it is not fit for others.
    package mutating func forget(_ sequence: ScheduledSequence) {
        for page in sequence.pages { pool.forget(page) }
    }

    /// Makes all that has been computed invalid: running sequences wait to be recomputed, and nothing is found any more.
    package mutating func invalidate() {
        while let last = running.last { preempt(last) }
        pool.forgetAll()
    }

    /// Makes unknown all that finished and running sequences have computed; running ones go on with what they have.
    package mutating func forgetAll() {
        pool.forgetAll()
        for sequence in running { (sequence.registered, sequence.chain) = (.max / limits.pageSize - 1, 0) }
    }

    /// What is wrong with pages and lists, or nil.
    package func inconsistency() -> String? {
        if running.contains(where: { $0.state != .running }) { return "a sequence among the running does not run" }
        if waiting.contains(where: { $0.state != .waiting || !$0.pages.isEmpty }) {
            return "a sequence waits with pages"
        }
        let taken = running.reduce(0) { $0 + 1 + $1.forks }
        if taken != slots || taken > limits.maxSequences { return "\(taken) sequences run, \(slots) counted" }
        for list in [running, waiting] where !zip(list, list.dropFirst()).allSatisfy({ $0.order <= $1.order }) {
            return "sequences are out of order"
        }
        return pool.inconsistency(tables: running.map(\.pages))
    }
}

extension Scheduler {
    private mutating func planDecoding(_ plan: inout StepPlan, _ budget: inout Int) {
        var decoding = running.count { $0.remaining == 1 }
        var index = 0
        while index < running.count, budget > 0 {
            let sequence = running[index]
            index += 1
            guard sequence.remaining == 1 else { continue }
            decoding -= 1
            var drafts = min(sequence.drafts.count, max(budget - 1 - decoding, 0))
            if missingPages(sequence, tokens: 1 + drafts) > pool.availableCount { drafts = 0 }
            while missingPages(sequence, tokens: 1) > pool.availableCount, sequence.state == .running {
                let victim = running[running.count - 1]
                if victim.remaining == 1, victim !== sequence { decoding -= 1 }
                preempt(victim)
                plan.preempted.append(victim)
            }
            guard sequence.state == .running else { return }
            takePages(sequence, tokens: 1 + drafts, &plan)
            plan.entries.append(.init(sequence: sequence, start: sequence.computed, count: 1, drafts: drafts))
            budget -= 1 + drafts
        }
    }

    private func planPrompt(_ sequence: ScheduledSequence, _ plan: inout StepPlan, _ budget: inout Int) {
        var count = min(sequence.remaining, budget)
        if count == sequence.remaining, count > 1, plan.tokens + count > limits.exactTokens { count -= 1 }
        plan.entries.append(.init(sequence: sequence, start: sequence.computed, count: count, drafts: 0))
        budget -= count
    }

    /// Lets sequences that wait begin, first come first, while there are places, pages and tokens in the budget.
    private mutating func admit(_ plan: inout StepPlan, _ budget: inout Int) {
        while budget > 0, let sequence = waiting.first, slots + 1 + sequence.forks <= limits.maxSequences {
            let count = sequence.tokens.count
            let reads = sequence.prefixUse == .readWrite
            // The last token is computed in any case: its logits are wanted.
            let found =
                reads ? pool.find(sequence.tokens, limit: (count - 1) / limits.pageSize) : (pages: [], end: 0)
            let needed = pool.pages(for: count) - found.pages.count
            let available = pool.availableCount - found.pages.count { pool.holderCount($0) == 0 }
            guard needed + pagesSoonNeeded <= available || (running.isEmpty && needed <= available) else { return }
            if reads {
                counts.prefixQueries += count
                counts.prefixHits += found.pages.count * limits.pageSize
            }
            for page in found.pages { pool.retain(page) }
            sequence.pages = found.pages
            sequence.computed = found.pages.count * limits.pageSize
            (sequence.registered, sequence.chain, sequence.found) = (found.pages.count, found.end, sequence.computed)
            for _ in 0..<needed { sequence.pages.append(takePage()) }
            waiting.removeFirst()
            sequence.state = .running
            slots += 1 + sequence.forks
            Self.insert(sequence, into: &running)
            plan.admitted.append(sequence)
            planPrompt(sequence, &plan, &budget)
        }
    }

    /// Pages that running sequences will take within a few steps: who begins now must not lose its own to them at once.
    var pagesSoonNeeded: Int {
        running.count { $0.pages.count * limits.pageSize - $0.tokens.count < min(limits.pageSize, 16) }
    }

    private mutating func preempt(_ sequence: ScheduledSequence) {
        Self.remove(sequence, from: &running)
        slots -= 1 + sequence.forks
        releasePages(sequence)
        (sequence.computed, sequence.registered, sequence.chain) = (0, 0, 0)
        sequence.drafts = []
        sequence.state = .waiting
        counts.preemptions += 1
        Self.insert(sequence, into: &waiting)
    }

    /// Last page first, as the pool wants it.
    private mutating func releasePages(_ sequence: ScheduledSequence) {
        for page in sequence.pages.reversed() { pool.release(page) }
        sequence.pages = []
    }

    /// Whether the next token falls into a page that others hold too.
    func writesToSharedPage(_ sequence: ScheduledSequence) -> Bool {
        sequence.computed % limits.pageSize != 0
            && pool.holderCount(sequence.pages[sequence.computed / limits.pageSize]) > 1
    }

    private func missingPages(_ sequence: ScheduledSequence, tokens: Int) -> Int {
        max(pool.pages(for: sequence.computed + tokens) - sequence.pages.count, 0)
            + (writesToSharedPage(sequence) ? 1 : 0)
    }

    private mutating func takePages(_ sequence: ScheduledSequence, tokens: Int, _ plan: inout StepPlan) {
        if writesToSharedPage(sequence) {
            let index = sequence.computed / limits.pageSize
            let own = takePage()
            plan.copies.append((from: sequence.pages[index], to: own))
            pool.release(sequence.pages[index])
            sequence.pages[index] = own
        }
        while sequence.pages.count < pool.pages(for: sequence.computed + tokens) { sequence.pages.append(takePage()) }
    }

    mutating func takePage() -> Int32 {
        guard let page = pool.take() else { preconditionFailure("pages were counted before they were taken") }
        return page
    }

    private static func insert(_ sequence: ScheduledSequence, into list: inout [ScheduledSequence]) {
        var (low, high) = (0, list.count)
        while low < high {
            let middle = (low + high) / 2
            if list[middle].order <= sequence.order { low = middle + 1 } else { high = middle }
        }
        list.insert(sequence, at: low)
    }

    private static func remove(_ sequence: ScheduledSequence, from list: inout [ScheduledSequence]) {
        guard let index = list.firstIndex(where: { $0 === sequence }) else {
            preconditionFailure("a sequence is not where its state says")
        }
        list.remove(at: index)
    }
}
