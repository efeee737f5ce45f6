/// Holds back text that may be the beginning of a stop string, and finds the first stop string that completes.
public struct StopMatcher: Sendable {
    private let stops: [[UInt8]]
    private var pending: [UInt8] = []

    /// A matcher for these strings; empty ones are ignored.
    public init(_ stops: [String]) {
        self.stops = stops.filter { !$0.isEmpty }.map { Array($0.utf8) }
    }

    /// Takes the next piece of output.
    /// - Returns: the text that is safe to show, and whether a stop string completed (nothing after it is shown).
    public mutating func push(_ piece: String) -> (text: String, stopped: Bool) {
        guard !stops.isEmpty else { return (piece, false) }
        pending.append(contentsOf: piece.utf8)
        var first: Int?
        for stop in stops {
            if let at = Self.find(stop, in: pending), at < first ?? Int.max { first = at }
        }
        if let first {
            let text = String(decoding: pending[..<first], as: UTF8.self)
            pending = []
            return (text, true)
        }
        var held = 0
        for stop in stops { held = max(held, Self.overlap(pending, stop)) }
        let text = String(decoding: pending[..<(pending.count - held)], as: UTF8.self)
        pending.removeFirst(pending.count - held)
        return (text, false)
    }

    /// What was held back, when the output ends without a stop string.
    public mutating func finish() -> String {
        defer { pending = [] }
        return String(decoding: pending, as: UTF8.self)
    }

    private static func find(_ needle: [UInt8], in text: [UInt8]) -> Int? {
        guard text.count >= needle.count else { return nil }
        return (0...(text.count - needle.count)).first { start in
            text[start..<(start + needle.count)].elementsEqual(needle)
        }
    }

    /// Length of the longest proper beginning of `stop` that `text` ends with, at a character's border.
    private static func overlap(_ text: [UInt8], _ stop: [UInt8]) -> Int {
        var length = min(text.count, stop.count - 1)
        while length > 0 {
            if text[(text.count - length)...].elementsEqual(stop[..<length]) { return length }
            length -= 1
        }
        return 0
    }
}
