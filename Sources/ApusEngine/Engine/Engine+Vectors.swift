import ApusModels
import ApusSynchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// How a text's hidden states become one vector.
public enum EmbeddingPooling: String, Sendable, CaseIterable {
    /// Their mean over all tokens.
    case mean
    /// The last token's.
    case last
}

extension Engine {
    /// Embeddings of texts: hidden states after the final norm, pooled.
    /// - Parameters:
    ///   - prompts: the tokens of each text.
    ///   - normalizes: whether each vector is divided by its length.
    /// - Returns: a vector of the model's hidden width for each text.
    /// - Throws: ``EngineError``, as ``submit(_:)`` does; all texts must fit the queue.
    public func embeddings(
        of prompts: [[Int32]], pooling: EmbeddingPooling = .mean, normalizes: Bool = true, priority: Int = 0,
        deadline: ContinuousClock.Instant? = nil
    ) async throws(EngineError) -> [[Float]] {
        let vectors = try await self.vectors(of: prompts, .embedding(pooling), priority, deadline)
        guard normalizes else { return vectors }
        return vectors.map { vector in
            let length = sqrt(vector.reduce(0.0) { $0 + Double($1) * Double($1) })
            return length > 0 ? vector.map { Float(Double($0) / length) } : vector
        }
    }

    /// Scores of texts by the model's score head, as a reward model gives them: one number per label, read at the last token.
    /// - Throws: ``EngineError``; `unsupported` when the model has no score head.
    public func scores(
        of prompts: [[Int32]], priority: Int = 0, deadline: ContinuousClock.Instant? = nil
    ) async throws(EngineError) -> [[Float]] {
        guard case .score = model.configuration.head else {
            throw EngineError.unsupported("the model has a language-model head: it gives no scores")
        }
        return try await vectors(of: prompts, .scores, priority, deadline)
    }

    /// Submits all, then waits for all; the first failure ends the others.
    private func vectors(
        of prompts: [[Int32]], _ kind: Job.VectorKind, _ priority: Int, _ deadline: ContinuousClock.Instant?
    ) async throws(EngineError) -> [[Float]] {
        for prompt in prompts { try EngineSizes.check(prompt, context: context, model.configuration, generates: false) }
        let collector = VectorCollector(count: prompts.count)
        var numbers: [Int] = []
        do {
            for (index, prompt) in prompts.enumerated() {
                let request = GenerationRequest(prompt: prompt, priority: priority, deadline: deadline)
                let number = nextNumber()
                try enter(request, number, .vector(kind) { collector.put($0, at: index) })
                numbers.append(number)
            }
        } catch {
            for number in numbers { Self.cancel(number, shared) }
            throw error
        }
        let result = await withTaskCancellationHandler {
            await collector.all()
        } onCancel: { [numbers, shared] in
            for number in numbers { Self.cancel(number, shared) }
        }
        if case .failure = result { for number in numbers { Self.cancel(number, shared) } }
        return try result.get()
    }
}

/// Gathers vectors that come in any order.
private final class VectorCollector: Sendable {
    private struct State {
        var vectors: [[Float]?]
        var missing: Int
        var error: EngineError?
        var reader: UnsafeContinuation<Void, Never>?

        var isDone: Bool { missing == 0 || error != nil }
    }

    private let state: Monitor<State>

    init(count: Int) { state = Monitor(State(vectors: Array(repeating: nil, count: count), missing: count)) }

    func put(_ result: Result<[Float], EngineError>, at index: Int) {
        let reader = state.withLock { state -> UnsafeContinuation<Void, Never>? in
            switch result {
            case .success(let vector):
                state.vectors[index] = vector
                state.missing -= 1
            case .failure(let error): if state.error == nil { state.error = error }
            }
            guard state.isDone else { return nil }
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume()
    }

    func all() async -> Result<[[Float]], EngineError> {
        await withUnsafeContinuation { continuation in
            let isDone = state.withLock { state in
                if !state.isDone { state.reader = continuation }
                return state.isDone
            }
            if isDone { continuation.resume() }
        }
        return state.withLock { state in
            if let error = state.error { return .failure(error) }
            return .success(state.vectors.compactMap { $0 })
        }
    }
}
