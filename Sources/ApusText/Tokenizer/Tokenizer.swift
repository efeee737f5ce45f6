import ApusSynchronization
/// Turns text into token ids and back, exactly as Hugging Face `tokenizers` does with the same `tokenizer.json`.
///
/// ```swift
/// let tokenizer = try Tokenizer(contentsOf: "SmolLM2/tokenizer.json")
/// let ids = tokenizer.encode("Hello there")
/// tokenizer.decode(ids)  // "Hello there"
/// ```
///
/// A tokenizer may be used from any number of threads at once. Each encoding thread works in its own memory, which
/// remembers the words it has met and is kept for the next call.
public final class Tokenizer: Sendable {
    let components: TokenizerComponents
    private let rawTokens: AddedTokenMatcher?
    private let normalizedTokens: AddedTokenMatcher?
    /// Added tokens by id; their spelling in decoding is that after normalisation.
    private let added: [Int32: (token: AddedToken, spelling: [UInt8])]
    private let idsOfAdded: [[UInt8]: Int32]
    private let specialSpellings: Set<[UInt8]>
    private let workspaces = Locked<[EncodingWorkspace]>([])

    /// The number of tokens, added ones included.
    public let vocabularySize: Int
    /// One more than the largest id.
    public let idBound: Int
    /// The tokens that the model's configuration names, where it does.
    public let namedTokens: NamedTokens

    /// Tokens with a role in generation.
    public struct NamedTokens: Sendable, Equatable {
        /// Begins a text.
        public var bos: Int32?
        /// Ends a text or a turn.
        public var eos: Int32?
        /// Stands for what the vocabulary lacks.
        public var unknown: Int32?
        /// Fills up batches.
        public var padding: Int32?

        /// All of them, where they are.
        public init(bos: Int32? = nil, eos: Int32? = nil, unknown: Int32? = nil, padding: Int32? = nil) {
            self.bos = bos
            self.eos = eos
            self.unknown = unknown
            self.padding = padding
        }
    }

    init(_ components: TokenizerComponents) {
        self.components = components
        namedTokens = components.namedTokens
        var raw: [(text: [UInt8], token: AddedToken)] = []
        var normalized: [(text: [UInt8], token: AddedToken)] = []
        var added: [Int32: (token: AddedToken, spelling: [UInt8])] = [:]
        var ids: [[UInt8]: Int32] = [:]
        var special: Set<[UInt8]> = []
        let vocabulary = components.model.vocabulary
        var size = vocabulary.count
        for token in components.addedTokens {
            let content = Array(token.content.utf8)
            var spelling = content
            if token.isNormalized {
                if let changed = content.withUnsafeBufferPointer({ components.normalizer?.normalize($0) }) {
                    spelling = changed
                }
                normalized.append((spelling, token))
            } else {
                raw.append((content, token))
            }
            if ids[content] == nil, vocabulary.id(of: token.content) == nil { size += 1 }
            added[token.id] = (token, spelling)
            ids[content] = token.id
            if token.isSpecial { special.insert(content) }
        }
        rawTokens = AddedTokenMatcher(raw)
        normalizedTokens = AddedTokenMatcher(normalized)
        self.added = added
        idsOfAdded = ids
        specialSpellings = special
        vocabularySize = size
        idBound = max(vocabulary.idBound, Int(added.keys.max() ?? -1) + 1)
    }

    // MARK: Tokens

    /// The id of the token that the vocabulary spells `spelling` ("Ġthe" in byte-level vocabularies), or nil.
    public func id(of spelling: String) -> Int32? {
        idsOfAdded[Array(spelling.utf8)] ?? components.model.vocabulary.id(of: spelling)
    }

    /// The spelling of a token in the vocabulary, or nil where no token has the id.
    public func spelling(_ id: Int32) -> [UInt8]? {
        added[id]?.spelling ?? components.model.vocabulary.spelling(Int(id)).map { Array($0) }
    }

    /// The bytes that a token stands for by itself, perhaps a part of a character; nil where no token has the id.
    /// Special tokens stand for their spelling, byte tokens (`<0x0A>`) for their byte, U+2581 for a space.
    public func bytes(of id: Int32) -> [UInt8]? {
        guard let spelling = spelling(id) else { return nil }
        if components.model.isByteLevel {
            var result: [UInt8] = []
            spelling.withUnsafeBufferPointer { ByteAlphabet.appendBytes(spelledBy: $0, to: &result) }
            return result
        }
        if components.model.fallbackIDs != nil, let byte = ByteFallback.byte(spelling) { return [byte] }
        return TextPattern.literal([0xE2, 0x96, 0x81]).replacing(spelling, with: [0x20])
    }

    /// Whether `decode` leaves the token out when asked to skip special tokens.
    public func isSpecial(_ id: Int32) -> Bool {
        guard !specialSpellings.isEmpty, let spelling = spelling(id) else { return false }
        return specialSpellings.contains(spelling)
    }

    /// The added tokens that are special, by id.
    public var specialTokens: [AddedToken] { components.addedTokens.filter(\.isSpecial).sorted { $0.id < $1.id } }

    // MARK: Encoding

    /// The ids of a text.
    /// - Parameters:
    ///   - addSpecialTokens: whether to add what the model expects around a text, such as a first `<s>`.
    ///   - parseSpecialTokens: whether `<|im_end|>` in the text is the token; where not, it is ordinary text.
    public func encode(
        _ text: String, addSpecialTokens: Bool = false, parseSpecialTokens: Bool = true
    ) -> [Int32] {
        var text = text
        return text.withUTF8 {
            encode(valid: $0, addSpecialTokens: addSpecialTokens, parseSpecialTokens: parseSpecialTokens)
        }
    }

    /// The ids of a text given as UTF-8, which is read only during the call.
    /// - Throws: `TokenizerError.invalidUTF8` with the place of the first wrong byte.
    public func encode(
        utf8 bytes: UnsafeRawBufferPointer, addSpecialTokens: Bool = false, parseSpecialTokens: Bool = true
    ) throws(TokenizerError) -> [Int32] {
        let text = bytes.bindMemory(to: UInt8.self)
        if let offset = UTF8Text.firstInvalid(text) { throw .invalidUTF8(offset: offset) }
        return encode(valid: text, addSpecialTokens: addSpecialTokens, parseSpecialTokens: parseSpecialTokens)
    }

    private func encode(
        valid text: UnsafeBufferPointer<UInt8>, addSpecialTokens: Bool, parseSpecialTokens: Bool
    ) -> [Int32] {
        let workspace = workspaces.withLock { $0.popLast() } ?? EncodingWorkspace()
        defer { workspaces.withLock { $0.append(workspace) } }
        workspace.output.removeAll()
        workspace.output.reserve(text.count / 3)
        if addSpecialTokens { for id in components.prefix { workspace.output.append(id) } }
        var encoder = WordEncoder(model: components.model, workspace: workspace)
        Self.forEachSegment(of: text, rawTokens, findsSpecial: parseSpecialTokens) { segment in
            switch segment {
            case .token(let id): workspace.output.append(id)
            case .text(let range):
                encodeStretch(
                    UnsafeBufferPointer(rebasing: text[range]), isAtStart: range.lowerBound == 0,
                    findsSpecial: parseSpecialTokens, &encoder)
            }
        }
        if addSpecialTokens { for id in components.suffix { workspace.output.append(id) } }
        return workspace.output.array
    }

    private func encodeStretch(
        _ text: UnsafeBufferPointer<UInt8>, isAtStart: Bool, findsSpecial: Bool, _ encoder: inout WordEncoder
    ) {
        if let normalized = components.normalizer?.normalize(text) {
            normalized.withUnsafeBufferPointer { split($0, isAtStart: isAtStart, findsSpecial: findsSpecial, &encoder) }
        } else {
            split(text, isAtStart: isAtStart, findsSpecial: findsSpecial, &encoder)
        }
    }

    private func split(
        _ text: UnsafeBufferPointer<UInt8>, isAtStart: Bool, findsSpecial: Bool, _ encoder: inout WordEncoder
    ) {
        Self.forEachSegment(of: text, normalizedTokens, findsSpecial: findsSpecial) { segment in
            switch segment {
            case .token(let id): encoder.workspace.output.append(id)
            case .text(let range):
                components.preTokenizer.forEachWord(
                    of: UnsafeBufferPointer(rebasing: text[range]), isAtStart: isAtStart && range.lowerBound == 0,
                    &encoder)
            }
        }
    }

    private static func forEachSegment(
        of text: UnsafeBufferPointer<UInt8>, _ matcher: AddedTokenMatcher?, findsSpecial: Bool,
        _ body: (AddedTokenMatcher.Segment) -> Void
    ) {
        if let matcher {
            matcher.forEachSegment(of: text, findsSpecial: findsSpecial, body)
        } else if text.count > 0 {
            body(.text(0..<text.count))
        }
    }

    // MARK: Decoding

    /// The text of some ids. Ids without a token are passed over; bytes that form no character become U+FFFD.
    public func decode(_ ids: some Sequence<Int32>, skipSpecialTokens: Bool = false) -> String {
        var tokens: [[UInt8]] = []
        for id in ids {
            guard let spelling = spelling(id) else { continue }
            if skipSpecialTokens, specialSpellings.contains(spelling) { continue }
            tokens.append(spelling)
        }
        guard let decoder = components.decoder else {
            return String(decoding: Array(tokens.joined(separator: [0x20])), as: UTF8.self)
        }
        return String(decoding: Array(decoder.decode(tokens).joined()), as: UTF8.self)
    }

    /// A detokenizer for ids that come one by one.
    public func streamingDetokenizer(skipSpecialTokens: Bool = false) -> StreamingDetokenizer {
        StreamingDetokenizer(self, skipSpecialTokens: skipSpecialTokens)
    }
}

/// The parts of a tokenizer.
struct TokenizerComponents: Sendable {
    var model: BPEModel
    var normalizer: Normalizer?
    var preTokenizer: PreTokenizer
    var decoder: Decoder?
    var addedTokens: [AddedToken]
    /// What goes before and after a text on request.
    var prefix: [Int32] = []
    var suffix: [Int32] = []
    var namedTokens = Tokenizer.NamedTokens()
}
