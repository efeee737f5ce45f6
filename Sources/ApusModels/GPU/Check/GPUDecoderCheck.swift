import ApusAttention
import ApusTensor

/// Holds the GPU's decoder against the CPU's in float32: `apus check decoder`.
///
/// Ragged prompts of 1 to 200 sequences in shuffled pages, then steps with given tokens: logits are compared. Steps that
/// follow each other on the GPU must choose what single steps choose.
public struct GPUDecoderCheck {
    /// How a model did.
    public struct Outcome: Sendable {
        /// The model, or its shape.
        public let name: String
        /// Sequences, and rows of logits compared.
        public var sequences: Int, rows = 0
        /// ||GPU - CPU|| / ||CPU||, the worst row's; in a model with experts, of all but those that may have visited others.
        public var worstError = 0.0
        /// What was wrong; empty where nothing was.
        public var failures: [String] = []
    }

    /// The largest relative error of a row of logits: activations are rounded to bf16 between products.
    public static let tolerance = 3e-2
    /// The share of rows that may lie beyond it in a model with experts: where two experts are nearly as likely, rounding decides
    /// which of them a row visits. Random models make that rare (``MemoryCheckpoint``).
    public static let shareOfOtherExperts = 0.1
    /// Steps after the prompts.
    private static let steps = 5

    private let device: CUDADevice
    private let seed: UInt64

    /// A check whose prompts depend on the seed.
    public init(device: CUDADevice, seed: UInt64) {
        self.device = device
        self.seed = seed
    }

    /// Checks a shape with random weights.
    public func run(_ shape: Shape) throws -> [Outcome] {
        try run(MemoryCheckpoint(random: shape.configuration, seed: seed, name: shape.name, type: shape.type))
    }

    /// Checks a model.
    public func run(_ checkpoint: any Checkpoint) throws -> [Outcome] {
        let limit = min(checkpoint.configuration.maxPositions, 2048)
        let gpu = try GPUDecoder(
            checkpoint: checkpoint, limits: .init(sequences: 200, tokens: limit, pages: 400, chunk: 700),
            device: device)
        let cpu = try Decoder(checkpoint: checkpoint, backend: CPUBackend(precision: .float32))
        var outcomes: [Outcome] = []
        for (sequences, longest) in [(1, 300), (1, 1300), (3, 200), (10, 150), (40, 100), (200, 20)] {
            let longest = min(longest, limit - 2 * Self.steps - 1)
            outcomes.append(try compare(gpu, cpu, sequences: sequences, longest: longest, checkpoint.name))
        }
        return outcomes
    }

    private func compare(
        _ gpu: GPUDecoder, _ cpu: Decoder, sequences: Int, longest: Int, _ name: String
    ) throws -> Outcome {
        var outcome = Outcome(name: name, sequences: sequences)
        var errors: [Double] = []
        var random = SplitMix(state: seed &+ UInt64(sequences * 1000 + longest))
        let vocabulary = UInt64(gpu.configuration.vocabularySize)
        func token() -> Int32 { Int32(random.next() % vocabulary) }
        // The first is as long as can be, the others anything.
        let prompts = (0..<sequences).map { index in
            (0..<(index == 0 ? longest : 1 + Int(random.next() % UInt64(longest)))).map { _ in token() }
        }
        var free = (0..<Int32(gpu.pageCount)).map { $0 }
        for index in free.indices { free.swapAt(index, Int(random.next() % UInt64(free.count))) }
        let rows = prompts.map { prompt in
            let needed = (prompt.count + 2 * Self.steps + GPUDecoder.pageSize) / GPUDecoder.pageSize
            defer { free.removeLast(needed) }
            return GPUDecoder.Row(tokens: prompt, pages: Array(free.suffix(needed)))
        }
        let cache = try cpu.makeCache(tokens: longest + Self.steps, sequences: sequences, type: .f32)
        let held = prompts.map { _ in cache.makeSequence() }

        try gpu.start(rows, logits: true)
        var expected: [[Float]] = []
        for (prompt, sequence) in zip(prompts, held) {
            expected.append(
                try cpu.forward([DecoderInput(tokens: prompt, sequence: sequence)], cache: cache).floats)
        }
        try compare(gpu, expected, "after the prompts", &outcome, &errors)
        for step in 0..<Self.steps {
            let tokens = prompts.map { _ in token() }
            try gpu.replaceTokens(tokens)
            try gpu.advance(logits: true)
            let logits = try cpu.forward(
                zip(tokens, held).map { DecoderInput(tokens: [$0], sequence: $1) }, cache: cache
            ).floats
            let width = logits.count / sequences
            expected = (0..<sequences).map { Array(logits[($0 * width)..<(($0 + 1) * width)]) }
            try compare(gpu, expected, "after step \(step)", &outcome, &errors)
        }
        judge(errors, hasExperts: gpu.configuration.experts != nil, &outcome)
        try compareRuns(gpu, rows, &outcome)
        return outcome
    }

    private func judge(_ errors: [Double], hasExperts: Bool, _ outcome: inout Outcome) {
        let sorted = errors.map { $0.isNaN ? .infinity : $0 }.sorted()
        let others = hasExperts ? Int(Self.shareOfOtherExperts * Double(errors.count)) : 0
        outcome.worstError = sorted[sorted.count - 1 - others]
        guard hasExperts, outcome.worstError > Self.tolerance else { return }
        let beyond = sorted.count { $0 > Self.tolerance }
        outcome.failures.append("logits of \(beyond) of \(sorted.count) rows differ by more than \(Self.tolerance)")
    }

    private func compare(
        _ gpu: GPUDecoder, _ expected: [[Float]], _ when: String, _ outcome: inout Outcome, _ errors: inout [Double]
    ) throws {
        let (logits, tokens) = (try gpu.logits(), try gpu.tokens())
        let width = gpu.configuration.vocabularySize
        for (index, row) in expected.enumerated() {
            let found = logits[(index * width)..<((index + 1) * width)]
            var (difference, norm) = (0.0, 0.0)
            for (a, b) in zip(found, row) {
                difference += Double(a - b) * Double(a - b)
                norm += Double(b) * Double(b)
            }
            let error = (difference / norm).squareRoot()
            outcome.rows += 1
            errors.append(error)
            if gpu.configuration.experts == nil, !(error <= Self.tolerance) {
                outcome.failures.append("sequence \(index) of \(expected.count) \(when): logits differ by \(error)")
            }
            let best = found.indices.max { found[$0] < found[$1] }.map { Int32($0 - found.startIndex) }
            if best != tokens[index] {
                outcome.failures.append(
                    "sequence \(index) \(when): token \(tokens[index]), the likeliest is \(best ?? -1)")
            }
        }
    }

    /// The prompts again: steps in one call against single ones, and draws against draws.
    private func compareRuns(_ gpu: GPUDecoder, _ rows: [GPUDecoder.Row], _ outcome: inout Outcome) throws {
        for temperature in [Float(0), 0.8] {
            let rows = rows.enumerated().map { index, row in
                var row = row
                row.choice = GPUDecoder.Choice(temperature: temperature, seed: UInt64(index) + seed)
                return row
            }
            try gpu.start(rows)
            var single = try gpu.tokens().map { [$0] }
            for _ in 0..<Self.steps {
                try gpu.advance()
                for (index, token) in try gpu.tokens().enumerated() { single[index].append(token) }
            }
            try gpu.start(rows)
            try gpu.advance(steps: Self.steps)
            for (index, row) in rows.enumerated() {
                let range = row.tokens.count..<row.tokens.count + Self.steps + 1
                let found = try gpu.history(range)[index]
                if found != single[index] {
                    outcome.failures.append(
                        "sequence \(index), temperature \(temperature): \(found) in one call, "
                            + "\(single[index]) in single steps")
                }
            }
        }
    }
}

/// Random numbers from a seed.
struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
