import ApusText
import ArgumentParser

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// `apus tokenize`: text to token ids and back.
struct Tokenize: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Turn text into token ids, or ids back into text.",
        discussion: """
            Reads lines from standard input and writes one JSON array of ids a line; with --decode reads such arrays \
            and writes one text a line. A line's own newline is not part of it.

            EXAMPLES
              echo 'Hello there' | apus tokenize SmolLM2/tokenizer.json
              apus tokenize model.gguf --whole < book.txt
              echo '[19556, 665]' | apus tokenize model.gguf --decode
            """)

    @Argument(help: "A tokenizer.json, a folder that holds one, or a GGUF file.")
    var model: String

    @Flag(help: "Turn arrays of ids into text.")
    var decode = false

    @Flag(help: "Add the special tokens that the model expects around a text; with --decode, write special tokens.")
    var special = false

    @Flag(help: "Take all of standard input as one text.")
    var whole = false

    @Flag(help: "Take special tokens in the text as ordinary text.")
    var plain = false

    func run() throws {
        let tokenizer = try loadTokenizer(model)
        var input = InputLines()
        var line = 0
        while let bytes = whole ? input.rest() : input.next() {
            line += 1
            do {
                if decode {
                    StandardOutput.write(text(try ids(bytes), tokenizer) + "\n")
                } else {
                    StandardOutput.write(try encode(bytes, tokenizer) + "\n")
                }
            } catch {
                StandardOutput.flush()
                throw ValidationError("standard input, line \(line): \(error)")
            }
        }
        StandardOutput.flush()
    }

    private func encode(_ bytes: [UInt8], _ tokenizer: Tokenizer) throws -> String {
        let ids = try bytes.withUnsafeBytes {
            try tokenizer.encode(utf8: $0, addSpecialTokens: special, parseSpecialTokens: !plain)
        }
        return "[" + ids.map(String.init).joined(separator: ", ") + "]"
    }

    private func ids(_ bytes: [UInt8]) throws -> [Int32] {
        try JSONNode(try JSONValue(parsing: bytes), name: "ids").elements().map { Int32(try $0.int(in: 0...Int(Int32.max))) }
    }

    private func text(_ ids: [Int32], _ tokenizer: Tokenizer) -> String {
        tokenizer.decode(ids, skipSpecialTokens: !special)
    }
}

/// The tokenizer of a tokenizer.json, of a folder that holds one, or of a GGUF file.
func loadTokenizer(_ path: String) throws -> Tokenizer { try Tokenizer(contentsOf: path) }
