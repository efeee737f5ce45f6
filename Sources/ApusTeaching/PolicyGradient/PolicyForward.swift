import ApusModels
import ApusTensor

/// Outputs behind their prompts as one packed batch: the forward pass that losses and log-probabilities are made from.
struct PolicyForward {
    let tokens: [Int32]
    let starts: [Int]
    /// Rows whose next token is an output's.
    let rows: [Int]
    /// Those tokens.
    let targets: [Int32]

    init(_ outputs: [(prompt: [Int32], tokens: [Int32])]) {
        var (tokens, starts, rows, targets) = ([Int32](), [0], [Int](), [Int32]())
        for output in outputs {
            let first = tokens.count + output.prompt.count - 1
            tokens += output.prompt
            tokens += output.tokens.dropLast()
            rows += first..<first + output.tokens.count
            targets += output.tokens
            starts.append(tokens.count)
        }
        (self.tokens, self.starts, self.rows, self.targets) = (tokens, starts, rows, targets)
    }

    /// Hidden states at the rows, recorded: [rows, width].
    func hidden(_ model: TrainableDecoder) -> Tensor {
        model.operations.rows(model.hidden(tokens, model.batch(starts: starts)), rows)
    }

    /// Parts of at most so many tokens, each with at least one output.
    static func parts<Output>(_ outputs: [Output], tokens limit: Int, _ count: (Output) -> Int) -> [[Output]] {
        var (parts, sum) = ([[Output]](), 0)
        for output in outputs {
            let tokens = count(output)
            if parts.isEmpty || sum + tokens > limit {
                parts.append([])
                sum = 0
            }
            parts[parts.count - 1].append(output)
            sum += tokens
        }
        return parts
    }

    /// Log-probabilities of each output's tokens under a model, and the values of a head, without gradients.
    static func figures(
        _ model: TrainableDecoder, _ outputs: [(prompt: [Int32], tokens: [Int32])], microBatchTokens: Int,
        values head: ValueHead? = nil
    ) -> [(logProbabilities: [Float], values: [Float])] {
        withoutGradients {
            parts(outputs, tokens: microBatchTokens) { $0.prompt.count + $0.tokens.count }.flatMap { part in
                let forward = PolicyForward(part)
                let hidden = forward.hidden(model)
                let all = model.loss(ofHidden: hidden, targets: forward.targets).logProbabilities.floats
                let values = head?(hidden, on: model.operations).floats ?? []
                var first = 0
                return part.map { output in
                    let range = first..<first + output.tokens.count
                    first = range.upperBound
                    return (Array(all[range]), values.isEmpty ? [] : Array(values[range]))
                }
            }
        }
    }
}
