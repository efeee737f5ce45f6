#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Reads one file of a corpus as blocks of documents, in bounded memory: some blocks for text, the longest row for JSON
/// Lines.
///
/// The blocks depend on the file and the layout alone, so their number is a place to go on from. A document longer than
/// a block comes in several pieces, cut before a space between two ASCII letters where there is one: there every
/// byte-level pre-tokenizer cuts, too, so the tokens are those of the whole document.
public final class TextReader {
    /// Bytes of a block: it ends with the first piece that reaches them.
    public static let blockSize = 1 << 19
    /// Bytes of a row at most.
    public static let largestRow = 1 << 26

    /// Bytes of the file itself that have been read.
    public var fileOffset: Int { source.fileOffset }
    /// The file's own size in bytes.
    public var fileByteCount: Int { source.fileByteCount }

    private let source: ByteSource
    private let layout: TextLayout
    private let isJSONLines: Bool
    private let separator: [UInt8]

    private var buffer: [UInt8] = []
    private var start = 0
    private var isAtEnd = false
    /// Bytes of text before `buffer[start]`.
    private var offset = 0
    private var line = 1
    private var document = 0
    private var isInsideDocument = false
    private var isAtLineStart = true

    /// Opens a file.
    /// - Throws: ``TextDataError``.
    public init(path: String, layout: TextLayout = TextLayout()) throws(TextDataError) {
        source = try ByteSource(path: path)
        self.layout = layout
        isJSONLines = layout.isJSONLines(path)
        separator = Array(layout.separator.utf8)
        try fill(3)
        if buffer.starts(with: [0xEF, 0xBB, 0xBF]) { skip(3) }
    }

    /// The next block, or nil at the end.
    /// - Throws: ``TextDataError``, `empty` at the end of a file without documents.
    public func next() throws(TextDataError) -> TextBlock? {
        var block = TextBlock(file: source.path, field: layout.field)
        while block.bytes.count < Self.blockSize {
            let more = isJSONLines ? try appendRow(&block) : try appendText(&block)
            if !more { break }
        }
        if !block.pieces.isEmpty { return block }
        guard document > 0 else { throw .empty(file: source.path) }
        return nil
    }

    // MARK: Rows

    private func appendRow(_ block: inout TextBlock) throws(TextDataError) -> Bool {
        var searched = start
        var end: Int?
        while true {
            end = find(newlineFrom: searched)
            if end != nil || isAtEnd { break }
            guard buffer.count - start <= Self.largestRow else {
                throw .row(
                    file: source.path, line: line, expected: "a row of at most \(Self.largestRow) bytes",
                    found: "a longer one")
            }
            searched = buffer.count - start
            try fill(searched + 1)
            searched += start
        }
        let stop = end ?? buffer.count
        guard start < stop || end != nil else { return false }
        if buffer[start..<stop].contains(where: { !Self.isSpace($0) }) {
            append(start..<stop, to: &block, endsDocument: true, line: line)
        }
        skip(stop - start + (end == nil ? 0 : 1))
        line += 1
        return true
    }

    // MARK: Text

    private func appendText(_ block: inout TextBlock) throws(TextDataError) -> Bool {
        try fill(2 * Self.blockSize + separator.count + 4)
        if !isInsideDocument { skipNewlines() }
        guard start < buffer.count else {
            guard isInsideDocument else { return false }
            append(start..<start, to: &block, endsDocument: true)
            return true
        }
        let limit = min(buffer.count, start + 2 * Self.blockSize)
        if let marker = findMarker(before: limit) {
            endDocument(at: marker.lowerBound, &block)
            skip(marker.upperBound - start)
            isAtLineStart = true
        } else if isAtEnd, limit == buffer.count {
            endDocument(at: limit, &block)
            skip(limit - start)
        } else {
            let cut = cut(before: limit)
            append(start..<cut, to: &block, endsDocument: false)
            isAtLineStart = buffer[cut - 1] == UInt8(ascii: "\n")
            skip(cut - start)
        }
        return true
    }

    private func endDocument(at end: Int, _ block: inout TextBlock) {
        var stop = end
        while stop > start, Self.isNewline(buffer[stop - 1]) { stop -= 1 }
        // Nothing between two markers is no document.
        if stop > start || isInsideDocument { append(start..<stop, to: &block, endsDocument: true) }
    }

    /// The next line that is the separator, with its newline, if it starts before `limit`.
    private func findMarker(before limit: Int) -> Range<Int>? {
        guard !separator.isEmpty else { return nil }
        var place = start
        if !isAtLineStart {
            guard let newline = find(newlineFrom: place) else { return nil }
            place = newline + 1
        }
        while place < limit {
            let end = find(newlineFrom: place)
            var stop = end ?? buffer.count
            if stop > place, buffer[stop - 1] == UInt8(ascii: "\r") { stop -= 1 }
            if stop - place == separator.count, buffer[place..<stop].elementsEqual(separator) {
                return place..<(end.map { $0 + 1 } ?? buffer.count)
            }
            guard let end else { return nil }
            place = end + 1
        }
        return nil
    }

    /// Where to cut a long document: in the second half before `limit`.
    private func cut(before limit: Int) -> Int {
        let first = start + Self.blockSize
        for place in first..<limit - 1 where buffer[place] == UInt8(ascii: " ") {
            if Self.isLetter(buffer[place - 1]), Self.isLetter(buffer[place + 1]) { return place }
        }
        if let newline = find(newlineFrom: first), newline + 1 < limit { return newline + 1 }
        var place = limit
        while place > first, buffer[place] & 0xC0 == 0x80 { place -= 1 }
        return place
    }

    // MARK: The buffer

    private func append(_ range: Range<Int>, to block: inout TextBlock, endsDocument: Bool, line: Int = 0) {
        let begin = block.bytes.count
        block.bytes += buffer[range]
        block.pieces.append(
            TextBlock.Piece(
                range: begin..<block.bytes.count, startsDocument: !isInsideDocument, endsDocument: endsDocument,
                document: document, offset: offset, line: line))
        isInsideDocument = !endsDocument
        if endsDocument { document += 1 }
    }

    /// Reads until `count` bytes are there, or the end is.
    private func fill(_ count: Int) throws(TextDataError) {
        guard buffer.count - start < count, !isAtEnd else { return }
        if start > 0 {
            buffer.removeSubrange(..<start)
            start = 0
        }
        while buffer.count < count, !isAtEnd { isAtEnd = try !source.append(to: &buffer) }
    }

    private func skip(_ count: Int) {
        start += count
        offset += count
    }

    private func skipNewlines() {
        while start < buffer.count, Self.isNewline(buffer[start]) {
            skip(1)
            isAtLineStart = true
        }
    }

    private func find(newlineFrom place: Int) -> Int? {
        buffer.withUnsafeBytes { bytes in
            guard place < bytes.count, let base = bytes.baseAddress else { return nil }
            return memchr(base + place, 0x0A, bytes.count - place).map { UnsafeRawPointer($0) - base }
        }
    }

    private static func isNewline(_ byte: UInt8) -> Bool { byte == 0x0A || byte == 0x0D }
    private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }
    private static func isLetter(_ byte: UInt8) -> Bool { (0x61...0x7A).contains(byte | 0x20) }
}
