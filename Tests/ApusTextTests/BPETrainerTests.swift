import ApusText
import Testing

@Suite struct BPETraining {
    /// The same corpus and settings as `training` in tokenizers_small.py.
    @Test func equalsTokenizers() throws {
        let expected = try TokenizerFixture.training()
        let trainer = BPETrainer(
            vocabularySize: expected.size, minimumFrequency: 2, specialTokens: ["<s>", "</s>"], words: .smolLM)
        let trained = try trainer.train(expected.corpus)
        #expect(trained.tokens == expected.tokens)
        let merges = trained.merges.map { [trained.tokens[$0.left], trained.tokens[$0.right]] }
        #expect(merges == expected.merges)
        let tokenizer = try trained.tokenizer()
        for text in expected.corpus {
            let ids = tokenizer.encode(text)
            #expect(tokenizer.decode(ids) == text)
            #expect(ids.count <= text.utf8.count)
        }
        #expect(tokenizer.encode("<s>").first == 0)
    }

    @Test(arguments: BPETrainer.Words.allCases)
    func roundTrips(_ words: BPETrainer.Words) throws {
        let corpus = ["it's 1234 o'clock", "  it's\n\nTHE end", "é 你好 👍"]
        let trained = try BPETrainer(vocabularySize: 280, specialTokens: ["<|end|>"], words: words).train(corpus)
        let tokenizer = try trained.tokenizer()
        #expect(trained.tokens.count <= 280)
        #expect(tokenizer.specialTokens.map(\.content) == ["<|end|>"])
        for text in corpus { #expect(tokenizer.decode(tokenizer.encode(text)) == text) }
        #expect(
            try BPETrainer(vocabularySize: 280, specialTokens: ["<|end|>"], words: words).train(corpus).json
                == trained.json)
    }

    @Test func refusesBadSettings() {
        #expect(throws: TokenizerError.self) { try BPETrainer(vocabularySize: 255).train(["a"]) }
        #expect(throws: TokenizerError.self) {
            try BPETrainer(vocabularySize: 300, specialTokens: ["x", "x"]).train(["a"])
        }
        #expect(throws: TokenizerError.self) { try BPETrainer(vocabularySize: 300, specialTokens: ["a"]).train(["a"]) }
        #expect(throws: TokenizerError.invalidUTF8(offset: 1)) {
            try BPETrainer(vocabularySize: 300).train(utf8: [[0x61, 0xFF]])
        }
    }

    @Test func emptyCorpus() throws {
        let trained = try BPETrainer(vocabularySize: 300).train([])
        #expect(trained.tokens.count == 256)
        #expect(trained.merges.isEmpty)
    }
}
