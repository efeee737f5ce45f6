/// Many steps at once, for simulations: between arrivals and endings, decoding goes on for thousands of steps in which the
/// plan is the same.
extension Scheduler {
    /// How many of the next steps, at most `limit`, are plain: each computes one token of every running sequence and one is
    /// drawn from each, nobody begins, and nobody loses pages. The caller adds and ends no sequence meanwhile.
    ///
    /// May be less than there are, never more. Sequences that use the prefix cache have none: what others compute may change
    /// what they find. Cost: a few passes over the running sequences.
    package func plainSteps(limit: Int) -> Int {
        guard limit > 0, !running.isEmpty, running.count <= limits.stepTokens else { return 0 }
        for sequence in running {
            guard sequence.remaining == 1, sequence.drafts.isEmpty, sequence.forks == 0, sequence.prefixUse == .none,
                !writesToSharedPage(sequence)
            else { return 0 }
        }
        // Who cannot begin now cannot within the span: pages that can be had, less those soon needed, only become fewer, as
        // taking a page makes both one less at most.
        if let first = waiting.first, slots + 1 + first.forks <= limits.maxSequences {
            guard first.prefixUse == .none,
                pool.pages(for: first.tokens.count) + pagesSoonNeeded > pool.availableCount
            else { return 0 }
        }
        guard missingPages(afterSteps: limit) > pool.availableCount else { return limit }
        var (possible, impossible) = (0, limit)
        while impossible - possible > 1 {
            let middle = (possible + impossible) / 2
            if missingPages(afterSteps: middle) > pool.availableCount { impossible = middle } else { possible = middle }
        }
        return possible
    }

    /// Takes `steps` plain steps, after each of which `token` is drawn for every running sequence.
    /// Precondition: `steps` is at most ``plainSteps(limit:)``.
    package mutating func takePlainSteps(_ steps: Int, drawing token: Int32) {
        for sequence in running {
            let computed = sequence.computed + steps
            while sequence.pages.count < pool.pages(for: computed) { sequence.pages.append(takePage()) }
            sequence.tokens += repeatElement(token, count: steps)
            sequence.computed = computed
        }
    }

    private func missingPages(afterSteps steps: Int) -> Int {
        running.reduce(0) { $0 + max(pool.pages(for: $1.computed + steps) - $1.pages.count, 0) }
    }
}
