import ApusText
import Testing

@Suite struct TokenizerBasics {
    static let json = """
        {"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "Ġ": 3, "ab": 4, "Ġab": 5},
        "merges": ["a b", "Ġ ab"]}}
        """

    @Test func mergesAndSpecialTokens() throws {
        var text = Self.json
        let tokenizer = try text.withUTF8 { try Tokenizer(tokenizerJSON: UnsafeRawBufferPointer($0)) }
        #expect(tokenizer.encode("ab ab<s>ba") == [4, 5, 0, 2, 1])
        #expect(tokenizer.encode("<s>", parseSpecialTokens: false) == [])
        #expect(tokenizer.decode([4, 5, 0, 2, 1]) == "ab ab<s>ba")
        #expect(tokenizer.decode([4, 5, 0, 2, 1], skipSpecialTokens: true) == "ab abba")
        #expect(tokenizer.vocabularySize == 6)
        #expect(tokenizer.id(of: "Ġab") == 5)
        #expect(tokenizer.bytes(of: 5) == Array(" ab".utf8))
    }
}
