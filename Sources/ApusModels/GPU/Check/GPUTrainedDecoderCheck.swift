import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Holds a decoder that takes its weights from a model in training against others: part of `apus check decoder`.
///
/// Weights are changed, taken, and written as a checkpoint: a decoder of the checkpoint must choose the same tokens with the
/// same log-probabilities, bit for bit. Those of drawn tokens are held against the training form's in bf16, and how often
/// tokens are drawn against their probabilities.
public struct GPUTrainedDecoderCheck {
    /// How a model did.
    public struct Outcome: Sendable {
        /// Its shape.
        public let name: String
        /// Tokens whose log-probabilities were compared with the training form's.
        public var tokens = 0
        /// Absolute differences of these: the mean, and what 99 of 100 stay below.
        public var meanDifference = 0.0, differenceOf99 = 0.0
        /// Draws that were counted, Pearson's statistic of their counts, and its degrees of freedom.
        public var draws = 0, chiSquare = 0.0, degrees = 0
        /// What was wrong; empty where nothing was.
        public var failures: [String] = []
    }

    /// The largest mean difference of log-probabilities: both sides round activations to bf16, at different places.
    public static let tolerance = 3e-2
    private static let sequences = 40
    private static let steps = 32
    private static let rounds = 100

    private let device: CUDADevice
    private let seed: UInt64
    private let folder: String

    /// A check whose weights and prompts depend on the seed.
    /// - Parameter folder: an empty folder, for a checkpoint.
    public init(device: CUDADevice, seed: UInt64, folder: String) {
        self.device = device
        self.seed = seed
        self.folder = folder
    }

    /// The shapes of ``GPUDecoderCheck`` that can be trained, and the families with norms of queries and keys and with biases.
    public static let shapes: [(name: String, configuration: DecoderConfiguration)] =
        GPUDecoderCheck.plain.filter { TrainableDecoder.trains($0.configuration) }.map { ($0.name, $0.configuration) }
        + [
            (
                "norms of queries and keys",
                GPUDecoderCheck.model(4, 2, 128, width: 256, inner: 520, vocabulary: 777) {
                    ($0.architecture, $0.queryKeyNorm) = (.qwen3, true)
                }
            ),
            (
                "biases",
                GPUDecoderCheck.model(4, 2, 64, width: 256, inner: 520, vocabulary: 777) {
                    ($0.architecture, $0.attentionBias, $0.tiesEmbeddings) = (.qwen2, true, true)
                }
            ),
        ]

    /// Checks a shape with random weights.
    public func run(_ name: String, _ configuration: DecoderConfiguration) throws -> Outcome {
        var outcome = Outcome(name: name)
        let operations = DifferentiableOperations(on: try CUDABackend(ordinal: device.ordinal), compute: .bf16)
        let model = try TrainableDecoder(initializing: configuration, seed: seed, on: operations)
        let limits = GPUDecoder.Limits(sequences: Self.sequences, tokens: 128, pages: 2 * Self.sequences)
        let decoder = try GPUDecoder(training: model, limits: limits)
        // Other weights than those it began with, which bf16 does not represent.
        let other = try MemoryCheckpoint(random: configuration, seed: seed &+ 1, name: name)
        for (name, parameter) in model.parameters() {
            let value = try other.tensor(named: name).float32()
            parameter.assign(Tensor(value.floats.map { $0 * 1.003 }, shape: value.shape), on: operations.backend)
        }
        try decoder.takeWeights(of: model)
        // Some of these models have no place in a file: windows of each layer's own, for instance.
        let isWritable =
            configuration.windows.allSatisfy { $0 == nil }
            && (try? configuration.requireHuggingFaceForm(in: name)) != nil
        if isWritable { try model.writeHuggingFaceFiles(to: folder) }
        let loaded = try GPUDecoder(
            checkpoint: isWritable ? Checkpoints.open(folder) : MemoryCheckpoint(model), limits: limits, device: device)

        var random = SplitMix(state: seed)
        let vocabulary = UInt64(configuration.vocabularySize)
        let prompts = (0..<Self.sequences).map { _ in
            (0..<3 + random.next() % 60).map { _ in Int32(random.next() % vocabulary) }
        }
        let likeliest = try generate(decoder, prompts, temperature: 0)
        let expected = try generate(loaded, prompts, temperature: 0)
        for (index, (a, b)) in zip(likeliest, expected).enumerated()
        where a.tokens != b.tokens || a.logProbabilities != b.logProbabilities {
            outcome.failures.append(
                "sequence \(index): \(a.tokens.prefix(8)) ..., of the checkpoint \(b.tokens.prefix(8)) ...")
        }
        try compare(try generate(decoder, prompts, temperature: 1), prompts, model, &outcome)
        try count(decoder, prompts[0], &outcome)
        return outcome
    }

    private func generate(
        _ decoder: GPUDecoder, _ prompts: [[Int32]], temperature: Float
    ) throws -> [(tokens: [Int32], logProbabilities: [Float])] {
        try decoder.start(rows(prompts, temperature: temperature, seed: seed), logProbabilities: true)
        try decoder.advance(steps: Self.steps - 1, logProbabilities: true)
        return try decoder.chosen(prompts.map { $0.count..<$0.count + Self.steps })
    }

    private func rows(_ prompts: [[Int32]], temperature: Float, seed: UInt64) -> [GPUDecoder.Row] {
        prompts.enumerated().map { index, prompt in
            GPUDecoder.Row(
                tokens: prompt, pages: [Int32(2 * index + 1), Int32(2 * index)],
                choice: GPUDecoder.Choice(temperature: temperature, seed: seed &+ UInt64(index)))
        }
    }

    /// Log-probabilities of drawn tokens by the decoder and by the training form.
    private func compare(
        _ drawn: [(tokens: [Int32], logProbabilities: [Float])], _ prompts: [[Int32]], _ model: TrainableDecoder,
        _ outcome: inout Outcome
    ) throws {
        var (tokens, starts, rows) = ([Int32](), [0], [Int]())
        for (prompt, output) in zip(prompts, drawn) {
            let first = tokens.count + prompt.count - 1
            rows += first..<first + output.tokens.count
            tokens += prompt + output.tokens.dropLast()
            starts.append(tokens.count)
        }
        let trained = withoutGradients {
            let hidden = model.operations.rows(model.hidden(tokens, model.batch(starts: starts)), rows)
            return model.loss(ofHidden: hidden, targets: drawn.flatMap(\.tokens)).logProbabilities.floats
        }
        try model.operations.backend.check()
        let differences = zip(drawn.flatMap(\.logProbabilities), trained).map { abs(Double($0) - Double($1)) }.sorted()
        outcome.tokens = differences.count
        outcome.meanDifference = differences.reduce(0, +) / Double(differences.count)
        outcome.differenceOf99 = differences[(differences.count - 1) * 99 / 100]
        if !(outcome.meanDifference <= Self.tolerance) {
            outcome.failures.append("log-probabilities differ by \(outcome.meanDifference) from the training form's")
        }
    }

    /// Many draws of the token after one prompt: counts of groups of tokens against what their probabilities let expect.
    private func count(_ decoder: GPUDecoder, _ prompt: [Int32], _ outcome: inout Outcome) throws {
        let prompts = [[Int32]](repeating: prompt, count: Self.sequences)
        var counts = [Int](repeating: 0, count: decoder.configuration.vocabularySize)
        for round in 0..<Self.rounds {
            let first = seed &+ UInt64(1000 + round * Self.sequences)
            try decoder.start(rows(prompts, temperature: 1, seed: first), logits: true)
            for token in try decoder.tokens() { counts[Int(token)] += 1 }
        }
        let logits = try decoder.logits().prefix(counts.count)
        let largest = Double(logits.max() ?? 0)
        let weights = logits.map { exp(Double($0) - largest) }
        let draws = Double(Self.rounds * Self.sequences)
        let factor = draws / weights.reduce(0, +)
        var (found, wanted, last) = (0.0, 0.0, draws)
        for token in counts.indices.sorted(by: { weights[$0] > weights[$1] }) {
            found += Double(counts[token])
            wanted += weights[token] * factor
            last -= weights[token] * factor
            // Enough for a count to be nearly normal, and as much left for another group.
            guard wanted >= 30, last >= 30 else { continue }
            outcome.chiSquare += (found - wanted) * (found - wanted) / wanted
            outcome.degrees += 1
            (found, wanted) = (0, 0)
        }
        // The rest; a group's count follows from those of the others.
        if wanted > 0 { outcome.chiSquare += (found - wanted) * (found - wanted) / wanted }
        outcome.draws = Int(draws)
        // Six deviations.
        if outcome.chiSquare > Double(outcome.degrees) + 6 * (2 * Double(max(outcome.degrees, 1))).squareRoot() {
            outcome.failures.append("draws do not follow the probabilities: chi-square \(outcome.chiSquare)")
        }
    }
}
