/// Turns ids that come one by one into text, as far as it is certain: no piece it returns ends inside a character.
///
/// The pieces together with that of `finish` are what `Tokenizer.decode` makes of all ids. One exception: a run of
/// byte tokens that begins with whole characters and turns out invalid later; `decode` replaces all of it.
///
/// ```swift
/// var stream = tokenizer.streamingDetokenizer()
/// for id in ids { print(stream.append(id), terminator: "") }
/// print(stream.finish())
/// ```
public struct StreamingDetokenizer: Sendable {
    private enum Strategy {
        /// Bytes of byte-level tokens, up to the last whole character.
        case bytes
        /// Each token by itself through these decoders, then so many leading scalars of one kind off the whole.
        case tokens([Decoder], strip: (scalar: UInt32, count: Int)?)
        /// All ids again each time: right for any decoder, quadratic in their number.
        case all
    }

    private let tokenizer: Tokenizer
    private let skipsSpecial: Bool
    private let strategy: Strategy
    /// Bytes not yet returned: an unfinished character, or a run of byte tokens.
    private var pending: [UInt8] = []
    private var isFirst = true
    private var strippable: Int
    private var ids: [Int32] = []
    private var returned = 0

    init(_ tokenizer: Tokenizer, skipSpecialTokens: Bool) {
        self.tokenizer = tokenizer
        skipsSpecial = skipSpecialTokens
        strategy = Self.strategy(tokenizer.components.decoder)
        if case .tokens(_, let strip?) = strategy { strippable = strip.count } else { strippable = 0 }
    }

    private static func strategy(_ decoder: Decoder?) -> Strategy {
        var decoders: [Decoder]
        switch decoder {
        case .sequence(let all): decoders = all
        case let one?: decoders = [one]
        case nil: return .all
        }
        if decoders.count == 1, case .byteLevel = decoders[0] { return .bytes }
        var strip: (scalar: UInt32, count: Int)?
        if decoders.count > 1, case .strip(let scalar, let start, stop: 0) = decoders[decoders.count - 1],
            case .fuse = decoders[decoders.count - 2]
        {
            strip = (scalar, start)
            decoders.removeLast(2)
        } else if case .fuse = decoders.last {
            decoders.removeLast()
        }
        for decoder in decoders {
            switch decoder {
            case .byteFallback, .replace, .metaspace: continue
            default: return .all
            }
        }
        return .tokens(decoders, strip: strip)
    }

    /// Takes one id; returns the text that is now certain, often one token's, sometimes none.
    public mutating func append(_ id: Int32) -> String {
        guard let spelling = tokenizer.spelling(id) else { return "" }
        if skipsSpecial, tokenizer.isSpecial(id) { return "" }
        switch strategy {
        case .bytes:
            spelling.withUnsafeBufferPointer { ByteAlphabet.appendBytes(spelledBy: $0, to: &pending) }
            let complete = pending.count - Self.unfinished(pending)
            defer { pending.removeSubrange(..<complete) }
            return String(decoding: pending[..<complete], as: UTF8.self)
        case .tokens(let decoders, let strip):
            return emit(decode(spelling, decoders, from: 0), strip)
        case .all:
            ids.append(id)
            return redecode(isLast: false)
        }
    }

    /// Ends the stream: what was held back, with U+FFFD for what is no character.
    public mutating func finish() -> String {
        switch strategy {
        case .bytes:
            defer { pending.removeAll() }
            return String(decoding: pending, as: UTF8.self)
        case .tokens(let decoders, let strip):
            var text: [UInt8] = []
            for index in decoders.indices {
                if case .byteFallback = decoders[index] { text += flush(decoders, from: index + 1) }
            }
            return emit(text, strip)
        case .all: return redecode(isLast: true)
        }
    }

    /// The length of the unfinished character at the end of `bytes`, 0 where there is none.
    private static func unfinished(_ bytes: [UInt8]) -> Int {
        for length in 1...3 where length <= bytes.count {
            let lead = bytes[bytes.count - length]
            if lead & 0xC0 == 0x80 { continue }
            guard lead >= 0xC2, lead <= 0xF4, UTF8Text.length(lead) > length else { return 0 }
            // Completed by the least byte that may follow its lead, it must be valid.
            var whole = Array(bytes.suffix(length))
            if length == 1 { whole.append(lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80) }
            while whole.count < UTF8Text.length(lead) { whole.append(0x80) }
            return whole.withUnsafeBufferPointer { UTF8Text.firstInvalid($0) } == nil ? length : 0
        }
        return 0
    }

    /// One token through the decoders from `index` on.
    private mutating func decode(_ token: [UInt8], _ decoders: [Decoder], from index: Int) -> [UInt8] {
        var token = token
        for place in index..<decoders.count {
            switch decoders[place] {
            case .byteFallback:
                if let byte = ByteFallback.byte(token) {
                    pending.append(byte)
                    let isWhole = pending.withUnsafeBufferPointer { UTF8Text.firstInvalid($0) } == nil
                    return isWhole ? flush(decoders, from: place + 1) : []
                }
                let held = flush(decoders, from: place + 1)
                return held + decode(token, decoders, from: place + 1)
            case .metaspace(let replacement, let skipsFirst):
                token = TextPattern.literal(replacement).replacing(token, with: isFirst && skipsFirst ? [] : [0x20])
                isFirst = false
            default: token = decoders[place].decode([token]).first ?? []
            }
        }
        return token
    }

    private mutating func flush(_ decoders: [Decoder], from index: Int) -> [UInt8] {
        var pieces: [[UInt8]] = []
        ByteFallback.flush(&pending, into: &pieces)
        return pieces.flatMap { decode($0, decoders, from: index) }
    }

    private mutating func emit(_ text: [UInt8], _ strip: (scalar: UInt32, count: Int)?) -> String {
        var text = text
        if let strip, strippable > 0, !text.isEmpty {
            let before = text.count
            text = Decoder.strip(text, strip.scalar, strippable, 0)
            var width: [UInt8] = []
            UTF8Text.append(strip.scalar, to: &width)
            strippable = text.isEmpty ? strippable - before / width.count : 0
        }
        return String(decoding: text, as: UTF8.self)
    }

    private mutating func redecode(isLast: Bool) -> String {
        let text = Array(tokenizer.decode(ids, skipSpecialTokens: skipsSpecial).utf8)
        var end = text.count
        if !isLast { while end >= 3, text[(end - 3)..<end] == [0xEF, 0xBF, 0xBD] { end -= 3 } }
        guard end > returned else { return "" }
        defer { returned = end }
        return String(decoding: text[returned..<end], as: UTF8.self)
    }
}
