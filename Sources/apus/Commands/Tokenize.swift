import ApusModels
import ApusText
import ArgumentParser

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

    @Flag(help: "Texts are JSON strings, one a line, so that they can hold newlines.")
    var json = false

    @Option(help: ArgumentHelp("Encode this many times and print only the seconds each time took.", valueName: "count"))
    var benchmark: Int?

    func run() throws {
        let tokenizer = try Tokenizer(model: model)
        var input = InputLines()
        if let benchmark { return try measure(Array(try input.rest()), tokenizer, repeats: benchmark) }
        if whole { return try answer(try input.rest(), tokenizer, line: nil) }
        var line = 1
        while let bytes = try input.next() {
            try answer(bytes, tokenizer, line: line)
            line += 1
        }
    }

    private func answer(_ bytes: ArraySlice<UInt8>, _ tokenizer: Tokenizer, line: Int?) throws {
        let answer: String
        do {
            answer = decode ? try text(bytes, tokenizer) : try ids(bytes, tokenizer)
        } catch {
            throw InputError(line: line, reason: "\(error)")
        }
        print(answer)
    }

    private func ids(_ line: ArraySlice<UInt8>, _ tokenizer: Tokenizer) throws -> String {
        let text = json ? Array(try JSONNode(JSONValue(parsing: Array(line)), name: "text").string().utf8)[...] : line
        return "[" + (try encode(text, tokenizer)).map(String.init).joined(separator: ", ") + "]"
    }

    private func encode(_ text: ArraySlice<UInt8>, _ tokenizer: Tokenizer) throws -> [Int32] {
        try text.withUnsafeBytes {
            try tokenizer.encode(utf8: $0, addSpecialTokens: special, parseSpecialTokens: !plain)
        }
    }

    private func text(_ line: ArraySlice<UInt8>, _ tokenizer: Tokenizer) throws -> String {
        let array = JSONNode(try JSONValue(parsing: Array(line)), name: "ids")
        let ids = try array.elements().map { Int32(try $0.int(in: 0...(tokenizer.idBound - 1))) }
        let text = tokenizer.decode(ids, skipSpecialTokens: !special)
        return json ? JSONValue.string(text).serialized() : text
    }

    private func measure(_ text: [UInt8], _ tokenizer: Tokenizer, repeats: Int) throws {
        for _ in 0..<repeats {
            let clock = ContinuousClock()
            let start = clock.now
            let count = try encode(text[...], tokenizer).count
            let seconds = (clock.now - start) / Duration.seconds(1)
            print(JSONValue.object(["seconds": .double(seconds), "tokens": .integer(Int64(count))]).serialized())
        }
    }
}
