import ApusModels

/// What becomes of sequences that run when weights are replaced.
public enum RunningSequences: Sendable {
    /// Their keys and values are computed again with the new weights before they go on.
    case recompute
    /// They go on with the keys and values they have.
    case goOn
}

extension Engine {
    /// Goes on with other weights of the same model, from the next step on: a policy's after an update. What the prefix cache
    /// held is forgotten.
    ///
    /// ``model`` keeps its tokenizer and template; its decoder is the one the engine began with.
    /// - Throws: ``EngineError/weights(_:)`` when the decoder is of another shape; `unsupported` on a GPU; `shutDown` when the engine has stopped.
    public func replaceWeights(
        by decoder: Decoder, running: RunningSequences = .recompute
    ) async throws(EngineError) {
        guard configuration.device == .cpu else {
            throw EngineError.unsupported("weights of an engine on \(configuration.device) cannot be replaced yet")
        }
        let (old, new) = (model.configuration, decoder.configuration)
        for (name, expected, found) in [
            ("layers", old.layerCount, new.layerCount), ("vocabulary", old.vocabularySize, new.vocabularySize),
            ("outputs", old.outputWidth, new.outputWidth),
            ("positions", old.maxPositions, new.maxPositions),
        ] where expected != found {
            throw EngineError.weights("\(name): expected \(expected), found \(found)")
        }
        for layer in 0..<old.layerCount {
            let (expected, found) = (try? old.geometry(layer: layer), try? new.geometry(layer: layer))
            guard expected == found else {
                throw EngineError.weights("layer \(layer) leaves something else in the cache")
            }
        }
        let isStopped = await withUnsafeContinuation { continuation in
            let refused = shared.withLock { shared in
                if shared.phase == .stopped { return true }
                let earlier = shared.replacement
                shared.replacement = WeightReplacement(decoder: decoder, running: running) { isStopped in
                    earlier?.isDone(isStopped)
                    continuation.resume(returning: isStopped)
                }
                return false
            }
            if refused { continuation.resume(returning: true) } else { shared.signal() }
        }
        if isStopped { throw EngineError.shutDown }
    }
}
