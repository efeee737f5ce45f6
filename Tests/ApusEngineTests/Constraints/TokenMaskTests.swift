import ApusEngine
import ApusText
import Testing

/// Masks against the plainest reading of what they mean: a token is allowed where the state accepts it.
@Suite struct TokenMaskTests {
    static let schemas = [
        #"{"type":"object"}"#,
        #"{"type":"string"}"#,
        #"{"type":"string","minLength":30,"maxLength":60}"#,
        #"{"type":"string","maxLength":3}"#,
        #"{"type":"string","pattern":"^[a-zé日本]{2,6}$","minLength":3}"#,
        #"{"type":"array","items":{"type":"integer"},"minItems":25,"maxItems":40}"#,
        #"{"enum":["name","namely",12,null,"日本"]}"#,
        ##"{"$defs":{"t":{"type":"array","items":{"$ref":"#/$defs/t"}}},"$ref":"#/$defs/t"}"##,
        #"{"type":"object","properties":{"name":{"type":["string","null"]},"n":{"type":"number","minimum":-1.5,"maximum":120}}}"#,
    ]

    @Test(arguments: schemas, [JSONWhitespace.none, .flexible])
    func allowedTokensAreThoseAccepted(schema: String, whitespace: JSONWhitespace) throws {
        let constraint = try ConstraintSupport.constraint(schema, whitespace)
        var random = TestRandom(7)
        for _ in 0..<12 {
            var state = constraint.makeState()
            var text: [UInt8] = []
            for _ in 0..<40 {
                let mask = state.allowedMask()
                #expect(mask.vocabularySize == 310)
                var allowed: [Int32] = []
                for token in Int32(-1)..<312 {
                    var copy = state
                    let accepted = copy.accept(token)
                    #expect(
                        accepted == mask.contains(token),
                        "token \(token) after \(String(decoding: text, as: UTF8.self))")
                    if accepted { allowed.append(token) }
                }
                #expect(mask.contains(ConstraintSupport.endToken) == state.isComplete)
                #expect(state.isComplete == constraint.accepts(text))
                let token = try #require(allowed.randomElement(using: &random), "no token may follow")
                if token == ConstraintSupport.endToken { break }
                let isAccepted = state.accept(token)
                #expect(isAccepted)
                text += spelling(token)
            }
        }
    }

    private func spelling(_ token: Int32) -> [UInt8] { ConstraintSupport.vocabulary.bytes(of: token) ?? [] }

    @Test func aTokenThatIsNotAllowedChangesNothing() throws {
        var state = try ConstraintSupport.constraint(#"{"type":"boolean"}"#).makeState()
        let before = state.allowedMask()
        for token in [Int32(UInt8(ascii: "x")), ConstraintSupport.endToken, 299, -1, 400] {
            let isAccepted = state.accept(token)
            #expect(!isAccepted)
        }
        #expect(state.allowedMask() == before)
        for byte in "true".utf8 { state.accept(Int32(byte)) }
        #expect(state.isComplete)
        #expect(state.allowedMask().count == 1)
        let ends = state.accept(ConstraintSupport.endToken)
        #expect(ends)
    }

    @Test func masksApplyToLogits() {
        var mask = TokenMask(vocabularySize: 130)
        for token: Int32 in [0, 63, 64, 129, 130, -1] { mask.insert(token) }
        #expect(mask.count == 4)
        var logits = [Float](repeating: 1, count: 140)
        logits.withUnsafeMutableBufferPointer { mask.apply(to: $0) }
        for (token, logit) in logits.enumerated() {
            #expect(logit == ([0, 63, 64, 129].contains(token) ? 1 : -.infinity), "token \(token)")
        }
    }

    @Test func oneConstraintServesManyThreads() async throws {
        let constraint = try ConstraintSupport.constraint(#"{"type":"object"}"#, .flexible)
        let texts = await withTaskGroup(of: [UInt8]?.self) { group in
            for seed in UInt64(0)..<8 {
                group.addTask {
                    var sampler = ConstraintSampler(constraint, vocabulary: ConstraintSupport.vocabulary, seed: seed)
                    return sampler.text(tokens: 60)
                }
            }
            return await group.reduce(into: [[UInt8]?]()) { $0.append($1) }
        }
        let found = texts.compactMap { $0 }
        #expect(found.count >= 4)
        for text in found { _ = try JSONValue(parsing: text) }
    }

    @Test func vocabulariesThatCannotSpellAreRefused() {
        #expect(throws: ConstraintVocabularyError.noEndToken) {
            try ConstraintVocabulary(spellings: [[0x41]], endTokens: [], size: 1)
        }
        #expect(throws: ConstraintVocabularyError.noTokenForByte(0x20)) {
            try ConstraintVocabulary(spellings: [[0x41]], endTokens: [0], size: 1)
        }
    }
}
