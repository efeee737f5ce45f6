/// Draws random texts that a constraint allows, each token evenly among those allowed: shows what a schema leaves open,
/// and tries a constraint out without a model.
public struct ConstraintSampler {
    private let constraint: any TokenConstraint
    private let vocabulary: ConstraintVocabulary
    private let random: CounterRandom
    private var drawn: UInt64 = 0
    /// Tokens that lead towards an end, best first: between the parts of JSON, and within strings.
    private let closers: [Int32]
    private let stringClosers: [Int32]

    /// Texts that could not be gone on with: none of a right constraint over a vocabulary that can spell everything.
    public private(set) var deadEnds = 0

    /// Seconds that each mask took, first those met for the first time, then those asked for again at once.
    public private(set) var maskSeconds: (first: [Double], again: [Double]) = ([], [])

    /// A sampler whose texts are a function of `seed`.
    public init(_ constraint: any TokenConstraint, vocabulary: ConstraintVocabulary, seed: UInt64) {
        self.constraint = constraint
        self.vocabulary = vocabulary
        random = CounterRandom(seed: seed)
        func tokens(_ characters: String) -> [Int32] {
            characters.utf8.compactMap { byte in vocabulary.spellings.firstIndex { $0 == [byte] }.map { Int32($0) } }
        }
        closers = tokens("}]n\"0")
        stringClosers = tokens("\"")
    }

    /// A text of about `tokens` tokens: from then on what closes is preferred.
    /// - Returns: the bytes, or nil where no end came within eight times as many tokens.
    public mutating func text(tokens: Int) -> [UInt8]? {
        var state = constraint.makeState()
        var text: [UInt8] = []
        let clock = ContinuousClock()
        for count in 0..<max(8 * tokens, 64) {
            let start = clock.now
            let mask = state.allowedMask()
            let middle = clock.now
            _ = state.allowedMask()
            maskSeconds.first.append((middle - start).inSeconds)
            maskSeconds.again.append((clock.now - middle).inSeconds)
            guard let token = draw(mask, isClosing: count >= tokens, mayEnd: state.isComplete) else {
                deadEnds += 1
                return nil
            }
            if vocabulary.endTokens.contains(token) { return text }
            guard state.accept(token) else { return nil }
            text += vocabulary.spellings[Int(token)] ?? []
        }
        return nil
    }

    private mutating func draw(_ mask: TokenMask, isClosing: Bool, mayEnd: Bool) -> Int32? {
        let count = mask.count
        guard count > 0 else { return nil }
        let chance = uniform()
        if mayEnd, isClosing || chance < 0.5 { return vocabulary.endTokens.first }
        // Where much of the vocabulary is allowed, it is inside a string.
        let preferred = count > vocabulary.size / 8 ? stringClosers : closers
        if isClosing, chance < 0.9, let closer = preferred.first(where: { mask.contains($0) }) { return closer }
        var left = min(Int(uniform() * Double(count)), count - 1)
        for (index, word) in mask.words.enumerated() {
            let bits = word.nonzeroBitCount
            if left >= bits {
                left -= bits
                continue
            }
            var word = word
            for _ in 0..<left { word &= word - 1 }
            return Int32(index * 64 + word.trailingZeroBitCount)
        }
        return nil
    }

    private mutating func uniform() -> Double {
        drawn += 1
        return random.uniform(drawn)
    }
}
