import ApusText

/// What constraints need of a model's tokens: their bytes, ordered for fast walks, and those that end a text. Made once
/// a model (tens of milliseconds for 50,000 tokens) and shared by all constraints.
public final class ConstraintVocabulary: Sendable {
    /// The number of tokens the model has logits for.
    public let size: Int
    let spellings: [[UInt8]?]
    let endTokens: [Int32]
    /// The tokens by length, shortest first. What tokens of a few bytes may do in a state depends on little of it, so that
    /// states far from a limit share what is found out about most of the vocabulary.
    let tries: [TokenTrie]

    private static let trieLengths = [1...16, 17...32, 33...64, 65...Int(UInt16.max)]

    /// A vocabulary from its parts.
    /// - Parameters:
    ///   - spellings: the bytes of each token by id; nil for tokens that stand for no text, such as special ones.
    ///   - endTokens: the tokens that end a text, at least one.
    ///   - size: the number of tokens the model has logits for.
    /// - Throws: ``ConstraintVocabularyError``.
    public init(spellings: [[UInt8]?], endTokens: some Sequence<Int32>, size: Int) throws(ConstraintVocabularyError) {
        let ends = endTokens.filter { $0 >= 0 && Int($0) < size }.sorted()
        guard !ends.isEmpty else { throw .noEndToken }
        self.size = size
        self.endTokens = ends
        var spellings = Array(spellings.prefix(size))
        for end in ends where Int(end) < spellings.count { spellings[Int(end)] = nil }
        var single = Set<UInt8>()
        for case let bytes? in spellings where bytes.count == 1 { single.insert(bytes[0]) }
        // Without every printable character as a token of its own, what a constraint asks for might not be spellable.
        if let missing = (UInt8(0x20)...0x7E).first(where: { !single.contains($0) }) {
            throw .noTokenForByte(missing)
        }
        self.spellings = spellings
        let lengths = Self.trieLengths
        tries = lengths.map { range in
            TokenTrie(spellings.map { spelling in spelling.flatMap { range.contains($0.count) ? $0 : nil } })
        }.filter { $0.depth > 0 }
    }

    /// The text that a token stands for; nil for tokens outside the vocabulary and for those that stand for none.
    public func bytes(of token: Int32) -> [UInt8]? {
        token >= 0 && Int(token) < spellings.count ? spellings[Int(token)] : nil
    }

    /// The vocabulary of a tokenizer: every token but the special ones, by its bytes.
    /// - Throws: ``ConstraintVocabularyError``.
    public convenience init(
        _ tokenizer: Tokenizer, endTokens: some Sequence<Int32>, size: Int
    ) throws(ConstraintVocabularyError) {
        let special = Set(tokenizer.specialTokens.map(\.id))
        let spellings = (0..<Int32(tokenizer.idBound)).map { special.contains($0) ? nil : tokenizer.bytes(of: $0) }
        let ends = Set(endTokens).union(tokenizer.namedTokens.eos.map { [$0] } ?? [])
        try self.init(spellings: spellings, endTokens: ends, size: size)
    }

    /// The vocabulary of a model.
    /// - Throws: ``ConstraintVocabularyError``.
    public convenience init(_ model: LanguageModel) throws(ConstraintVocabularyError) {
        try self.init(
            model.tokenizer, endTokens: model.endTokens, size: model.configuration.vocabularySize)
    }
}

/// Why no constraint can be built over a vocabulary.
public enum ConstraintVocabularyError: Error, Equatable, CustomStringConvertible {
    /// No token ends a text, so a constrained one could not end.
    case noEndToken
    /// A printable character has no token of its own.
    case noTokenForByte(UInt8)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .noEndToken: "constrained decoding needs a token that ends the text; the model names none"
        case .noTokenForByte(let byte):
            "constrained decoding needs a token for every printable character; '\(Character(Unicode.Scalar(byte)))' has none"
        }
    }
}
