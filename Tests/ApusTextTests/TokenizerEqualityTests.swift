import ApusText
import Testing

/// Ids and text equal those of the Python package `tokenizers`.
@Suite struct TokenizerEquality {
    @Test(arguments: TokenizerFixture.all)
    func encodes(_ fixture: TokenizerFixture) throws {
        let tokenizer = try fixture.tokenizer()
        #expect(tokenizer.vocabularySize == fixture.size)
        for (text, ids) in zip(fixture.texts, fixture.ids) {
            #expect(tokenizer.encode(text, addSpecialTokens: true) == ids, "\(text.debugDescription)")
        }
        // Again with the words remembered, and with special tokens taken as text.
        for (index, text) in fixture.texts.enumerated() {
            #expect(tokenizer.encode(text, addSpecialTokens: true) == fixture.ids[index], "\(text.debugDescription)")
            let plain = tokenizer.encode(text, parseSpecialTokens: false)
            #expect(plain == fixture.plain[index], "\(text.debugDescription)")
        }
    }

    @Test(arguments: TokenizerFixture.all)
    func decodes(_ fixture: TokenizerFixture) throws {
        let tokenizer = try fixture.tokenizer()
        for (ids, skipping, keeping) in fixture.decoded {
            #expect(tokenizer.decode(ids, skipSpecialTokens: true).hasSameScalars(as: skipping), "\(ids)")
            #expect(tokenizer.decode(ids).hasSameScalars(as: keeping), "\(ids)")
        }
    }

    /// Streamed pieces end between characters and make up the whole. Of byte tokens that are no UTF-8 the stream may
    /// have returned whole characters before it saw the rest; `decode` replaces the whole run.
    @Test(arguments: TokenizerFixture.all)
    func streams(_ fixture: TokenizerFixture) throws {
        let tokenizer = try fixture.tokenizer()
        let fallsBack = tokenizer.id(of: "<0x0A>") != nil
        for (ids, skipping, _) in fixture.decoded {
            var stream = tokenizer.streamingDetokenizer(skipSpecialTokens: true)
            let text = ids.map { stream.append($0) }.joined() + stream.finish()
            if fallsBack, skipping.unicodeScalars.contains("\u{FFFD}") {
                var rest = text.unicodeScalars[...]
                for scalar in skipping.unicodeScalars where scalar != "\u{FFFD}" {
                    let place = try #require(rest.firstIndex(of: scalar), "\(ids)")
                    rest = rest[rest.index(after: place)...]
                }
            } else {
                #expect(text.hasSameScalars(as: skipping), "\(ids)")
            }
        }
    }

    @Test func streamedCharactersAreWhole() throws {
        let tokenizer = try #require(TokenizerFixture.all.first { $0.name == "gpt2" }).tokenizer()
        let bytes = Array("a\u{1F469}\u{200D}\u{1F680}é".utf8)
        let ids = try bytes.map { byte in
            try #require((0..<Int32(tokenizer.idBound)).first { tokenizer.bytes(of: $0) == [byte] })
        }
        var stream = tokenizer.streamingDetokenizer()
        let pieces = ids.map { stream.append($0) }
        #expect(pieces.filter { !$0.isEmpty } == ["a", "\u{1F469}", "\u{200D}", "\u{1F680}", "é"])
        #expect(stream.finish() == "")
        _ = stream.append(ids[1])
        #expect(stream.finish() == "\u{FFFD}")
    }

    @Test func concurrentUse() async throws {
        let fixture = TokenizerFixture.all[0]
        let tokenizer = try fixture.tokenizer()
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    zip(fixture.texts, fixture.ids).allSatisfy { text, ids in
                        tokenizer.encode(text, addSpecialTokens: true) == ids
                    }
                }
            }
            for await isEqual in group { #expect(isEqual) }
        }
    }
}
