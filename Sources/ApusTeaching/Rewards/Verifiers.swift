import ApusText

/// Whether the output is the prompt's answer: 1 or 0.
public struct ExactAnswer: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name = "exact"

    /// A verifier.
    public init() {}

    /// See ``RewardFunction/rewards(of:prompt:)``: white space at both ends does not count.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        guard let answer = prompt.answer else { throw RewardError.noAnswer(verifier: name) }
        return outputs.map { Self.trimmed($0) == Self.trimmed(answer) ? 1 : 0 }
    }

    static func trimmed(_ text: String) -> Substring {
        var text = text[...]
        while text.first?.isWhitespace == true { text.removeFirst() }
        while text.last?.isWhitespace == true { text.removeLast() }
        return text
    }
}

/// Whether the last number of the output equals the number in the prompt's answer (after `####` where it has that, as
/// GSM8K's have): 1 or 0.
public struct NumericAnswer: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name = "number"

    /// A verifier.
    public init() {}

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        guard let answer = prompt.answer, let expected = Self.number(answer) else {
            throw RewardError.noAnswer(verifier: name)
        }
        return outputs.map { Self.number($0) == expected ? 1 : 0 }
    }

    /// The number after the last `####`, or else the last number of a text; commas between digits do not count.
    static func number(_ text: String) -> Double? {
        let bytes = Array(text.utf8)
        var start = 0
        if bytes.count >= 4 {
            for index in stride(from: bytes.count - 4, through: 0, by: -1)
            where bytes[index..<index + 4].allSatisfy({ $0 == UInt8(ascii: "#") }) {
                start = index + 4
                break
            }
        }
        return lastNumber(bytes[start...]) ?? (start > 0 ? lastNumber(bytes[...]) : nil)
    }

    private static func lastNumber(_ bytes: ArraySlice<UInt8>) -> Double? {
        func isDigit(_ index: Int) -> Bool {
            bytes.indices.contains(index) && (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[index])
        }
        guard var end = bytes.indices.last(where: { isDigit($0) }) else { return nil }
        end += 1
        var start = end - 1
        var hasPoint = false
        while start > bytes.startIndex {
            let before = start - 1
            if isDigit(before) {
                start = before
            } else if bytes[before] == UInt8(ascii: ","), isDigit(before - 1) {
                start = before
            } else if bytes[before] == UInt8(ascii: "."), !hasPoint, isDigit(before - 1) {
                hasPoint = true
                start = before
            } else {
                break
            }
        }
        if start > bytes.startIndex, bytes[start - 1] == UInt8(ascii: "-"), !isDigit(start - 2) { start -= 1 }
        return Double(String(decoding: bytes[start..<end].filter { $0 != UInt8(ascii: ",") }, as: UTF8.self))
    }
}

/// Whether a regular expression is found in the output: 1 or 0.
///
/// Unchecked Sendable: the compiled expression is never changed.
public struct PatternReward: RewardFunction, @unchecked Sendable {
    /// See ``RewardFunction/name``.
    public let name: String
    private let pattern: Regex<AnyRegexOutput>

    /// A verifier for a pattern in Swift's (and mostly PCRE's) syntax.
    /// - Throws: ``RewardError/pattern(_:problem:)``.
    public init(_ pattern: String) throws {
        name = "pattern \(pattern)"
        do {
            self.pattern = try Regex(pattern)
        } catch {
            throw RewardError.pattern(pattern, problem: "\(error)")
        }
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        outputs.map { $0.firstMatch(of: pattern) == nil ? 0 : 1 }
    }
}

/// Minus the distance of the output's length from a wanted one, in words, over the wanted one: 0 at best.
public struct LengthReward: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name: String
    private let words: Int

    /// A reward for outputs of about so many words.
    ///
    /// Precondition: at least one.
    public init(words: Int) {
        precondition(words >= 1)
        self.words = words
        name = "length \(words)"
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        outputs.map { -Double(abs($0.split(whereSeparator: \.isWhitespace).count - words)) / Double(words) }
    }
}
