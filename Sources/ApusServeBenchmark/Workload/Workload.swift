import ApusText

/// The requests of a measurement.
public enum Workload: Sendable {
    /// Random tokens, nothing shared: prompt and output lengths within `spread` (a share) of the given ones.
    case random(prompt: Int, output: Int, spread: Double)
    /// Groups of prompts that begin with the same random tokens, `prefix` of them, and go on with others.
    case sharedPrefix(prefix: Int, groups: Int, prompt: Int, output: Int)
    /// A file with a JSON object a line: `prompt` (text or token ids) or `messages`, and perhaps `max_tokens`.
    case file(path: String, output: Int)

    /// Makes the requests.
    /// - Parameters:
    ///   - count: how many; nil takes all of a file, 64 otherwise.
    ///   - source: where random prompts come from.
    ///   - seed: the requests are a function of it.
    /// - Throws: ``ServeBenchmarkError``.
    public func requests(
        count: Int?, from source: PromptSource, seed: UInt64
    ) throws(ServeBenchmarkError) -> [BenchmarkRequest] {
        var random = BenchmarkRandom(seed: seed)
        switch self {
        case .random(let prompt, let output, let spread):
            try Self.check("spread", spread >= 0 && spread < 1, "a number in [0, 1)", spread)
            var result: [BenchmarkRequest] = []
            for _ in 0..<(count ?? 64) {
                let length = random.length(about: prompt, spread)
                let tokens = random.length(about: output, spread)
                result.append(source.request(source.tokens(length, &random), output: tokens))
            }
            return result
        case .sharedPrefix(let prefix, let groups, let prompt, let output):
            try Self.check("groups", groups >= 1, "an integer >= 1", groups)
            let prefixes = (0..<groups).map { _ in source.tokens(prefix, &random) }
            return (0..<(count ?? 64)).map { index in
                source.request(prefixes[index % groups] + source.tokens(prompt, &random), output: output)
            }
        case .file(let path, let output): return try WorkloadFile(path).requests(count: count, output: output)
        }
    }

    /// Lengths of the prompt and the output of each request that ``requests(count:from:seed:)`` makes for the same seed; nil
    /// for a file.
    /// - Throws: ``ServeBenchmarkError``.
    public func lengths(
        count: Int, seed: UInt64
    ) throws(ServeBenchmarkError) -> [(prompt: Int, output: Int)]? {
        switch self {
        case .random(let prompt, let output, let spread):
            try Self.check("spread", spread >= 0 && spread < 1, "a number in [0, 1)", spread)
            var random = BenchmarkRandom(seed: seed)
            return (0..<count).map { _ in
                let length = random.length(about: prompt, spread)
                let tokens = random.length(about: output, spread)
                random.skip(length)
                return (length, tokens)
            }
        case .sharedPrefix(let prefix, _, let prompt, let output):
            return Array(repeating: (prefix + prompt, output), count: count)
        case .file: return nil
        }
    }

    private static func check(
        _ name: String, _ holds: Bool, _ expected: String, _ found: Any
    ) throws(ServeBenchmarkError) {
        if !holds { throw .parameter(name: name, expected: expected, found: "\(found)") }
    }
}

/// Where random prompts come from.
public struct PromptSource: Sendable {
    private let ids: [Int32]
    private let tokenizer: Tokenizer?

    /// Prompts of token ids from 256 up to a vocabulary's size.
    /// - Throws: ``ServeBenchmarkError/parameter(name:expected:found:)``.
    public init(vocabularySize: Int) throws(ServeBenchmarkError) {
        guard vocabularySize > 512, vocabularySize <= 1 << 24 else {
            throw .parameter(
                name: "vocabulary", expected: "an integer from 513 to \(1 << 24)", found: String(vocabularySize))
        }
        ids = (256..<Int32(vocabularySize)).map { $0 }
        tokenizer = nil
    }

    /// Prompts of a tokenizer's ordinary tokens.
    /// - Parameter asText: whether prompts are sent as text. Text of n random tokens may be a few more or fewer when the
    ///   server reads it.
    public init(_ tokenizer: Tokenizer, asText: Bool) {
        let special = Set(tokenizer.specialTokens.map(\.id))
        ids = (0..<Int32(tokenizer.idBound)).filter { id in
            guard !special.contains(id), let bytes = tokenizer.bytes(of: id) else { return false }
            return bytes.allSatisfy { (0x20...0x7E).contains($0) }
        }
        self.tokenizer = asText ? tokenizer : nil
    }

    /// Random tokens.
    func tokens(_ count: Int, _ random: inout BenchmarkRandom) -> [Int32] {
        (0..<count).map { _ in ids[Int(random.next() % UInt64(ids.count))] }
    }

    func request(_ tokens: [Int32], output: Int) -> BenchmarkRequest {
        guard let tokenizer else {
            return BenchmarkRequest(prompt: .tokens(tokens), promptTokens: tokens.count, outputTokens: output)
        }
        return BenchmarkRequest(
            prompt: .text(tokenizer.decode(tokens)), promptTokens: tokens.count, outputTokens: output)
    }
}

/// Random numbers that are a function of a seed: SplitMix64 (Steele, Lea, Flood 2014).
package struct BenchmarkRandom {
    private static let step: UInt64 = 0x9E37_79B9_7F4A_7C15
    private var state: UInt64

    /// A sequence of numbers that follows from the seed.
    package init(seed: UInt64) { state = seed }

    /// The next number.
    package mutating func next() -> UInt64 {
        state &+= Self.step
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Passes over `count` numbers.
    mutating func skip(_ count: Int) { state &+= Self.step &* UInt64(count) }

    /// A uniform number in (0, 1].
    mutating func uniform() -> Double { Double((next() >> 11) + 1) * 0x1p-53 }

    /// A length within a share of `length`, at least 1.
    mutating func length(about length: Int, _ spread: Double) -> Int {
        guard spread > 0 else { return max(length, 1) }
        let low = max(Int((Double(length) * (1 - spread)).rounded(.down)), 1)
        let high = max(Int((Double(length) * (1 + spread)).rounded(.up)), low)
        return low + Int(next() % UInt64(high - low + 1))
    }
}
