import ApusModels
import ApusSynchronization
import ApusTensor
import ApusText

/// Draws outputs from a model that is being trained on a GPU, on that GPU.
///
/// A decoder takes the weights from where training keeps them, rounded to bf16 as training rounds them for its products; tokens
/// are chosen and rated on the GPU, and come to the host a few steps at a time. Those that have ended leave the batch as soon
/// as a smaller one runs faster.
///
/// Products of other numbers of rows sum in another order, so what an output is depends on the weights, on its seed and, in the
/// last bits, on what it is drawn together with; the same requests on the same weights give the same outputs.
public final class GPURolloutEngine: RolloutSource {
    /// The sizes it was made with.
    public let sizes: RolloutEngine.Sizes
    private let model: TrainableDecoder
    private let decoder: GPUDecoder
    private let tokenizer: Tokenizer
    private let endTokens: Set<Int32>
    private let pagesPerSequence: Int

    /// Steps between two looks at what has ended.
    private static let steps = 16

    /// An engine over a model's weights.
    /// - Parameter endTokens: tokens that end an output.
    /// - Throws: ``PolicyGradientError/promptsDoNotFit(context:prompt:output:)``; `GPUDecoderError` where the kernels do not
    ///   serve the model; `CUDAError`.
    public init(
        _ model: TrainableDecoder, tokenizer: Tokenizer, endTokens: Set<Int32>, sizes: RolloutEngine.Sizes
    ) throws {
        let context = try sizes.context(of: model)
        self.model = model
        self.sizes = sizes
        self.tokenizer = tokenizer
        self.endTokens = endTokens
        pagesPerSequence = (context + GPUDecoder.pageSize - 1) / GPUDecoder.pageSize
        decoder = try GPUDecoder(
            training: model,
            limits: GPUDecoder.Limits(
                sequences: sizes.sequences, tokens: context, pages: sizes.sequences * pagesPerSequence))
    }

    /// See ``RolloutSource/refresh()``.
    public func refresh() throws { try decoder.takeWeights(of: model) }

    /// See ``RolloutSource/draw(_:)``.
    public func draw(_ requests: [RolloutRequest]) throws -> [[Rollout]] {
        var drawn = requests.flatMap { request in
            (0..<request.samples).map {
                Drawn(prompt: request.prompt, tokens: request.tokens, seed: request.seed &+ UInt64($0))
            }
        }
        for first in stride(from: 0, to: drawn.count, by: sizes.sequences) {
            try run(&drawn[first..<min(first + sizes.sequences, drawn.count)])
        }
        let texts = texts(drawn)
        var next = zip(drawn, texts).makeIterator()
        return requests.map { request in
            (0..<request.samples).compactMap { _ in
                next.next().map { output, text in
                    Rollout(
                        tokens: output.output, logProbabilities: output.logProbabilities, text: text,
                        isComplete: output.isComplete)
                }
            }
        }
    }

    /// An output on its way.
    private struct Drawn: Sendable {
        let prompt: Int
        let tokens: [Int32]
        let seed: UInt64
        var output: [Int32] = []
        var logProbabilities: [Float] = []
        var isComplete = false
    }

    /// Draws outputs that all begin together.
    private func run(_ drawn: inout ArraySlice<Drawn>) throws {
        var batch = Array(drawn.indices)
        try decoder.start(batch.map { row(drawn[$0], page: $0 - drawn.startIndex) }, logProbabilities: true)
        var (chosen, left) = (1, sizes.outputTokens - 1)
        while true {
            let steps = min(Self.steps, left)
            if steps > 0 { try decoder.advance(steps: steps, logProbabilities: true) }
            chosen += steps
            left -= steps
            let found = try decoder.chosen(
                batch.map { index in
                    let length = drawn[index].tokens.count
                    return length + (sizes.outputTokens - left - chosen)..<length + sizes.outputTokens - left
                })
            for (index, found) in zip(batch, found) where !drawn[index].isComplete {
                try take(found.tokens, found.logProbabilities, into: &drawn[index])
            }
            chosen = 0
            let going = batch.filter { !drawn[$0].isComplete }
            if left == 0 || going.isEmpty { return }
            if GPUDecoder.bucket(going.count) < GPUDecoder.bucket(batch.count) {
                batch = going
                try decoder.load(batch.map { row(drawn[$0], page: $0 - drawn.startIndex) })
            }
        }
    }

    /// An output's row: its prompt, or its last token behind what its pages hold.
    private func row(_ output: Drawn, page: Int) -> GPUDecoder.Row {
        let first = Int32(page * pagesPerSequence)
        return GPUDecoder.Row(
            tokens: output.output.last.map { [$0] } ?? output.tokens,
            cached: output.output.isEmpty ? 0 : output.tokens.count + output.output.count - 1,
            pages: Array(first..<first + Int32(pagesPerSequence)),
            choice: GPUDecoder.Choice(temperature: 1, seed: output.seed))
    }

    private func take(_ tokens: [Int32], _ logProbabilities: [Float], into output: inout Drawn) throws {
        for (token, value) in zip(tokens, logProbabilities) {
            guard value.isFinite else {
                throw PolicySamplingError.failed(
                    prompt: output.prompt,
                    problem: "the log-probability of token \(output.output.count) of an output is \(value)")
            }
            output.output.append(token)
            output.logProbabilities.append(value)
            if endTokens.contains(token) {
                output.isComplete = true
                return
            }
        }
    }

    /// The texts of outputs, without the token that ended them.
    private func texts(_ drawn: [Drawn]) -> [String] {
        let texts = Locked([String](repeating: "", count: drawn.count))
        CPUBackend.shared.concurrently(drawn.count) { [tokenizer] index in
            let output = drawn[index]
            var stream = tokenizer.streamingDetokenizer(skipSpecialTokens: true)
            var text = ""
            for token in output.isComplete ? output.output.dropLast() : output.output[...] {
                text += stream.append(token)
            }
            text += stream.finish()
            texts.withLock { $0[index] = text }
        }
        return texts.withLock { $0 }
    }

    /// Throws: prompts run through other kernels than drawn tokens.
    public func logProbabilities(
        of outputs: [(prompt: Int, tokens: [Int32], output: [Int32])]
    ) throws -> [[Float]] {
        throw PolicyGradientError.engineLogProbabilities
    }
}
