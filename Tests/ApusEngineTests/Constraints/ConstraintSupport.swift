import ApusEngine
import ApusText
import Testing

/// Constraints over a small vocabulary: every byte, some texts of JSON, parts of characters, one token to end.
enum ConstraintSupport {
    static let endToken: Int32 = 300

    static let vocabulary: ConstraintVocabulary = {
        var spellings: [[UInt8]?] = (0..<256).map { [UInt8($0)] }
        let texts = [
            "{\"", "\":", "\",\"", "\"}", "},", "]}", "true", "null", "name", "\"name\"", "12", "-1", "0.", "\\u00",
            "\\n", "  ",
            "é", "日本", "aaaa", "aaaaaaaaaaaaaaaaaaaaaaaa", "{}", "[]", ", ", ": ", "\n  ", "2024-", "\"a",
        ]
        spellings += texts.map { Array($0.utf8) }
        // Parts of characters: the end of one and the beginning of the next.
        spellings += [[0xE6, 0x97], [0xA5, 0xE6], [0xF0, 0x9F, 0x98], [0xC3]]
        while spellings.count < Int(endToken) { spellings.append(nil) }
        spellings.append(Array("</s>".utf8))
        return try! ConstraintVocabulary(spellings: spellings, endTokens: [endToken], size: 310)
    }()

    static func constraint(_ schema: String, _ whitespace: JSONWhitespace = .none) throws -> JSONConstraint {
        try JSONConstraint(schema: try JSONValue(parsing: schema), vocabulary: vocabulary, whitespace: whitespace)
    }

    static func accepts(_ schema: String, _ text: String, _ whitespace: JSONWhitespace = .none) throws -> Bool {
        try constraint(schema, whitespace).accepts(Array(text.utf8))
    }
}

/// Deterministic random numbers.
struct TestRandom: RandomNumberGenerator {
    var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        let word = (state ^ (state >> 33)) &* 0xFF51_AFD7_ED55_8CCD
        return word ^ (word >> 33)
    }
}
