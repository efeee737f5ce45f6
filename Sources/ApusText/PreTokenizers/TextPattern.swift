/// What a `Split` or `Replace` looks for.
enum TextPattern: Sendable {
    /// These bytes.
    case literal([UInt8])
    /// Each character of a set.
    case characters(CharacterSet)
    /// Each longest run of characters of one of these sets, which do not overlap.
    case runs([CharacterSet])
    /// The leftmost matches of a regular expression.
    case regex(RegexProgram)

    /// The parts of `text`, matched and not, in order and without gaps. `isInverted` swaps the two.
    func parts(of text: UnsafeBufferPointer<UInt8>, isInverted: Bool = false) -> [SplitBehavior.Part] {
        var parts: [SplitBehavior.Part] = []
        var previous = 0
        forEachMatch(in: text) { match in
            if previous < match.lowerBound {
                parts.append(.init(range: previous..<match.lowerBound, isMatch: isInverted))
            }
            parts.append(.init(range: match, isMatch: !isInverted))
            previous = match.upperBound
        }
        if previous < text.count { parts.append(.init(range: previous..<text.count, isMatch: isInverted)) }
        return parts
    }

    /// Calls `body` with the matches from left to right.
    @inline(__always)
    func forEachMatch(in text: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>) -> Void) {
        guard let base = text.baseAddress else { return }
        switch self {
        case .literal(let bytes):
            guard let first = bytes.first else { return }
            var index = 0
            while index + bytes.count <= text.count {
                if base[index] == first,
                    UnsafeBufferPointer(rebasing: text[index..<index + bytes.count]).elementsEqual(bytes)
                {
                    body(index..<index + bytes.count)
                    index += bytes.count
                } else {
                    index += 1
                }
            }
        case .characters(let set):
            var index = 0
            while index < text.count {
                if base[index] < 0x80 {
                    if set.containsASCII(base[index]) { body(index..<index + 1) }
                    index += 1
                    continue
                }
                let (scalar, length) = UTF8Text.decode(base + index)
                if set.contains(scalar) { body(index..<index + length) }
                index += length
            }
        case .runs(let sets):
            var index = 0
            while index < text.count {
                let (scalar, length) = UTF8Text.decode(base + index)
                var end = index + length
                if let set = sets.first(where: { $0.contains(scalar) }) {
                    while end < text.count {
                        let (scalar, length) = UTF8Text.decode(base + end)
                        guard set.contains(scalar) else { break }
                        end += length
                    }
                    body(index..<end)
                }
                index = end
            }
        case .regex(let program): program.forEachMatch(in: text, body)
        }
    }

    /// `text` with `replacement` in place of each match.
    func replacing(_ text: [UInt8], with replacement: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        text.withUnsafeBufferPointer { buffer in
            var previous = 0
            forEachMatch(in: buffer) { match in
                result += buffer[previous..<match.lowerBound]
                result += replacement
                previous = match.upperBound
            }
            result += buffer[previous...]
        }
        return result
    }
}
