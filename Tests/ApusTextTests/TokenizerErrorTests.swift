import ApusText
import Testing

/// Bad files give errors that say what and where.
@Suite struct TokenizerErrors {
    static let base = TokenizerBasics.json

    static func message(_ json: String) -> String? {
        var json = json
        do {
            _ = try json.withUTF8 { try Tokenizer(tokenizerJSON: UnsafeRawBufferPointer($0)) }
            return nil
        } catch {
            return "\(error)"
        }
    }

    @Test(
        arguments: [
            ("\"BPE\"", "\"Unigram\"", "tokenizer.json: expected a supported component, found model \"Unigram\""),
            (
                "\"type\": \"ByteLevel\", \"add_prefix_space\": false", "\"type\": \"BertPreTokenizer\"",
                "pre-tokenizer \"BertPreTokenizer\""
            ),
            ("\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"WordPiece\"", "decoder \"WordPiece\""),
            (
                "\"pre_tokenizer\"", "\"normalizer\": {\"type\": \"Precompiled\"}, \"pre_tokenizer\"",
                "normalizer \"Precompiled\""
            ),
            (
                "\"pre_tokenizer\"", "\"post_processor\": {\"type\": \"Other\"}, \"pre_tokenizer\"",
                "post-processor \"Other\""
            ),
            ("\"1.0\"", "\"2.0\"", "version \"2.0\""),
            ("\"b\": 2", "\"b\": 99999999999", "expected a token id from 0 to 4194303, found 99999999999"),
            ("\"b\": 2", "\"b\": -1", "expected a token id from 0 to 4194303, found -1"),
            ("\"b\": 2", "\"b\": 1", "found b with id 1 again"),
            ("\"b\": 2", "\"a\": 2", "found a with id 2 again"),
            ("\"b\": 2", "\"b\": \"2\"", "expected an integer, found '\"'"),
            ("\"b\": 2", "\"b\": 2.5", "expected an integer"),
            ("\"a b\"", "\"a x\"", "merge 0: expected a token of the vocabulary, found x"),
            ("\"a b\"", "\"b a\"", "merge 0: expected a token of the vocabulary, found ba"),
            ("\"Ġ ab\"", "\"Ġ a b\"", "merge 1: expected two tokens with one space between them, found \"Ġ a b\""),
            ("\"Ġ ab\"", "[\"Ġ\"]", "expected a merge of two tokens"),
            ("\"Ġ ab\"", "[\"\", \"ab\"]", "merge 1: expected a merge of two tokens, found an empty one"),
            ("\"Ġ ab\"", "7", "expected an array, found '7'"),
            ("\"merges\"", "\"mergers\"", "model.merges: expected an array of merges, found nothing"),
            ("\"vocab\"", "\"vocabulary\"", "model.vocab: expected an object of tokens and ids, found nothing"),
            ("\"BPE\"", "\"BPE\", \"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix \"</w>\""),
            ("\"special\": true", "\"special\": 1", "added_tokens[0].special: expected a boolean, found integer 1"),
            ("\"content\": \"<s>\"", "\"content\": null", "added_tokens[0].content: expected a string"),
            ("\"id\": 0", "\"id\": 5000000", "added_tokens[0].id: expected an integer from 0 to 4194303"),
            (
                "{\"type\": \"ByteLevel\", \"add_prefix_space\": false",
                "{\"type\": \"Metaspace\", \"replacement\": \"xy\"", "expected one character"
            ),
            (
                "{\"type\": \"ByteLevel\", \"add_prefix_space\": false",
                "{\"type\": \"Split\", \"invert\": false, \"behavior\": \"Sideways\", \"pattern\": {\"String\": \"a\"}",
                "expected Removed, Isolated"
            ),
            (
                "{\"type\": \"ByteLevel\", \"add_prefix_space\": false",
                "{\"type\": \"Split\", \"invert\": false, \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(a\"}",
                "found (a: a '(' without ')'"
            ),
        ])
    func namesWhatIsWrong(_ old: String, _ new: String, _ expected: String) throws {
        #expect(Self.base.contains(old))
        let parts = Self.base.split(separator: old, maxSplits: 1, omittingEmptySubsequences: false)
        let message = try #require(Self.message(parts.joined(separator: new)))
        #expect(message.contains(expected), "\(message)")
    }

    @Test func truncatedAnywhere() {
        let bytes = Array(Self.base.utf8)
        for count in 0..<bytes.count {
            let error = bytes.prefix(count).withUnsafeBytes { buffer in
                #expect(throws: TokenizerError.self) { _ = try Tokenizer(tokenizerJSON: buffer) }
            }
            #expect(error != nil)
        }
    }

    /// A changed bit gives an error or a tokenizer that works.
    @Test func flippedBits() {
        var generator = SystemRandomNumberGenerator()
        for fixture in TokenizerFixture.all.filter({ ["gpt2", "llama2", "deepseek"].contains($0.name) }) {
            var bytes = Array(fixture.json.utf8)
            for _ in 0..<150 {
                let place = Int.random(in: 0..<bytes.count, using: &generator)
                let bit = UInt8(1) << UInt8.random(in: 0..<8, using: &generator)
                bytes[place] ^= bit
                bytes.withUnsafeBytes { fuzzTokenizerJSON($0) }
                bytes[place] ^= bit
            }
        }
    }

    @Test(
        arguments: [
            "(a*)*", "a{2}+", "(?<name>a)", "[a&&b]", "[[:alpha:]]", "\\p{Greek}", "(?<=ab)c", "*a", "a{5,2}", "[b-a]",
            "\\q", "a)", "[a", "\\p{L", "a{1001}", "((((((((((((((((((((((((((((((((((((((((((a",
        ])
    func refusesPatterns(_ pattern: String) throws {
        let old = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false"
        let split: JSONValue = [
            "type": "Split", "invert": false, "behavior": "Isolated", "pattern": ["Regex": .string(pattern)],
        ]
        let parts = Self.base.split(separator: old, maxSplits: 1, omittingEmptySubsequences: false)
        let json = parts.joined(separator: String(split.serialized().dropLast()) + ", \"x\": 0")
        let message = try #require(Self.message(json))
        #expect(message.contains("expected a supported regular expression, found \(pattern)"), "\(message)")
    }

    /// A pattern made to backtrack without end comes to one.
    @Test func hostilePatternEnds() throws {
        let old = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false"
        let split: JSONValue = [
            "type": "Split", "invert": false, "behavior": "Isolated", "pattern": ["Regex": "(?:a+a+)+b"],
        ]
        let parts = Self.base.split(separator: old, maxSplits: 1, omittingEmptySubsequences: false)
        var json = parts.joined(separator: String(split.serialized().dropLast()) + ", \"x\": 0")
        let tokenizer = try json.withUTF8 { try Tokenizer(tokenizerJSON: UnsafeRawBufferPointer($0)) }
        #expect(tokenizer.encode(String(repeating: "a", count: 60)).count == 60)
    }

    @Test func invalidUTF8() throws {
        let tokenizer = try TokenizerFixture.all[0].tokenizer()
        for (bytes, offset) in [
            ([0x61, 0xFF], 1), ([0xE4, 0xBD], 0), ([0x61, 0x62, 0xED, 0xA0, 0x80], 2), ([0xC0, 0x80], 0),
            ([0xF4, 0x90, 0x80, 0x80], 0),
        ] as [([UInt8], Int)] {
            bytes.withUnsafeBytes { buffer in
                _ = #expect(throws: TokenizerError.invalidUTF8(offset: offset)) { try tokenizer.encode(utf8: buffer) }
            }
        }
    }

    @Test func missingFile() {
        #expect(throws: TokenizerError.unreadable(file: "/nowhere", reason: "there is no such file")) {
            _ = try Tokenizer(contentsOf: "/nowhere")
        }
    }
}
