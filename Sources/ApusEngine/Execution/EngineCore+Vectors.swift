import ApusTensor

/// Vectors made of hidden states: embeddings and scores.
extension EngineCore {
    /// Takes what a step computed of a prompt whose vector is wanted.
    /// - Parameter rows: the entry's among the step's.
    func pool(_ entry: StepPlan.Entry, _ rows: Range<Int>) throws {
        guard let job = jobs[entry.sequence.tag], case .vector(let kind, _) = job.output else { return }
        let last = rows.upperBound - 1
        switch kind {
        case .embedding(.mean):
            let states = try executor.normalizedStates(rows)
            // A prompt that lost its pages begins again.
            if entry.start == 0 { job.vector = Array(repeating: 0, count: states.shape[1]) }
            states.withElements(of: Float.self) { elements in
                for index in elements.indices { job.vector[index % states.shape[1]] += elements[index] }
            }
        case .embedding(.last):
            if entry.reachesEnd { job.vector = try executor.normalizedStates(last..<last + 1).floats }
        case .scores: if entry.reachesEnd { job.vector = try executor.logits(rows: [last]).floats }
        }
        scheduler.advance(entry.sequence, to: entry.start + entry.count)
        guard entry.reachesEnd else { return }
        if case .embedding(.mean) = kind {
            let scale = 1 / Float(job.request.prompt.count)
            for index in job.vector.indices { job.vector[index] *= scale }
        }
        guard job.vector.allSatisfy(\.isFinite) else {
            scheduler.forget(entry.sequence)
            return fail(job, .notFinite(sample: 0, position: 0))
        }
        complete(job)
    }
}
