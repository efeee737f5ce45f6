/// Reads normalizers from their JSON.
enum NormalizerReader {
    static func read(_ node: JSONNode) throws -> Normalizer {
        let type = try node.string("type")
        switch type {
        case "NFC", "NFD", "NFKC", "NFKD": return .unicode(NormalizationForm(rawValue: type)!)
        case "Lowercase": return .lowercase
        case "StripAccents": return .stripAccents
        case "Nmt": return .nmt
        case "ByteLevel": return .spellBytes
        case "Strip": return .strip(left: try node.bool("strip_left"), right: try node.bool("strip_right"))
        case "Prepend": return .prepend(Array(try node.string("prepend").utf8))
        case "Replace":
            return .replace(try PatternReader.read(node), by: Array(try node.string("content").utf8))
        case "Sequence": return .sequence(try node.child("normalizers").elements().map(read))
        default: throw TokenizerError.unsupported(component: "normalizer \"\(type)\"", at: node.path)
        }
    }
}

/// Reads the patterns of `Split` and `Replace`.
enum PatternReader {
    static func read(_ node: JSONNode) throws -> TextPattern {
        let pattern = try node.child("pattern")
        if let text = try pattern.optional("String") {
            guard try !text.string().isEmpty else { throw text.error(expected: "at least one character") }
            return .literal(Array(try text.string().utf8))
        }
        return .regex(try regex(try pattern.string("Regex"), at: pattern.path))
    }

    static func regex(_ pattern: String, at place: String) throws -> RegexProgram {
        do {
            return try RegexProgram(pattern)
        } catch {
            throw TokenizerError.pattern(pattern, reason: error.reason, at: place)
        }
    }
}

/// Reads pre-tokenizers from their JSON.
enum PreTokenizerReader {
    /// The steps, and whether the words are to be taken byte by byte: a last `ByteLevel` is left to the model.
    static func read(_ node: JSONNode?) throws -> (preTokenizer: PreTokenizer, isByteLevel: Bool) {
        var steps: [PreTokenizer.Step] = []
        if let node { try read(node, into: &steps) }
        var isByteLevel = false
        if case .spellBytes = steps.last {
            isByteLevel = true
            steps.removeLast()
        }
        return (PreTokenizer(steps: steps), isByteLevel)
    }

    private static func read(_ node: JSONNode, into steps: inout [PreTokenizer.Step]) throws {
        let type = try node.string("type")
        switch type {
        case "Sequence": for child in try node.child("pretokenizers").elements() { try read(child, into: &steps) }
        case "ByteLevel":
            if try node.bool("add_prefix_space") { steps.append(.prefixSpace) }
            if try node.bool("use_regex", default: true) { steps.append(.scan(.gpt2)) }
            steps.append(.spellBytes)
        case "Split": steps.append(try split(node))
        case "Digits":
            let behavior: SplitBehavior = try node.bool("individual_digits") ? .isolated : .contiguous
            steps.append(.split(.characters(.numeric), behavior, isInverted: false))
        case "Punctuation":
            let behavior = try node.optional("behavior").map(behavior) ?? .isolated
            steps.append(.split(.characters(.punctuation), behavior, isInverted: false))
        case "Whitespace":
            steps.append(.split(.runs([.word, .neitherWordNorSpace]), .removed, isInverted: true))
        case "WhitespaceSplit": steps.append(.split(.characters(.whiteSpace), .removed, isInverted: false))
        case "CharDelimiterSplit":
            steps.append(.split(.literal(Array(try node.string("delimiter").utf8)), .removed, isInverted: false))
        case "FixedLength":
            let length = try node.optional("length")?.int(in: 1...1_000_000) ?? 5
            steps.append(.chunks(length))
        case "Metaspace": try readMetaspace(node, into: &steps)
        default: throw TokenizerError.unsupported(component: "pre-tokenizer \"\(type)\"", at: node.path)
        }
    }

    private static func behavior(_ node: JSONNode) throws -> SplitBehavior {
        guard let behavior = SplitBehavior(rawValue: try node.string()) else {
            throw node.error(expected: "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous")
        }
        return behavior
    }

    private static func split(_ node: JSONNode) throws -> PreTokenizer.Step {
        let behavior = try behavior(try node.child("behavior"))
        let isInverted = try node.bool("invert")
        // Covering all text, these patterns leave nothing between their matches: isolated and, inverted, removed are
        // the same.
        if let pattern = try node.child("pattern").optional("Regex")?.string(),
            let scanner = WordScanner(pattern: pattern), (behavior == .removed) == isInverted,
            behavior == .removed || behavior == .isolated
        {
            return .scan(scanner)
        }
        return .split(try PatternReader.read(node), behavior, isInverted: isInverted)
    }

    private static func readMetaspace(_ node: JSONNode, into steps: inout [PreTokenizer.Step]) throws {
        let (replacement, prepend) = try metaspace(node)
        steps.append(.replaceSpaces(by: replacement, prepend: prepend))
        if try node.bool("split", default: true) {
            steps.append(.split(.literal(replacement), .mergedWithNext, isInverted: false))
        }
    }

    /// Replacement and prefix of a `Metaspace`, also where it is a decoder.
    static func metaspace(_ node: JSONNode) throws -> (replacement: [UInt8], prepend: PreTokenizer.MetaspacePrefix) {
        let replacement = try node.child("replacement")
        guard try replacement.string().unicodeScalars.count == 1 else {
            throw replacement.error(expected: "one character")
        }
        var prepend = PreTokenizer.MetaspacePrefix.always
        if let scheme = try node.optional("prepend_scheme") {
            guard let known = PreTokenizer.MetaspacePrefix(rawValue: try scheme.string()) else {
                throw scheme.error(expected: "always, first or never")
            }
            prepend = known
        }
        if let adds = try node.optional("add_prefix_space"), try !adds.bool() {
            let isStated = try node.optional("prepend_scheme") != nil
            guard !isStated || prepend == .never else {
                throw TokenizerError.invalid("add_prefix_space does not match prepend_scheme", at: node.path)
            }
            prepend = .never
        }
        return (Array(try replacement.string().utf8), prepend)
    }
}

/// Reads decoders from their JSON.
enum DecoderReader {
    static func read(_ node: JSONNode) throws -> Decoder {
        let type = try node.string("type")
        switch type {
        case "ByteLevel": return .byteLevel
        case "ByteFallback": return .byteFallback
        case "Fuse": return .fuse
        case "Replace": return .replace(try PatternReader.read(node), by: Array(try node.string("content").utf8))
        case "Strip":
            let content = try node.child("content")
            let scalars = try content.string().unicodeScalars
            guard scalars.count == 1 else { throw content.error(expected: "one character") }
            return .strip(
                scalars.first!.value, start: try node.child("start").int(in: 0...1_000_000),
                stop: try node.child("stop").int(in: 0...1_000_000))
        case "Metaspace":
            let (replacement, prepend) = try PreTokenizerReader.metaspace(node)
            return .metaspace(replacement, skipsFirst: prepend != .never)
        case "Sequence": return .sequence(try node.child("decoders").elements().map(read))
        default: throw TokenizerError.unsupported(component: "decoder \"\(type)\"", at: node.path)
        }
    }
}

/// Reads post-processors: for one text, each puts ids before and after it.
enum PostProcessorReader {
    static func read(_ node: JSONNode) throws -> (prefix: [Int32], suffix: [Int32]) {
        let type = try node.string("type")
        switch type {
        case "ByteLevel": return ([], [])
        case "RobertaProcessing", "BertProcessing":
            return ([try special(node, "cls")], [try special(node, "sep")])
        case "TemplateProcessing": return try template(node)
        case "Sequence":
            var result: (prefix: [Int32], suffix: [Int32]) = ([], [])
            for child in try node.child("processors").elements() {
                let (prefix, suffix) = try read(child)
                result.prefix = prefix + result.prefix
                result.suffix += suffix
            }
            return result
        default: throw TokenizerError.unsupported(component: "post-processor \"\(type)\"", at: node.path)
        }
    }

    private static func id(_ node: JSONNode) throws -> Int32 {
        Int32(try node.int(in: 0...Vocabulary.idLimit - 1))
    }

    /// `["<s>", 0]`.
    private static func special(_ node: JSONNode, _ key: String) throws -> Int32 {
        let pair = try node.child(key)
        let elements = try pair.elements()
        guard elements.count == 2 else { throw pair.error(expected: "a token and its id") }
        return try id(elements[1])
    }

    private static func template(_ node: JSONNode) throws -> (prefix: [Int32], suffix: [Int32]) {
        let specials = try node.child("special_tokens")
        var prefix: [Int32] = []
        var suffix: [Int32] = []
        var texts = 0
        for piece in try node.child("single").elements() {
            if let token = try piece.optional("SpecialToken") {
                let ids = try specials.child(try token.string("id")).child("ids").elements().map(id)
                if texts == 0 { prefix += ids } else { suffix += ids }
            } else {
                _ = try piece.child("Sequence").string("id")
                texts += 1
            }
        }
        guard texts == 1 else {
            throw TokenizerError.unsupported(component: "a template with \(texts) texts", at: "\(node.path).single")
        }
        return (prefix, suffix)
    }
}
