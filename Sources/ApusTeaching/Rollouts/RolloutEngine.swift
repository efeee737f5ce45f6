import ApusEngine
import ApusModels
import ApusTensor
import ApusText

/// Draws outputs from a model that is being trained, on the CPU, by an ``Engine`` that reads the weights where training keeps
/// them.
///
/// Float32 weights are shared with training, not copied (latent attention keeps a copy of its up-projections, cut into heads,
/// which ``refresh()`` makes anew; of a model on a GPU all is copied). What the cache held before a ``refresh()`` was computed
/// with the old ones.
public final class RolloutEngine: RolloutSource {
    /// Sizes of an engine for rollouts.
    public struct Sizes: Sendable, Equatable {
        /// Tokens of a prompt at most.
        public var promptTokens: Int
        /// Tokens of an output at most.
        public var outputTokens: Int
        /// Outputs that are drawn at once.
        public var sequences: Int

        /// Sizes.
        public init(promptTokens: Int, outputTokens: Int, sequences: Int) {
            self.promptTokens = promptTokens
            self.outputTokens = outputTokens
            self.sequences = sequences
        }

        /// Tokens of a prompt and its output.
        /// - Throws: ``PolicyGradientError/promptsDoNotFit(context:prompt:output:)``.
        func context(of model: TrainableDecoder) throws -> Int {
            let limit = model.configuration.maxPositions
            guard promptTokens + outputTokens <= limit else {
                throw PolicyGradientError.promptsDoNotFit(
                    context: limit, prompt: promptTokens, output: outputTokens)
            }
            return promptTokens + outputTokens
        }
    }

    /// The policy's tokenizer, template and end tokens, over the live weights.
    public let policy: LanguageModel
    /// The sizes it was made with.
    public let sizes: Sizes
    private let model: TrainableDecoder
    private let engine: Engine

    /// An engine over a model's weights.
    /// - Parameter endTokens: tokens that end an output.
    /// - Throws: ``PolicyGradientError/promptsDoNotFit(context:prompt:output:)``; errors of the engine.
    public init(
        _ model: TrainableDecoder, tokenizer: Tokenizer, chatTemplate: ChatTemplate?, endTokens: Set<Int32>,
        sizes: Sizes
    ) throws {
        let context = try sizes.context(of: model)
        self.model = model
        self.sizes = sizes
        policy = LanguageModel(
            decoder: try Self.decoder(model), tokenizer: tokenizer, chatTemplate: chatTemplate,
            samplingDefaults: SamplingParameters(), endTokens: endTokens)
        var configuration = EngineConfiguration()
        configuration.context = context
        configuration.maxSequences = sizes.sequences
        configuration.stepTokens = max(1024, sizes.sequences)
        // Nobody waits for a token here: prompts fill the step.
        configuration.promptTokensBesideDecoding = configuration.stepTokens
        let pages = (context + configuration.pageSize - 1) / configuration.pageSize
        configuration.cacheTokens = max(context, sizes.sequences * pages * configuration.pageSize)
        configuration.maxQueuedRequests = .max
        configuration.maxQueuedTokens = .max
        configuration.isBatchInvariant = true
        engine = try Engine(policy, configuration)
    }

    deinit { engine.shutdown() }

    private static func decoder(_ model: TrainableDecoder) throws -> Decoder {
        // A model on a GPU is copied, and draws on the CPU.
        let cpu = model.operations.backend as? CPUBackend
        return try Decoder(
            checkpoint: MemoryCheckpoint(model), backend: cpu ?? .shared, usesWeightsInPlace: cpu != nil)
    }

    /// Goes on with the weights as they are now.
    public func refresh() async throws {
        try await engine.replaceWeights(by: try Self.decoder(model))
    }

    /// Draws the outputs of all requests in one continuous batch.
    /// - Returns: the outputs of each request, in order.
    /// - Throws: ``PolicySamplingError`` that names the prompt.
    public func draw(_ requests: [RolloutRequest]) async throws -> [[Rollout]] {
        var streams: [GenerationStream] = []
        // A request runs as a whole: one for more outputs than run at once is cut.
        let parts = requests.map(cut)
        for request in parts.joined() {
            var sampling = SamplingParameters()
            sampling.temperature = 1
            sampling.maxTokens = sizes.outputTokens
            sampling.seed = request.seed
            sampling.logprobs = 0
            do {
                streams.append(
                    try engine.submit(
                        GenerationRequest(
                            id: "prompt \(request.prompt)", prompt: request.tokens, sampling: sampling,
                            samples: request.samples)))
            } catch {
                throw PolicySamplingError.failed(prompt: request.prompt, problem: "\(error)")
            }
        }
        var results: [[Rollout]] = []
        var next = streams.makeIterator()
        for parts in parts {
            var outputs: [Rollout] = []
            for part in parts {
                guard let stream = next.next() else { break }
                outputs += try await stream.rollouts(part.samples, prompt: part.prompt)
            }
            results.append(outputs)
        }
        return results
    }

    /// Log-probabilities of outputs under the weights as they are, by the kernels that draw: for what ``draw(_:)`` gave, and
    /// weights that have not changed since, the same numbers to the last bit.
    /// - Parameter outputs: each with its prompt's place, for messages.
    /// - Throws: ``PolicySamplingError`` that names the prompt.
    public func logProbabilities(
        of outputs: [(prompt: Int, tokens: [Int32], output: [Int32])]
    ) async throws -> [[Float]] {
        var sampling = SamplingParameters()
        sampling.maxTokens = 0
        var streams: [GenerationStream] = []
        for output in outputs {
            do {
                streams.append(
                    try engine.submit(
                        GenerationRequest(
                            id: "prompt \(output.prompt)", prompt: output.tokens + output.output, sampling: sampling,
                            promptLogprobs: 0)))
            } catch {
                throw PolicySamplingError.failed(prompt: output.prompt, problem: "\(error)")
            }
        }
        var results: [[Float]] = []
        for (output, stream) in zip(outputs, streams) {
            var found: [Float] = []
            for await event in stream {
                switch event {
                case .promptLogprobs(let tokens):
                    found = tokens.suffix(output.output.count).map { Float($0.logprob ?? .nan) }
                case .failed(let error):
                    throw PolicySamplingError.failed(prompt: output.prompt, problem: "\(error)")
                case .started, .piece, .finished: break
                }
            }
            guard found.count == output.output.count else {
                throw PolicySamplingError.failed(prompt: output.prompt, problem: "it was cancelled")
            }
            results.append(found)
        }
        return results
    }

    private func cut(_ request: RolloutRequest) -> [RolloutRequest] {
        stride(from: 0, to: request.samples, by: sizes.sequences).map { first in
            var part = request
            part.samples = min(sizes.sequences, request.samples - first)
            part.seed &+= UInt64(first)
            return part
        }
    }
}
