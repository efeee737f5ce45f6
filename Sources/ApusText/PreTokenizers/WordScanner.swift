/// The patterns of GPT-2, Llama 3 and Qwen 2, which most models share, as hand-written scanners. Each covers its text
/// without gaps, so splitting is: from where one piece ends, find the end of the next.
enum WordScanner: Sendable, Equatable {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    case gpt2
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    /// where n is 3 in Llama 3 and 1 in Qwen 2.
    case llama3(digits: Int)

    static let gpt2Pattern = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#

    /// Llama 3's pattern with `quantifier` after \p{N}.
    static func llama3Pattern(_ quantifier: String) -> String {
        #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"# + quantifier
            + #"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
    }

    /// The scanner of a pattern, or nil where there is none.
    init?(pattern: String) {
        switch pattern {
        case Self.gpt2Pattern: self = .gpt2
        case Self.llama3Pattern("{1,3}"): self = .llama3(digits: 3)
        case Self.llama3Pattern(""): self = .llama3(digits: 1)
        default: return nil
        }
    }
}

/// A text being scanned, with the class table at hand. All functions stay between their start and `end`.
struct WordScan {
    typealias Pointer = UnsafePointer<UInt8>
    private typealias Kind = ScalarClasses.Kind

    private let classes = ScalarClasses.shared.base
    let end: Pointer

    init(end: Pointer) { self.end = end }

    @inline(__always)
    private func kind(_ pointer: Pointer) -> (kind: UInt8, length: Int) {
        if pointer[0] < 0x80 { return (classes[Int(pointer[0])] >> 6, 1) }
        let (scalar, length) = UTF8Text.decode(pointer)
        return (classes[Int(scalar)] >> 6, length)
    }

    /// The end of the run of characters of one kind from `start`.
    @inline(__always)
    private func run(_ start: Pointer, of wanted: UInt8) -> Pointer {
        var pointer = start
        while pointer < end {
            let (kind, length) = kind(pointer)
            guard kind == wanted else { break }
            pointer += length
        }
        return pointer
    }

    /// The end of GPT-2's piece at `start`.
    @inline(__always)
    func gpt2(_ start: Pointer) -> Pointer {
        if start[0] == UInt8(ascii: "'") {
            let length = contraction(start, foldsCase: false)
            if length > 0 { return start + length }
        }
        var body = start
        if start[0] == UInt8(ascii: " "), start + 1 < end {
            let next = kind(start + 1)
            if next.kind != Kind.space { body = start + 1 }
        }
        let (first, length) = kind(body)
        if first != Kind.space { return run(body + length, of: first) }
        return space(start)
    }

    /// The end of Llama 3's piece at `start`, of at most `digits` digits.
    @inline(__always)
    func llama3(_ start: Pointer, digits: Int) -> Pointer {
        if start[0] == UInt8(ascii: "'") {
            let length = contraction(start, foldsCase: true)
            if length > 0 { return start + length }
        }
        let (first, length) = kind(start)
        let second = start + length
        switch first {
        case Kind.letter: return run(second, of: Kind.letter)
        case Kind.number:
            var pointer = second
            var count = 1
            while count < digits, pointer < end {
                let (kind, length) = kind(pointer)
                guard kind == Kind.number else { break }
                pointer += length
                count += 1
            }
            return pointer
        default: break
        }
        let isLineBreak = start[0] == 0x0A || start[0] == 0x0D
        if !isLineBreak, second < end {
            let (next, length) = kind(second)
            if next == Kind.letter { return run(second + length, of: Kind.letter) }
            if start[0] == UInt8(ascii: " "), next == Kind.other {
                return lineBreaks(run(second + length, of: Kind.other))
            }
        }
        if first == Kind.other { return lineBreaks(run(second, of: Kind.other)) }
        return space(start, lineBreaksFirst: true)
    }

    @inline(__always)
    private func lineBreaks(_ start: Pointer) -> Pointer {
        var pointer = start
        while pointer < end, pointer[0] == 0x0A || pointer[0] == 0x0D { pointer += 1 }
        return pointer
    }

    /// The end of `\s+(?!\S)|\s+` at `start`, which is white space; before it `\s*[\r\n]+` where asked.
    private func space(_ start: Pointer, lineBreaksFirst: Bool = false) -> Pointer {
        let runEnd = run(start, of: Kind.space)
        if lineBreaksFirst {
            var pointer = runEnd
            while pointer > start {
                if pointer[-1] == 0x0A || pointer[-1] == 0x0D { return pointer }
                pointer -= 1
            }
        }
        if runEnd == end { return runEnd }
        let last = UTF8Text.previous(runEnd)
        return last > start ? last : runEnd
    }

    /// The length of the contraction at the apostrophe `start`, or 0.
    @inline(never)
    private func contraction(_ start: Pointer, foldsCase: Bool) -> Int {
        let available = end - start
        guard available >= 2 else { return 0 }
        // Ignoring case, the long s (U+017F) is an s.
        if foldsCase, available >= 3, start[1] == 0xC5, start[2] == 0xBF { return 3 }
        let fold: UInt8 = foldsCase ? 0x20 : 0
        let first = start[1] | (start[1] < 0x80 ? fold : 0)
        switch first {
        case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return 2
        case UInt8(ascii: "r"), UInt8(ascii: "v"), UInt8(ascii: "l"):
            guard available >= 3, start[2] < 0x80 else { return 0 }
            let wanted = first == UInt8(ascii: "l") ? UInt8(ascii: "l") : UInt8(ascii: "e")
            return start[2] | fold == wanted ? 3 : 0
        default: return 0
        }
    }
}
