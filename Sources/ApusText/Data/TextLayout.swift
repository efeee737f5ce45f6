/// How documents stand in files of text.
public struct TextLayout: Sendable, Hashable {
    /// What a file holds.
    public enum Form: Sendable, Hashable {
        /// JSON Lines where the file is called so (`.jsonl` or `.ndjson`, perhaps with `.gz` or `.zst`), else text.
        case byName
        /// Text: one document, or several with a marker between them.
        case text
        /// A JSON object a line, each a document.
        case jsonLines
    }

    /// What a file holds.
    public var form: Form
    /// A line that is exactly this ends a document in text; empty for none.
    public var separator: String
    /// The member of a JSON object that holds a document's text.
    public var field: String

    /// A layout; by default text with `<|endoftext|>` between documents, or rows with the member `text`.
    public init(form: Form = .byName, separator: String = "<|endoftext|>", field: String = "text") {
        self.form = form
        self.separator = separator
        self.field = field
    }

    /// Whether the file at `path` holds JSON Lines.
    public func isJSONLines(_ path: String) -> Bool {
        switch form {
        case .text: return false
        case .jsonLines: return true
        case .byName:
            var name = path.lowercased()
            for suffix in [".gz", ".zst", ".zstd"] where name.hasSuffix(suffix) { name.removeLast(suffix.count) }
            return name.hasSuffix(".jsonl") || name.hasSuffix(".ndjson")
        }
    }
}

/// Consecutive pieces of a corpus, about as much as one worker does at once. Not yet checked: that is the worker's part.
public struct TextBlock: Sendable {
    /// A document, or a part of a long one.
    public struct Piece: Sendable, Equatable {
        /// Its bytes in the block: text, or a row of JSON.
        public var range: Range<Int>
        /// Whether the document starts here.
        public var startsDocument: Bool
        /// Whether the document ends here.
        public var endsDocument: Bool
        /// The number of the document in its file, from 0.
        public var document: Int
        /// Where it starts in the file's text, in bytes.
        public var offset: Int
        /// The line of a row, from 1; 0 for text.
        public var line: Int
    }

    /// The file that the pieces come from.
    public let file: String
    /// The bytes of all pieces.
    public internal(set) var bytes: [UInt8] = []
    /// The pieces in order.
    public internal(set) var pieces: [Piece] = []
    let field: String

    /// Calls `body` with each piece's text, which is valid UTF-8.
    /// - Throws: ``TextDataError`` for the first piece that is no text, or no row with the field; what `body` throws.
    public func forEachText(_ body: (Piece, UnsafeRawBufferPointer) throws -> Void) throws {
        try bytes.withUnsafeBytes { all in
            for piece in pieces {
                let bytes = UnsafeRawBufferPointer(rebasing: all[piece.range])
                if piece.line > 0 {
                    var text = try row(bytes, line: piece.line)
                    try text.withUTF8 { try body(piece, UnsafeRawBufferPointer($0)) }
                } else {
                    try check(bytes, offset: piece.offset)
                    try body(piece, bytes)
                }
            }
        }
    }

    private func check(_ text: UnsafeRawBufferPointer, offset: Int) throws(TextDataError) {
        if let zero = text.firstIndex(of: 0) { throw .binary(file: file, offset: offset + zero) }
        if let wrong = UTF8Text.firstInvalid(text.bindMemory(to: UInt8.self)) {
            throw .invalidUTF8(file: file, offset: offset + wrong, byte: text[wrong])
        }
    }

    private func row(_ bytes: UnsafeRawBufferPointer, line: Int) throws(TextDataError) -> String {
        let value: JSONValue
        do {
            value = try JSONValue(parsing: bytes)
        } catch {
            throw .row(file: file, line: line, expected: "a JSON object", found: "\(error)")
        }
        guard let object = value.objectValue else {
            throw .row(file: file, line: line, expected: "a JSON object", found: value.kind)
        }
        guard let text = object[field]?.stringValue else {
            let found = object[field].map(\.kind) ?? "the members \(object.keys.joined(separator: ", "))"
            throw .row(file: file, line: line, expected: "a string under \"\(field)\"", found: found)
        }
        return text
    }
}
