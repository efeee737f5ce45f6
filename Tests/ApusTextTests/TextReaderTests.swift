import ApusText
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct TextReaderTests {
    @Test func markersSeparateDocuments() throws {
        let text = """


            First book.

            Its <|endoftext|> stays.

            <|endoftext|>\r


            <|endoftext|>

            Second book.
            <|endoftext|> not alone
            <|endoftext|>
            """
        #expect(
            try documents(text) == [
                "First book.\n\nIts <|endoftext|> stays.", "Second book.\n<|endoftext|> not alone",
            ])
        #expect(try documents("a\n***\nb\n<|endoftext|>", TextLayout(separator: "***")) == ["a", "b\n<|endoftext|>"])
        #expect(try documents("a\n\nb\n", TextLayout(separator: "")) == ["a\n\nb"])
        #expect(try documents("\u{FEFF}<|endoftext|>\nx") == ["x"])
    }

    @Test func rowsAreDocuments() throws {
        let rows = #"""
            {"text": "one\nline", "id": 1}

            {"id": 2, "text": "Ünïcode \u00e9"}
            """#
        #expect(try documents(rows, name: "a.jsonl") == ["one\nline", "Ünïcode é"])
        #expect(try documents(#"{"t": "x"}"#, TextLayout(form: .jsonLines, field: "t")) == ["x"])
        #expect(try documents(#"{"t": "x"}"#, TextLayout(form: .text), name: "a.jsonl") == [#"{"t": "x"}"#])
    }

    @Test func longDocumentsComeInPiecesCutWherePreTokenizersCut() throws {
        let long = String(repeating: "Some words, and 2 numbers:\n\n  then the rest. ", count: 60_000)
        let pieces = try withText(long + "\n<|endoftext|>\nshort") { path in try readAll(TextReader(path: path)) }
        #expect(pieces.count > 4)
        #expect(pieces.filter(\.piece.startsDocument).count == 2)
        #expect(pieces.filter(\.piece.endsDocument).count == 2)
        #expect(pieces.dropLast().map(\.text).joined() == long)
        for piece in pieces.dropFirst().dropLast() {
            let start = piece.text.prefix(2)
            #expect(start.first == " " && start.last?.isLetter == true)
        }
        let trained = try BPETrainer(vocabularySize: 400).train([String(long.prefix(5000))])
        let tokenizer = try trained.tokenizer()
        #expect(pieces.dropLast().flatMap { tokenizer.encode($0.text) } == tokenizer.encode(long))
        // Nowhere a space: whole characters all the same.
        let dense = String(repeating: "雨燕", count: 300_000)
        #expect(try documents(dense) == [dense])
    }

    @Test func longRowsStayWhole() throws {
        let row = #"{"text": ""# + String(repeating: "word ", count: 300_000) + #""}"#
        let found = try documents(row + "\n" + row, name: "x.jsonl")
        #expect(found.count == 2 && found[1].count == 1_500_000)
    }

    @Test func whatIsNoTextIsAnErrorWithItsPlace() throws {
        func message(_ bytes: [UInt8], _ layout: TextLayout = TextLayout()) throws -> String {
            try withText(bytes) { path in
                let error = #expect(throws: TextDataError.self) {
                    _ = try readAll(TextReader(path: path, layout: layout))
                }
                return error?.description.replacing(path, with: "F") ?? ""
            }
        }
        #expect(try message([]) == "F: expected text, found none")
        #expect(try message(Array("\n<|endoftext|>\n\n".utf8)) == "F: expected text, found none")
        #expect(try message(Array("ab\n".utf8) + [0xC3, 0x28]).hasSuffix("found byte 0xC3 at byte 3 of the text"))
        #expect(
            try message(Array("<|endoftext|>\nab".utf8) + [0, 1]).hasSuffix(
                "found a zero byte (binary data) at byte 16 of the text"))
        let rows = TextLayout(form: .jsonLines)
        #expect(
            try message(Array("{\"text\": \"a\"}\n[1]".utf8), rows) == "F, line 2: expected a JSON object, found array")
        #expect(
            try message(Array("\n{\"txt\": \"a\"}".utf8), rows)
                == "F, line 2: expected a string under \"text\", found the members txt")
        #expect(try message(Array("{\"text\": \"a\"".utf8), rows).hasPrefix("F, line 1: expected a JSON object, found"))
    }
}

private func readAll(_ reader: TextReader) throws -> [(piece: TextBlock.Piece, text: String)] {
    var result: [(piece: TextBlock.Piece, text: String)] = []
    while let block = try reader.next() {
        try block.forEachText { piece, text in result.append((piece, String(decoding: text, as: UTF8.self))) }
    }
    return result
}

private func documents(_ text: String, _ layout: TextLayout = TextLayout(), name: String = "text") throws -> [String] {
    try withText(text, name: name) { path in
        var result: [String] = []
        for (piece, text) in try readAll(TextReader(path: path, layout: layout)) {
            #expect(piece.startsDocument == (piece.document == result.count))
            if piece.startsDocument { result.append(text) } else { result[result.count - 1] += text }
        }
        return result
    }
}

private func withText<R>(_ text: String, name: String = "text", _ body: (String) throws -> R) throws -> R {
    try withText(Array(text.utf8), name: name, body)
}

private func withText<R>(_ bytes: [UInt8], name: String = "text", _ body: (String) throws -> R) throws -> R {
    let path = FileManager.default.temporaryDirectory.path + "/apus-\(UInt64.random(in: 0 ... .max))-\(name)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try Data(bytes).write(to: URL(filePath: path))
    return try body(path)
}
