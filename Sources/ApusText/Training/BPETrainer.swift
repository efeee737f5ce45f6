/// Trains a byte-level BPE tokenizer (Sennrich et al. 2016 on bytes, as GPT-2): the same words and settings give the
/// same vocabulary every time, and the one that `BpeTrainer` of `tokenizers` gives.
///
/// ```swift
/// let trainer = BPETrainer(vocabularySize: 8192, specialTokens: ["<|endoftext|>"])
/// let trained = try trainer.train(paragraphs)
/// let tokenizer = try trained.tokenizer()
/// try Data(trained.json.utf8).write(to: file)  // a tokenizer.json
/// ```
public struct BPETrainer: Sendable {
    /// How text is cut into words, within which merges happen.
    public enum Words: String, Sendable, CaseIterable {
        /// GPT-2's pattern.
        case gpt2
        /// Llama 3's pattern: up to three digits together.
        case llama3
        /// Qwen 2's pattern: each digit alone.
        case qwen2
        /// SmolLM's: each digit alone, then GPT-2's pattern.
        case smolLM
    }

    /// The number of tokens aimed at, special ones and the 256 bytes included.
    public var vocabularySize: Int
    /// Pairs that occur less often are not merged.
    public var minimumFrequency: Int
    /// Tokens with the first ids.
    public var specialTokens: [String]
    /// How text is cut.
    public var words: Words

    /// A trainer with these settings.
    public init(
        vocabularySize: Int, minimumFrequency: Int = 0, specialTokens: [String] = [], words: Words = .gpt2
    ) {
        self.vocabularySize = vocabularySize
        self.minimumFrequency = minimumFrequency
        self.specialTokens = specialTokens
        self.words = words
    }

    /// Trains on texts, each cut by itself. Special tokens within them get no special treatment: leave them out.
    /// - Throws: `TokenizerError.invalid` where the vocabulary is too small for its fixed part, `.duplicate` for a
    ///   special token that comes twice or is a character of the byte alphabet, `.invalidUTF8`.
    public func train(_ texts: some Sequence<String>) throws(TokenizerError) -> TrainedBPE {
        try train(utf8: texts.lazy.map { Array($0.utf8) })
    }

    /// Trains on texts given as UTF-8.
    public func train(utf8 texts: some Sequence<[UInt8]>) throws(TokenizerError) -> TrainedBPE {
        let fixed = specialTokens.count + 256
        guard vocabularySize >= fixed, vocabularySize <= Vocabulary.idLimit else {
            throw .invalid(
                "expected a size from \(fixed) (special tokens and bytes) to \(Vocabulary.idLimit), found \(vocabularySize)",
                at: "vocabularySize")
        }
        var counter = WordCounter()
        let preTokenizer = PreTokenizer(steps: steps)
        for text in texts {
            let offset = text.withUnsafeBufferPointer { buffer -> Int? in
                if let offset = UTF8Text.firstInvalid(buffer) { return offset }
                preTokenizer.forEachWord(of: buffer, isAtStart: true, &counter)
                return nil
            }
            if let offset { throw .invalidUTF8(offset: offset) }
        }
        var (tokens, byteIDs) = try alphabet()
        var learner = MergeLearner(
            (0..<counter.counts.count).map { index in
                (counter.words[index].map { byteIDs[Int($0)] }, counter.counts[index])
            }, tokens: tokens)
        learner.learn(size: vocabularySize, minimumFrequency: minimumFrequency)
        tokens = learner.tokens
        return TrainedBPE(
            trainer: self, tokens: tokens.map { String(decoding: $0, as: UTF8.self) }, mergeIDs: learner.merges)
    }

    /// Special tokens, then the bytes in the order of the characters that stand for them.
    private func alphabet() throws(TokenizerError) -> (tokens: [[UInt8]], byteIDs: [Int32]) {
        var tokens: [[UInt8]] = []
        var seen: Set<[UInt8]> = []
        for token in specialTokens {
            guard !token.isEmpty, seen.insert(Array(token.utf8)).inserted else {
                throw .duplicate(token: "\"\(token)\"", id: tokens.count, at: "specialTokens")
            }
            tokens.append(Array(token.utf8))
        }
        var byteIDs = [Int32](repeating: 0, count: 256)
        for byte in (0..<256).sorted(by: { ByteAlphabet.scalars[$0] < ByteAlphabet.scalars[$1] }) {
            var spelling: [UInt8] = []
            UTF8Text.append(UInt32(ByteAlphabet.scalars[byte]), to: &spelling)
            guard seen.insert(spelling).inserted else {
                throw .duplicate(
                    token: "\"\(String(decoding: spelling, as: UTF8.self))\"", id: tokens.count, at: "specialTokens")
            }
            byteIDs[byte] = Int32(tokens.count)
            tokens.append(spelling)
        }
        return (tokens, byteIDs)
    }

    private var steps: [PreTokenizer.Step] {
        switch words {
        case .gpt2: [.scan(.gpt2)]
        case .llama3: [.scan(.llama3(digits: 3))]
        case .qwen2: [.scan(.llama3(digits: 1))]
        case .smolLM: [.split(.characters(.numeric), .isolated, isInverted: false), .scan(.gpt2)]
        }
    }

    /// The `pre_tokenizer` of the trained tokenizer's file.
    fileprivate var preTokenizerJSON: JSONValue {
        func byteLevel(usesRegex: Bool) -> JSONValue {
            ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": .bool(usesRegex)]
        }
        func split(_ quantifier: String) -> JSONValue {
            [
                "type": "Split", "pattern": ["Regex": .string(WordScanner.llama3Pattern(quantifier))],
                "behavior": "Isolated", "invert": false,
            ]
        }
        switch words {
        case .gpt2: return byteLevel(usesRegex: true)
        case .llama3: return ["type": "Sequence", "pretokenizers": [split("{1,3}"), byteLevel(usesRegex: false)]]
        case .qwen2: return ["type": "Sequence", "pretokenizers": [split(""), byteLevel(usesRegex: false)]]
        case .smolLM:
            let digits: JSONValue = ["type": "Digits", "individual_digits": true]
            return ["type": "Sequence", "pretokenizers": [digits, byteLevel(usesRegex: true)]]
        }
    }
}

/// What training made: a vocabulary and merges.
public struct TrainedBPE: Sendable {
    /// The tokens by id, spelled in the byte alphabet ("Ġthe" for " the").
    public let tokens: [String]
    /// The merges in order, each two tokens by id.
    public let merges: [(left: Int, right: Int)]
    private let trainer: BPETrainer

    fileprivate init(trainer: BPETrainer, tokens: [String], mergeIDs: [(left: Int32, right: Int32)]) {
        self.trainer = trainer
        self.tokens = tokens
        // A pair can be merged a second time where its token came up in two ways; the later rank is the one that
        // counts, as for whoever reads the merges in order.
        var last: [UInt64: Int] = [:]
        let keys = mergeIDs.map { UInt64(UInt32(bitPattern: $0.left)) << 32 | UInt64(UInt32(bitPattern: $0.right)) }
        for (index, key) in keys.enumerated() { last[key] = index }
        merges = mergeIDs.indices.filter { last[keys[$0]] == $0 }.map {
            (Int(mergeIDs[$0].left), Int(mergeIDs[$0].right))
        }
    }

    /// The tokenizer as a `tokenizer.json`, which `tokenizers` and `Tokenizer` read.
    public var json: String {
        var vocabulary = JSONObject()
        for (id, token) in tokens.enumerated() { vocabulary[token] = .integer(Int64(id)) }
        let added = trainer.specialTokens.enumerated().map { id, token -> JSONValue in
            [
                "id": .integer(Int64(id)), "content": .string(token), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            ]
        }
        let model: JSONValue = [
            "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
            "end_of_word_suffix": nil, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": .object(vocabulary),
            "merges": .array(merges.map { .array([.string(tokens[$0.left]), .string(tokens[$0.right])]) }),
        ]
        let byteLevel: JSONValue = [
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        ]
        let whole: JSONValue = [
            "version": "1.0", "truncation": nil, "padding": nil, "added_tokens": .array(added), "normalizer": nil,
            "pre_tokenizer": trainer.preTokenizerJSON, "post_processor": nil, "decoder": byteLevel, "model": model,
        ]
        return whole.serialized()
    }

    /// The tokenizer.
    public func tokenizer() throws(TokenizerError) -> Tokenizer {
        let bytes = Array(json.utf8)
        let result = bytes.withUnsafeBytes { buffer in
            Result { () throws(TokenizerError) in try TokenizerJSON.load(buffer, name: "trained tokenizer") }
        }
        return Tokenizer(try result.get())
    }
}
