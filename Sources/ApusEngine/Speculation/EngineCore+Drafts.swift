/// Drafting before a step.
extension EngineCore {
    /// Gives decoding sequences the drafts that pay.
    func planDrafts() {
        switch configuration.speculation {
        case .none: return
        case .promptLookup: planLookups()
        case .draftModel: planModelDrafts()
        }
    }

    /// The decoding sequences that have room for more than one token, and the number of all that decode.
    private func decoding() -> (samples: [SampleRun], all: Int) {
        var result: [SampleRun] = []
        var all = 0
        for sequence in scheduler.running where sequence.remaining == 1 {
            all += 1
            guard let sample = samples[ObjectIdentifier(sequence)] else { continue }
            sample.drafts = []
            // Nothing is known yet of what a sequence will be that has not drawn its first token.
            if sample.left > 1, sample.firstToken != nil, sequence.forks == 0 { result.append(sample) }
        }
        return (result, all)
    }

    private func draftCounts(
        _ candidates: [DraftPlanner.Candidate], base: Int, depthSeconds: Double = 0
    ) -> [Int] {
        guard configuration.adaptsDrafts else { return candidates.map(\.limit) }
        return draftPlanner.counts(candidates, base: base, depthSeconds: depthSeconds)
    }

    private func planLookups() {
        let (decoding, all) = decoding()
        var matches: [(sample: SampleRun, match: NGramIndex.Match)] = []
        for sample in decoding {
            let limit = min(configuration.maxDrafts, sample.left - 1)
            guard let match = sample.drafting.index.match(sample.sequence.tokens, limit: limit) else { continue }
            matches.append((sample, match))
        }
        let counts = draftCounts(
            matches.map { sample, match in
                .init(acceptance: sample.drafting.lookups[match.size].probability, limit: match.tokens.count)
            }, base: all)
        for ((sample, match), count) in zip(matches, counts) {
            sample.drafting.lookup = match.size
            if count == 0 { sample.drafting.lookups[match.size].rest() }
            sample.drafts = match.tokens.prefix(count).map { DraftToken(token: $0, distribution: nil) }
            sample.sequence.drafts = sample.drafts.map(\.token)
        }
    }

    private func planModelDrafts() {
        guard let draftModel else { return }
        let (decoding, all) = decoding()
        let counts = draftCounts(
            decoding.map {
                .init(acceptance: $0.drafting.model.probability, limit: min(configuration.maxDrafts, $0.left - 1))
            }, base: all, depthSeconds: draftModel.depthSeconds)
        let drafts = draftModel.draft(Array(zip(decoding, counts)).map { (sample: $0, count: $1) })
        for (sample, tokens) in zip(decoding, drafts) {
            if tokens.isEmpty { sample.drafting.model.rest() }
            sample.drafts = tokens
            sample.sequence.drafts = tokens.map(\.token)
        }
    }
}
