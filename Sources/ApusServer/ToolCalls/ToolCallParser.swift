import ApusText

/// Turns a model's answer, as it comes, into content and calls of tools.
///
/// What looks like a call but is none (broken JSON, a name that is no tool's) stays content. In incremental use a call is
/// announced as soon as its name and the beginning of its arguments are known, and arguments follow piece by piece, as in
/// OpenAI's streams; should they break off or go wrong after that, what was sent stands. Where calls are kept whole they
/// are told complete, and a broken one is content.
package struct ToolCallParser: Sendable {
    /// What became known with some text.
    package enum Event: Sendable, Equatable {
        /// Text for the user.
        case content(String)
        /// A call of a tool began: its place among the answer's calls, its identifier and name.
        case call(index: Int, id: String, name: String)
        /// More of the JSON text of a call's arguments.
        case arguments(index: Int, String)
    }

    private enum Mode {
        /// Nothing but white space so far.
        case start
        case content
        case calls
    }

    private let form: ToolCallForm
    private let tools: Set<String>
    private let isIncremental: Bool
    private var mode = Mode.start
    /// Content that may be the beginning of an opener, or white space before one.
    private var held: [UInt8] = []
    private var scanner = ToolCallScanner()
    private var events: [Event] = []
    private var isAnnounced = false
    private var sentArguments = 0

    /// Calls so far.
    package private(set) var callCount = 0

    /// A parser for one answer.
    /// - Parameters:
    ///   - form: how the model writes calls.
    ///   - tools: the names that may be called.
    ///   - isIncremental: whether arguments are told piece by piece.
    package init(form: ToolCallForm, tools: some Sequence<String>, isIncremental: Bool) {
        self.form = form
        self.tools = Set(tools)
        self.isIncremental = isIncremental
    }

    /// Takes the next text of the answer.
    package mutating func push(_ text: String) -> [Event] {
        guard form != .none else { return text.isEmpty ? [] : [.content(text)] }
        for byte in text.utf8 { take(byte) }
        if mode == .content { releaseContent() }
        if mode == .calls { sendArguments() }
        return takeEvents()
    }

    /// What is left when the answer has ended.
    package mutating func finish() -> [Event] {
        if mode == .calls, !isAnnounced, scanner.isOpen || callCount == 0 { held = scanner.raw }
        // White space behind the last call is no content.
        if !held.isEmpty, mode != .start || callCount == 0 { emit(held) }
        held = []
        mode = .content
        return takeEvents()
    }

    private mutating func takeEvents() -> [Event] {
        defer { events = [] }
        return events
    }

    private mutating func emit(_ bytes: some Sequence<UInt8>) {
        let text = String(decoding: Array(bytes), as: UTF8.self)
        if case .content(let before)? = events.last {
            events[events.count - 1] = .content(before + text)
        } else {
            events.append(.content(text))
        }
    }

    // MARK: Content

    private mutating func take(_ byte: UInt8) {
        switch mode {
        case .calls: takeInCalls(byte)
        case .start:
            held.append(byte)
            if Self.isSpace(byte) { return }
            if form.isBare, byte == UInt8(ascii: "{") || (form == .json && byte == UInt8(ascii: "[")) {
                return beginCalls(replaying: [byte])
            }
            mode = .content
            takeOpener()
        case .content:
            held.append(byte)
            takeOpener()
        }
    }

    /// Begins calls where what is held ends with the opener.
    private mutating func takeOpener() {
        let opener = form.opener
        guard !opener.isEmpty, held.last == opener.last, held.count >= opener.count,
            held.suffix(opener.count).elementsEqual(opener)
        else { return }
        var before = held.dropLast(opener.count)
        while let last = before.last, Self.isSpace(last) { before = before.dropLast() }
        if !before.isEmpty { emit(before) }
        held = Array(held[before.endIndex...])
        beginCalls(replaying: [])
    }

    private mutating func beginCalls(replaying bytes: [UInt8]) {
        mode = .calls
        scanner = ToolCallScanner(raw: Array(held.dropLast(bytes.count)))
        held = []
        for byte in bytes { takeInCalls(byte) }
    }

    /// Sends content except what may still turn out to belong to an opener.
    private mutating func releaseContent() {
        let opener = form.opener
        var keep = min(held.count, max(opener.count - 1, 0))
        while keep > 0, !held.suffix(keep).elementsEqual(opener.prefix(keep)) { keep -= 1 }
        while keep < held.count, !opener.isEmpty, Self.isSpace(held[held.count - keep - 1]) {
            keep += 1
        }
        guard keep < held.count else { return }
        emit(held.dropLast(keep))
        held = Array(held.suffix(keep))
    }

    static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

    // MARK: Calls

    private mutating func takeInCalls(_ byte: UInt8) {
        switch scanner.take(byte, closer: form.closer, allowsList: form != .llama3) {
        case .goesOn: break
        case .callEnded: endCall()
        case .closed:
            // After the closing tag white space is no content.
            mode = .content
            held = []
            mode = form.isBare ? .calls : .start
        case .failed: leaveCalls()
        }
    }

    /// What was taken for calls is not one, or not any more.
    private mutating func leaveCalls() {
        var rest = scanner.raw
        if isAnnounced {
            // The call was told already: what it has become so far stands, and the text goes on behind it.
            sendArguments()
            rest = rest.suffix(1)
            closeCall()
        }
        mode = .content
        held = rest
        // The last byte may begin an opener itself, but calls cannot begin twice in what was just read.
        releaseContent()
    }

    private mutating func closeCall() {
        isAnnounced = false
        sentArguments = 0
        callCount += 1
    }

    private mutating func announce(_ name: String) {
        events.append(.call(index: callCount, id: Self.newIdentifier(), name: name))
        isAnnounced = true
    }

    /// Tells what is known of an unfinished call.
    private mutating func sendArguments() {
        guard isIncremental, scanner.isOpen, let name = scanner.name, tools.contains(name),
            let arguments = scanner.arguments, arguments.first == UInt8(ascii: "{")
        else { return }
        if !isAnnounced { announce(name) }
        send(arguments)
    }

    private mutating func send(_ arguments: ArraySlice<UInt8>) {
        let rest = arguments.dropFirst(sentArguments)
        guard !rest.isEmpty else { return }
        sentArguments += rest.count
        events.append(.arguments(index: callCount, String(decoding: rest, as: UTF8.self)))
    }

    private mutating func endCall() {
        guard let name = scanner.name, tools.contains(name), let arguments = finalArguments() else {
            return isAnnounced ? closeCall() : leaveCalls()
        }
        if !isAnnounced { announce(name) }
        send(arguments[...])
        closeCall()
        scanner.forget()
    }

    /// The JSON text of the arguments; nil where they are no object.
    private func finalArguments() -> [UInt8]? {
        guard let raw = scanner.arguments else { return Array("{}".utf8) }
        if isAnnounced { return Array(raw) }
        guard let value = try? JSONValue(parsing: Array(raw)) else { return nil }
        switch value {
        case .object: return Array(raw)
        case .null: return Array("{}".utf8)
        case .string(let text):
            guard let inner = try? JSONValue(parsing: text), inner.objectValue != nil else { return nil }
            return Array(text.utf8)
        default: return nil
        }
    }

    private static func newIdentifier() -> String {
        let letters = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
        return "call_" + String((0..<24).map { _ in letters.randomElement()! })
    }
}
