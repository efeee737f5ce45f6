/// What tokens may follow, decided token by token: a grammar, a schema, a list of words.
///
/// A constraint is compiled once and shared by any number of requests; each sample of a request walks it with a state of
/// its own.
public protocol TokenConstraint: Sendable {
    /// A state before the first token.
    func makeState() -> any TokenConstraintState
}

/// One sample's walk through a ``TokenConstraint``. Used by one thread at a time.
public protocol TokenConstraintState {
    /// The tokens that may come next. Tokens that end the sequence are among them exactly where ``isComplete`` holds.
    ///
    /// Where nothing else may follow, a token that ends the sequence does; the set is empty only where the vocabulary cannot
    /// spell what must come.
    func allowedMask() -> TokenMask

    /// Goes on past a token of the last mask. A token that was not allowed leaves the state as it was and answers false.
    @discardableResult
    mutating func accept(_ token: Int32) -> Bool

    /// Whether the text so far is whole: only then may a token come that ends the sequence.
    var isComplete: Bool { get }
}

/// A set of token ids, one bit a token. Copies share their memory.
public struct TokenMask: Sendable, Equatable {
    /// Bit `id % 64` of word `id / 64` stands for the token `id`; bits past the vocabulary are clear.
    public private(set) var words: [UInt64]
    /// The number of tokens in the vocabulary.
    public let vocabularySize: Int

    /// The empty set over a vocabulary.
    public init(vocabularySize: Int) {
        words = [UInt64](repeating: 0, count: (vocabularySize + 63) / 64)
        self.vocabularySize = vocabularySize
    }

    /// Whether the set holds a token; false for ids outside the vocabulary.
    public func contains(_ token: Int32) -> Bool {
        guard token >= 0, Int(token) < vocabularySize else { return false }
        return words[Int(token) >> 6] >> UInt64(token & 63) & 1 != 0
    }

    /// Adds a token; ids outside the vocabulary are passed over.
    public mutating func insert(_ token: Int32) {
        guard token >= 0, Int(token) < vocabularySize else { return }
        words[Int(token) >> 6] |= 1 << UInt64(token & 63)
    }

    /// Adds the tokens of another set over the same vocabulary.
    public mutating func formUnion(_ other: TokenMask) {
        precondition(other.vocabularySize == vocabularySize, "sets over different vocabularies")
        for index in words.indices { words[index] |= other.words[index] }
    }

    /// The number of tokens in the set.
    public var count: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

    /// Sets the logits of all other tokens to -infinity: a pass over the vocabulary that reads a word for 64 tokens.
    /// - Parameter logits: one number per token; those past the mask's vocabulary are ruled out too.
    public func apply(to logits: UnsafeMutableBufferPointer<Float>) {
        for start in stride(from: 0, to: logits.count, by: 64) {
            let word = start >> 6 < words.count ? words[start >> 6] : 0
            if word == .max { continue }
            let end = min(start + 64, logits.count)
            if word == 0 {
                for index in start..<end { logits[index] = -.infinity }
            } else {
                for index in start..<end where word >> UInt64(index - start) & 1 == 0 { logits[index] = -.infinity }
            }
        }
    }
}
