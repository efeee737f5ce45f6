/// Rewrites text before it is split, as the `normalizer` of a `tokenizer.json` says.
indirect enum Normalizer: Sendable {
    case unicode(NormalizationForm)
    case lowercase
    case stripAccents
    case strip(left: Bool, right: Bool)
    case replace(TextPattern, by: [UInt8])
    case prepend([UInt8])
    /// SentencePiece's clean-up: control characters go, odd spaces become spaces.
    case nmt
    /// The characters of `ByteAlphabet` in place of the bytes.
    case spellBytes
    case sequence([Normalizer])

    /// The normalised text, or nil where it is the text itself.
    func normalize(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
        guard text.count > 0 else { return nil }
        switch self {
        case .unicode(let form): return form.normalize(text)
        case .lowercase: return mapScalars(text) { scalar, result in CaseMapping.appendLowercase(scalar, to: &result) }
        case .stripAccents:
            return mapScalars(text) { scalar, result in
                if !CharacterSet.combiningMark.contains(scalar) { UTF8Text.append(scalar, to: &result) }
            }
        case .strip(let left, let right): return strip(text, left, right)
        case .replace(let pattern, let content): return pattern.replacing(Array(text), with: content)
        case .prepend(let prefix): return prefix + text
        case .nmt: return mapScalars(text, Self.clean)
        case .spellBytes:
            var result: [UInt8] = []
            ByteAlphabet.spell(text, into: &result)
            return result
        case .sequence(let normalizers):
            var current: [UInt8]?
            for normalizer in normalizers {
                let next =
                    current.map { $0.withUnsafeBufferPointer(normalizer.normalize) } ?? normalizer.normalize(text)
                if let next { current = next }
            }
            return current
        }
    }

    private func mapScalars(
        _ text: UnsafeBufferPointer<UInt8>, _ body: (UInt32, inout [UInt8]) -> Void
    ) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(text.count)
        var index = 0
        while index < text.count {
            let (scalar, length) = UTF8Text.decode(text.baseAddress! + index)
            body(scalar, &result)
            index += length
        }
        return result
    }

    private func strip(_ text: UnsafeBufferPointer<UInt8>, _ left: Bool, _ right: Bool) -> [UInt8] {
        let base = text.baseAddress!
        var start = 0
        var end = text.count
        while left, start < end {
            let (scalar, length) = UTF8Text.decode(base + start)
            guard CharacterSet.whiteSpace.contains(scalar) else { break }
            start += length
        }
        while right, end > start {
            let last = UTF8Text.previous(base + end)
            guard CharacterSet.whiteSpace.contains(UTF8Text.decode(last).scalar) else { break }
            end = last - base
        }
        return Array(text[start..<end])
    }

    private static func clean(_ scalar: UInt32, _ result: inout [UInt8]) {
        switch scalar {
        case 0x1...0x8, 0xB, 0xE...0x1F, 0x7F, 0x8F, 0x9F: break
        case 0x9, 0xA, 0xC, 0xD, 0x1680, 0x200B...0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD:
            result.append(UInt8(ascii: " "))
        default: UTF8Text.append(scalar, to: &result)
        }
    }
}

/// Lower case as `tokenizers` has it: scalar by scalar, without context.
enum CaseMapping {
    static func appendLowercase(_ scalar: UInt32, to result: inout [UInt8]) {
        if scalar < 0x80 {
            result.append(scalar >= 0x41 && scalar <= 0x5A ? UInt8(scalar | 0x20) : UInt8(scalar))
        } else if let scalar = Unicode.Scalar(scalar) {
            result.append(contentsOf: scalar.properties.lowercaseMapping.utf8)
        }
    }
}
