/// A BPE model: a vocabulary, what its pairs merge into, and what happens to characters that it lacks.
///
/// Two kinds share the code. Of a *byte-level* model a word's symbols are its bytes (spelled by `ByteAlphabet` in the
/// vocabulary), of any other its characters.
struct BPEModel: Sendable {
    let vocabulary: Vocabulary
    let merges: MergeTable
    let isByteLevel: Bool
    /// A word that is a token as a whole is that token, whatever the merges say.
    let ignoresMerges: Bool
    /// The token of characters that are not in the vocabulary, or -1: such characters vanish.
    let unknownID: Int32
    /// Whether neighbouring unknown characters give one token.
    let fusesUnknown: Bool
    /// The tokens `<0x00>`...`<0xFF>`, which spell characters that are not in the vocabulary, -1 where missing; nil
    /// where the model does without.
    let fallbackIDs: FixedBuffer<Int32>?
    /// Symbols that are no tokens but occur in merges: their ids follow the vocabulary's. Only for models whose merges
    /// are made from scores.
    let extraSymbols: Vocabulary?
    /// The symbol of each byte (byte-level) or of each ASCII character, -1 where there is none.
    private let symbolIDs: FixedBuffer<Int32>
    /// Whether a word may be cut before each U+2581 that follows another character: no merge reaches across.
    let cutsBeforeMetaspace: Bool

    init(
        vocabulary: Vocabulary, merges: MergeTable, pairs: [(left: Int32, right: Int32)], isByteLevel: Bool,
        ignoresMerges: Bool, unknownID: Int32, fusesUnknown: Bool, usesByteFallback: Bool,
        extraSymbols: Vocabulary? = nil
    ) {
        self.vocabulary = vocabulary
        self.merges = merges
        self.isByteLevel = isByteLevel
        self.ignoresMerges = ignoresMerges
        self.unknownID = unknownID
        self.fusesUnknown = fusesUnknown
        self.extraSymbols = extraSymbols
        symbolIDs = FixedBuffer(repeating: -1, count: 256)
        var spelling: [UInt8] = []
        for byte in 0..<(isByteLevel ? 256 : 128) {
            spelling.removeAll()
            withUnsafeBytes(of: UInt8(byte)) { bytes in
                let text = bytes.bindMemory(to: UInt8.self)
                if isByteLevel { ByteAlphabet.spell(text, into: &spelling) } else { spelling.append(contentsOf: text) }
            }
            symbolIDs[byte] = spelling.withUnsafeBufferPointer { Self.symbol($0, vocabulary, extraSymbols) }
        }
        if usesByteFallback {
            let ids = FixedBuffer<Int32>(repeating: -1, count: 256)
            for byte in 0..<256 { ids[byte] = vocabulary.id(of: Self.fallbackToken(byte)) ?? -1 }
            fallbackIDs = ids
        } else {
            fallbackIDs = nil
        }
        cutsBeforeMetaspace =
            !isByteLevel && vocabulary.id(of: "\u{2581}") != nil
            && pairs.allSatisfy { pair in
                pair.left != unknownID && pair.right != unknownID
                    && (!Self.text(pair.right, vocabulary, extraSymbols).starts(with: Self.metaspace)
                        || Self.text(pair.left, vocabulary, extraSymbols).suffix(3).elementsEqual(Self.metaspace))
            }
    }

    /// `<0x0A>` for 10.
    static func fallbackToken(_ byte: Int) -> String {
        let digits = String(byte, radix: 16, uppercase: true)
        return "<0x" + (byte < 16 ? "0" : "") + digits + ">"
    }

    private static let metaspace: [UInt8] = [0xE2, 0x96, 0x81]

    private static func text(
        _ symbol: Int32, _ vocabulary: Vocabulary, _ extra: Vocabulary?
    ) -> UnsafeBufferPointer<UInt8> {
        let id = Int(symbol)
        let spelling = id < vocabulary.idBound ? vocabulary.spelling(id) : extra?.spelling(id - vocabulary.idBound)
        return spelling ?? UnsafeBufferPointer(start: nil, count: 0)
    }

    private static func symbol(_ text: UnsafeBufferPointer<UInt8>, _ vocabulary: Vocabulary, _ extra: Vocabulary?)
        -> Int32
    {
        if let id = vocabulary.id(of: text) { return id }
        if let extra, let id = extra.id(of: text) { return id + Int32(vocabulary.idBound) }
        return -1
    }

    // MARK: Words

    /// Replaces `merger.symbols` by the tokens of one word.
    func tokenize(_ word: UnsafeBufferPointer<UInt8>, _ merger: SymbolMerger) {
        merger.symbols.removeAll()
        if ignoresMerges, let id = wholeWord(word) {
            merger.symbols.append(id)
            return
        }
        if isByteLevel { appendBytes(word, merger) } else { appendCharacters(word, merger) }
        merger.merge(merges)
        if extraSymbols != nil { spellExtraSymbols(merger) }
    }

    private func wholeWord(_ word: UnsafeBufferPointer<UInt8>) -> Int32? {
        guard isByteLevel else { return vocabulary.id(of: word) }
        var spelling: [UInt8] = []
        spelling.reserveCapacity(word.count * 2)
        ByteAlphabet.spell(word, into: &spelling)
        return spelling.withUnsafeBufferPointer { vocabulary.id(of: $0) }
    }

    private func appendBytes(_ word: UnsafeBufferPointer<UInt8>, _ merger: SymbolMerger) {
        var pending = false
        for byte in word {
            let id = symbolIDs[Int(byte)]
            if id >= 0 {
                flush(&pending, merger)
                merger.symbols.append(id)
            } else {
                var spelling: [UInt8] = []
                withUnsafeBytes(of: byte) { ByteAlphabet.spell($0.bindMemory(to: UInt8.self), into: &spelling) }
                spelling.withUnsafeBufferPointer { appendUnknown($0, &pending, merger) }
            }
        }
        flush(&pending, merger)
    }

    private func appendCharacters(_ word: UnsafeBufferPointer<UInt8>, _ merger: SymbolMerger) {
        var pending = false
        var index = 0
        while index < word.count {
            let lead = word[index]
            let length = UTF8Text.length(lead)
            let character = UnsafeBufferPointer(rebasing: word[index..<Swift.min(index + length, word.count)])
            let id = lead < 0x80 ? symbolIDs[Int(lead)] : Self.symbol(character, vocabulary, extraSymbols)
            if id >= 0 {
                flush(&pending, merger)
                merger.symbols.append(id)
            } else {
                appendUnknown(character, &pending, merger)
            }
            index += length
        }
        flush(&pending, merger)
    }

    // The order of the unknown token and of byte tokens after it is that of `tokenizers`: an unknown token waits for
    // the next known character, byte tokens do not.
    private func appendUnknown(_ character: UnsafeBufferPointer<UInt8>, _ pending: inout Bool, _ merger: SymbolMerger) {
        if let fallbackIDs, character.allSatisfy({ fallbackIDs[Int($0)] >= 0 }) {
            for byte in character { merger.symbols.append(fallbackIDs[Int(byte)]) }
            return
        }
        guard unknownID >= 0 else { return }
        if pending, !fusesUnknown { merger.symbols.append(unknownID) }
        pending = true
    }

    @inline(__always)
    private func flush(_ pending: inout Bool, _ merger: SymbolMerger) {
        if pending {
            merger.symbols.append(unknownID)
            pending = false
        }
    }

    /// Spells symbols that no merge took up and that are no tokens, by bytes or as unknown.
    private func spellExtraSymbols(_ merger: SymbolMerger) {
        let bound = Int32(vocabulary.idBound)
        let symbols = merger.symbols
        guard (0..<symbols.count).contains(where: { symbols.base[$0] >= bound }) else { return }
        let before = symbols.array
        symbols.removeAll()
        for symbol in before {
            if symbol < bound {
                symbols.append(symbol)
                continue
            }
            var pending = false
            appendUnknown(Self.text(symbol, vocabulary, extraSymbols), &pending, merger)
            flush(&pending, merger)
        }
    }
}
