import ApusEngine

extension GenerationStream {
    /// Reads a request's outputs to their end. Log-probabilities are NaN where the request did not ask for them.
    /// - Parameters:
    ///   - count: samples that the request asked for.
    ///   - prompt: the prompt's place, for messages.
    /// - Throws: ``PolicySamplingError`` that names the prompt.
    func rollouts(_ count: Int, prompt: Int) async throws -> [Rollout] {
        let empty = Rollout(tokens: [], logProbabilities: [], text: "", isComplete: false)
        var outputs = [Rollout](repeating: empty, count: count)
        var finished = 0
        for await event in self {
            switch event {
            case .started, .promptLogprobs: break
            case .piece(let index, let piece):
                outputs[index].text += piece.text
                for token in piece.tokens {
                    outputs[index].tokens.append(token.token)
                    outputs[index].logProbabilities.append(Float(token.logprob ?? .nan))
                }
            case .finished(let index, let reason, _):
                outputs[index].isComplete = reason == .stop
                finished += 1
            case .failed(let error): throw PolicySamplingError.failed(prompt: prompt, problem: "\(error)")
            }
        }
        guard finished == count else {
            throw PolicySamplingError.failed(prompt: prompt, problem: "it was cancelled")
        }
        return outputs
    }
}
