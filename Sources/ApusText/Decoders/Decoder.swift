/// Turns tokens back into text, as the `decoder` of a `tokenizer.json` says. Tokens and results are valid UTF-8.
indirect enum Decoder: Sendable {
    case byteLevel
    case byteFallback
    case fuse
    case strip(UInt32, start: Int, stop: Int)
    case replace(TextPattern, by: [UInt8])
    /// `skipsFirst`: the replacement vanishes from the first token instead of becoming a space.
    case metaspace([UInt8], skipsFirst: Bool)
    case sequence([Decoder])

    /// The decoded pieces, whose concatenation is the text.
    func decode(_ tokens: [[UInt8]]) -> [[UInt8]] {
        switch self {
        case .byteLevel:
            var bytes: [UInt8] = []
            for token in tokens {
                token.withUnsafeBufferPointer { ByteAlphabet.appendBytes(spelledBy: $0, to: &bytes) }
            }
            return [Array(String(decoding: bytes, as: UTF8.self).utf8)]
        case .byteFallback:
            var result: [[UInt8]] = []
            var run: [UInt8] = []
            for token in tokens {
                if let byte = ByteFallback.byte(token) {
                    run.append(byte)
                } else {
                    ByteFallback.flush(&run, into: &result)
                    result.append(token)
                }
            }
            ByteFallback.flush(&run, into: &result)
            return result
        case .fuse: return [Array(tokens.joined())]
        case .strip(let scalar, let start, let stop): return tokens.map { Self.strip($0, scalar, start, stop) }
        case .replace(let pattern, let content): return tokens.map { pattern.replacing($0, with: content) }
        case .metaspace(let replacement, let skipsFirst):
            return tokens.enumerated().map { index, token in
                TextPattern.literal(replacement).replacing(token, with: index == 0 && skipsFirst ? [] : [0x20])
            }
        case .sequence(let decoders): return decoders.reduce(tokens) { $1.decode($0) }
        }
    }

    static func strip(_ token: [UInt8], _ scalar: UInt32, _ start: Int, _ stop: Int) -> [UInt8] {
        var content: [UInt8] = []
        UTF8Text.append(scalar, to: &content)
        var result = token[...]
        for _ in 0..<start {
            guard result.starts(with: content) else { break }
            result = result.dropFirst(content.count)
        }
        for _ in 0..<stop {
            guard result.suffix(content.count).elementsEqual(content) else { break }
            result = result.dropLast(content.count)
        }
        return Array(result)
    }
}

/// Byte tokens, `<0x0A>`, and runs of them.
enum ByteFallback {
    /// The byte that a token stands for, or nil.
    static func byte(_ token: [UInt8]) -> UInt8? {
        guard token.count == 6, token.starts(with: [0x3C, 0x30, 0x78]), token[5] == 0x3E else { return nil }
        // As Rust's parser has it, a plus sign before one digit counts.
        let digits = String(decoding: token[3..<5], as: UTF8.self)
        return UInt8(digits, radix: 16)
    }

    /// Ends a run of bytes: their text, or U+FFFD for each where they are not UTF-8.
    static func flush(_ run: inout [UInt8], into result: inout [[UInt8]]) {
        guard !run.isEmpty else { return }
        if run.withUnsafeBufferPointer({ UTF8Text.firstInvalid($0) }) == nil {
            result.append(run)
        } else {
            for _ in run { result.append([0xEF, 0xBF, 0xBD]) }
        }
        run.removeAll()
    }
}
