/// Reads a stream of server-sent events for what a measurement needs of it: when text came, how many tokens were counted,
/// whether it ended well. Nothing is decoded: the bytes of each event are searched for a few keys.
struct EventScanner {
    /// What an event says.
    enum Event {
        /// New text of the answer.
        case text
        /// Nothing of interest, or an answer's end.
        case other
        case done
        case error(String)
    }

    private var line: [UInt8] = []
    /// The tokens that the server counted, where it told.
    private(set) var promptTokens: Int?
    private(set) var completionTokens: Int?

    private static let lineLimit = 1 << 24

    /// Takes bytes of the body; calls `event` with each event in them.
    mutating func take(_ bytes: ArraySlice<UInt8>, _ event: (Event) -> Void) {
        var rest = bytes
        while let end = rest.firstIndex(of: 0x0A) {
            if line.isEmpty {
                read(rest[rest.startIndex..<end], event)
            } else {
                line += rest[rest.startIndex..<end]
                read(line[...], event)
                line.removeAll(keepingCapacity: true)
            }
            rest = rest[(end + 1)...]
        }
        line += rest
        if line.count > Self.lineLimit {
            line = []
            event(.error("an event of more than \(Self.lineLimit) bytes"))
        }
    }

    private mutating func read(_ line: ArraySlice<UInt8>, _ event: (Event) -> Void) {
        guard line.starts(with: Keys.data) else {
            if line.starts(with: Keys.errorLine) { event(.error(Self.shown(line.dropFirst(Keys.errorLine.count)))) }
            return
        }
        var data = line.dropFirst(Keys.data.count)
        while data.first == 0x20 { data = data.dropFirst() }
        if data.starts(with: Keys.done) { return event(.done) }
        if let place = Self.find(Keys.usage, in: data) {
            promptTokens = Self.number(after: Keys.promptTokens, in: data[place...]) ?? promptTokens
            completionTokens = Self.number(after: Keys.completionTokens, in: data[place...]) ?? completionTokens
        }
        guard Self.find(Keys.choices, in: data) != nil else {
            if Self.find(Keys.error, in: data) != nil { event(.error(Self.shown(data))) }
            return
        }
        event(
            Self.hasText(Keys.text, data) || Self.hasText(Keys.content, data) || Self.hasText(Keys.arguments, data)
                ? .text : .other)
    }

    private static func shown(_ bytes: ArraySlice<UInt8>) -> String {
        String(decoding: bytes.prefix(300), as: UTF8.self)
    }

    /// Whether a key is there with a string that is not empty.
    private static func hasText(_ key: [UInt8], _ data: ArraySlice<UInt8>) -> Bool {
        guard let value = value(of: key, in: data), data[value] == UInt8(ascii: "\"") else { return false }
        return value + 1 < data.endIndex && data[value + 1] != UInt8(ascii: "\"")
    }

    private static func number(after key: [UInt8], in data: ArraySlice<UInt8>) -> Int? {
        guard var place = value(of: key, in: data) else { return nil }
        var result: Int?
        while place < data.endIndex, (48...57).contains(data[place]) {
            result = (result ?? 0) &* 10 &+ Int(data[place] - 48)
            place += 1
        }
        return result
    }

    /// Where the value of a key begins.
    private static func value(of key: [UInt8], in data: ArraySlice<UInt8>) -> Int? {
        guard var place = find(key, in: data) else { return nil }
        place += key.count
        while place < data.endIndex, data[place] == 0x20 { place += 1 }
        guard place < data.endIndex, data[place] == UInt8(ascii: ":") else { return nil }
        place += 1
        while place < data.endIndex, data[place] == 0x20 { place += 1 }
        return place < data.endIndex ? place : nil
    }

    /// The first place of a key in quotes: quotes inside strings are escaped, so that no text can look like one.
    static func find(_ key: [UInt8], in data: ArraySlice<UInt8>) -> Int? {
        data.withUnsafeBufferPointer { bytes in
            let last = bytes.count - key.count
            guard last >= 0 else { return nil }
            var place = 0
            while place <= last {
                if bytes[place] == key[0], bytes[place + 1] == key[1],
                    bytes[place..<place + key.count].elementsEqual(key)
                {
                    return data.startIndex + place
                }
                place += 1
            }
            return nil
        }
    }

    private enum Keys {
        static let data = Array("data:".utf8)
        static let errorLine = Array("error:".utf8)
        static let done = Array("[DONE]".utf8)
        static let usage = Array("\"usage\"".utf8)
        static let promptTokens = Array("\"prompt_tokens\"".utf8)
        static let completionTokens = Array("\"completion_tokens\"".utf8)
        static let choices = Array("\"choices\"".utf8)
        static let error = Array("\"error\"".utf8)
        static let text = Array("\"text\"".utf8)
        static let content = Array("\"content\"".utf8)
        static let arguments = Array("\"arguments\"".utf8)
    }
}
