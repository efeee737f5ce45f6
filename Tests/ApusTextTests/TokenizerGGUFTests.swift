import ApusText
import Testing

/// Tokenizers from GGUF metadata.
@Suite struct TokenizerGGUF {
    /// Tokens by id, merges, and the ids of special tokens of a fixture.
    static func parts(_ fixture: TokenizerFixture) throws -> (tokens: [String], merges: [String]) {
        let root = JSONNode(try JSONValue(parsing: fixture.json), name: fixture.name)
        let model = try root.child("model")
        let vocabulary = try model.child("vocab").members()
        var tokens = [String](repeating: "", count: vocabulary.count)
        for member in vocabulary { tokens[try member.node.int()] = member.key }
        let merges = try model.child("merges").elements().map { merge in
            try merge.elements().map { try $0.string() }.joined(separator: " ")
        }
        return (tokens, merges)
    }

    static func fixture(_ name: String) throws -> TokenizerFixture {
        try #require(TokenizerFixture.all.first { $0.name == name })
    }

    /// The fixture without added tokens beyond `<s>` and `</s>` and without normalizer, as JSON.
    static func plain(_ fixture: TokenizerFixture) throws -> Tokenizer {
        var whole = try #require(try JSONValue(parsing: fixture.json).objectValue)
        let added = try #require(whole["added_tokens"]?.arrayValue).prefix(2).map { token in
            var token = token.objectValue!
            token["single_word"] = false
            return JSONValue.object(token)
        }
        whole["added_tokens"] = .array(added)
        whole["normalizer"] = .null
        var json = JSONValue.object(whole).serialized()
        return try json.withUTF8 { try Tokenizer(tokenizerJSON: UnsafeRawBufferPointer($0)) }
    }

    @Test(
        arguments: [
            ("gpt2", "gpt-2"), ("llama3", "llama-bpe"), ("qwen2", "qwen2"), ("smollm", "smollm"),
            ("deepseek", "deepseek-coder"), ("gpt4o", "gpt-4o"),
        ])
    func equalsTokenizerJSON(_ name: String, _ pre: String) throws {
        let fixture = try Self.fixture(name)
        let (tokens, merges) = try Self.parts(fixture)
        var gguf = GGUFVocabulary(model: "gpt2", pre: pre)
        gguf.tokens = ByteStrings(tokens)
        gguf.merges = ByteStrings(merges)
        gguf.tokenTypes = [3, 3] + [Int32](repeating: 1, count: tokens.count - 2)
        gguf.bosID = 0
        gguf.eosID = 1
        gguf.addsBOS = true
        let tokenizer = try Tokenizer(gguf: gguf)
        let reference = try Self.plain(fixture)
        #expect(tokenizer.namedTokens == .init(bos: 0, eos: 1))
        for text in fixture.texts {
            let ids = tokenizer.encode(text)
            #expect(ids == reference.encode(text), "\(text.debugDescription)")
            #expect(tokenizer.encode(text, addSpecialTokens: true) == [0] + ids)
            #expect(tokenizer.decode(ids) == reference.decode(ids))
        }
    }

    /// SentencePiece's rule word for word: of all neighbours that together are a token, join those of best score.
    static func joinByScore(_ text: String, _ tokens: [String], _ scores: [Float]) -> [Int32] {
        var ids: [[UInt8]: Int] = [:]
        for (id, token) in tokens.enumerated() { ids[Array(token.utf8)] = id }
        var symbols = (text.isEmpty ? "" : " " + text).unicodeScalars.map { scalar in
            Array(String(scalar == " " ? "\u{2581}" : scalar).utf8)
        }
        while true {
            var best: (place: Int, score: Float)?
            for place in symbols.indices.dropLast() {
                guard let id = ids[symbols[place] + symbols[place + 1]] else { continue }
                if best == nil || scores[id] > best!.score { best = (place, scores[id]) }
            }
            guard let best else { break }
            symbols[best.place] += symbols.remove(at: best.place + 1)
        }
        return symbols.flatMap { symbol -> [Int32] in
            if let id = ids[symbol] { return [Int32(id)] }
            return symbol.map { byte in
                let digits = String(byte, radix: 16, uppercase: true)
                return Int32(ids[Array("<0x\(byte < 16 ? "0" : "")\(digits)>".utf8)]!)
            }
        }
    }

    @Test func sentencePieceByScore() throws {
        let fixture = try Self.fixture("llama2")
        let (tokens, merges) = try Self.parts(fixture)
        var scores = [Float](repeating: -1e6, count: tokens.count)
        // Compared as bytes: a space before a combining mark is no character of its own to Swift.
        var ids: [[UInt8]: Int] = [:]
        for (id, token) in tokens.enumerated() { ids[Array(token.utf8)] = id }
        // Pairs of merges share a score, so ties occur.
        for (rank, merge) in merges.enumerated() {
            scores[try #require(ids[merge.utf8.filter { $0 != 0x20 }])] = -Float(rank / 2)
        }
        var gguf = GGUFVocabulary(model: "llama")
        gguf.tokens = ByteStrings(tokens)
        gguf.scores = scores
        gguf.tokenTypes = tokens.indices.map { $0 == 0 ? 2 : $0 < 3 ? 3 : $0 < 259 ? 6 : 1 }
        gguf.bosID = 1
        gguf.eosID = 2
        let tokenizer = try Tokenizer(gguf: gguf)
        for text in fixture.texts where !["<s>", "</s>", "<unk>"].contains(where: text.contains) {
            let ids = tokenizer.encode(text)
            #expect(ids == Self.joinByScore(text, tokens, scores), "\(text.debugDescription)")
            #expect(tokenizer.encode(text, addSpecialTokens: true).first == 1)
            if !text.contains("\u{2581}") { #expect(tokenizer.decode(ids).hasSameScalars(as: text)) }
        }
        #expect(tokenizer.encode("<s>the", parseSpecialTokens: true).first == 1)
        #expect(tokenizer.encode("<s>the", parseSpecialTokens: false).first != 1)
    }

    @Test func errors() throws {
        let (tokens, merges) = try Self.parts(try Self.fixture("gpt2"))
        func message(_ change: (inout GGUFVocabulary) -> Void) -> String {
            var gguf = GGUFVocabulary(model: "gpt2", pre: "gpt-2")
            gguf.tokens = ByteStrings(tokens)
            gguf.merges = ByteStrings(merges)
            change(&gguf)
            do {
                _ = try Tokenizer(gguf: gguf)
                return "no error"
            } catch { return "\(error)" }
        }
        #expect(message { _ in } == "no error")
        #expect(message { $0.pre = "riddle" }.contains("pre-tokenizer \"riddle\""))
        #expect(message { $0.model = "t5" }.contains("model \"t5\""))
        #expect(message { $0.tokens = ByteStrings() }.contains("expected tokens, found none"))
        #expect(message { $0.tokens.append("Ġthe") }.contains("found Ġthe with id"))
        #expect(message { $0.merges.append("zz top") }.contains("expected a token of the vocabulary, found zz"))
        #expect(message { $0.merges.append("the") }.contains("expected two tokens with one space"))
        #expect(message { $0.bosID = 1 << 40 }.contains("bos_token_id: expected a token id"))
        #expect(message { $0.eosID = -1 }.contains("eos_token_id: expected a token id"))
        #expect(message { $0.tokenTypes = [1] }.contains("token types, found 1"))
        #expect(message { $0.model = "llama" }.contains("expected a score for each token"))
        #expect(message { $0.scores = [0] }.contains("scores, found 1"))
        #expect(
            message {
                $0.model = "llama"
                $0.scores = [Float](repeating: .nan, count: $0.tokens.count)
            }.contains("found NaN"))
        let broken: [UInt8] = [0x61, 0xFF]
        #expect(
            message { gguf in broken.withUnsafeBytes { gguf.tokens.append($0) } }.contains("invalid byte at offset 1"))
    }
}
