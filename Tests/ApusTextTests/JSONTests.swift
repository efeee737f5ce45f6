import ApusText
import Testing

@Suite struct JSONParsing {
    @Test(
        arguments: [
            ("null", JSONValue.null), (" true ", .bool(true)), ("false\n", .bool(false)), ("0", 0), ("-0", 0),
            ("-12", -12), ("9223372036854775807", .integer(.max)), ("-9223372036854775808", .integer(.min)),
            ("9223372036854775808", .double(9_223_372_036_854_775_808)), ("1.0", 1.0), ("1e2", 100.0),
            ("-2.5E-3", -0.0025), ("5e-324", .double(.leastNonzeroMagnitude)), ("0.1", 0.1), ("\"\"", ""), ("[]", []),
            ("{}", [:]),
            (#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{C}\n\r\tz"), (#""\u00e9\u4E2d\ud83d\ude00""#, "é中😀"),
            ("\"é中😀\"", "é中😀"), ("[1,[2,[]], \"x\"]", [1, [2, []], "x"]),
            (#"{"b": 1, "a": {"c": null}}"#, ["b": 1, "a": ["c": nil]]),
        ] as [(String, JSONValue)])
    func accepts(text: String, expected: JSONValue) throws {
        #expect(try JSONValue(parsing: text) == expected)
    }

    @Test(
        arguments: [
            ("", "expected a value, found the end of the text at line 1, column 1 (byte 0)"),
            ("[1,\n 2,]", "expected a value, found ']' at line 2, column 4 (byte 7)"),
            ("[1 2]", "expected ',' or ']', found '2' at line 1, column 4 (byte 3)"),
            ("{\"a\" 1}", "expected ':', found '1' at line 1, column 6 (byte 5)"),
            ("{a: 1}", "expected a key in quotes, found 'a' at line 1, column 2 (byte 1)"),
            ("{\"a\": 1,}", "expected a key in quotes, found '}' at line 1, column 9 (byte 8)"),
            ("{\"a\": 1", "expected ',' or '}', found the end of the text at line 1, column 8 (byte 7)"),
            ("nul", "expected null, found 'n' at line 1, column 1 (byte 0)"),
            ("NaN", "expected a value, found 'N' at line 1, column 1 (byte 0)"),
            ("-Infinity", "expected a digit, found 'I' at line 1, column 2 (byte 1)"),
            ("01", "expected no digit after a leading zero, found '1' at line 1, column 2 (byte 1)"),
            ("1.", "expected a digit, found the end of the text at line 1, column 3 (byte 2)"),
            ("1e", "expected a digit, found the end of the text at line 1, column 3 (byte 2)"),
            ("+1", "expected a value, found '+' at line 1, column 1 (byte 0)"),
            ("1 x", "expected the end of the document, found 'x' at line 1, column 3 (byte 2)"),
            ("\"é", "expected the string's closing quote, found the end of the text at line 1, column 3 (byte 3)"),
            ("\"a\nb\"", "expected an escape for the control character, found byte 0x0A at line 1, column 3 (byte 2)"),
            (#""\x""#, #"expected one of " \ / b f n r t u after a backslash, found 'x' at line 1, column 3 (byte 2)"#),
            (#""\u12g4""#, "expected four hexadecimal digits, found 'g' at line 1, column 6 (byte 5)"),
            (#""\ud83dx""#, #"expected a surrogate pair, found lone \ud83d at line 1, column 2 (byte 1)"#),
            (#""\ude00""#, #"expected a surrogate pair, found lone \ude00 at line 1, column 2 (byte 1)"#),
            ("\u{FEFF}1", "expected a value, found a byte order mark at line 1, column 1 (byte 0)"),
            ("1e999", "expected a number within double precision's range, found 1e999 at line 1, column 1 (byte 0)"),
        ] as [(String, String)])
    func rejects(text: String, message: String) {
        let error = #expect(throws: JSONError.self) { try JSONValue(parsing: text) }
        #expect(error?.description == message)
    }

    @Test(
        arguments: [
            [0x22, 0xFF, 0x22], [0x22, 0x61, 0xEF, 0xBF, 0x22], [0x22, 0xC0, 0x80, 0x22],
            [0x22, 0xED, 0xA0, 0x80, 0x22],
            [0x22, 0x5C, 0x6E, 0x80, 0x22], [0x22, 0xEF, 0xBF, 0xBD, 0xEF, 0x22],
        ] as [[UInt8]])
    func rejectsInvalidUTF8(bytes: [UInt8]) {
        let error = #expect(throws: JSONError.self) { try JSONValue(parsing: bytes) }
        guard case .invalidUTF8(let byte, let place) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(byte >= 0x80 && bytes[place.offset] == byte)
    }

    @Test func limitsDepth() throws {
        let nested = { (depth: Int) in String(repeating: "[", count: depth) + String(repeating: "]", count: depth) }
        _ = try JSONValue(parsing: nested(192))
        #expect(throws: JSONError.self) { try JSONValue(parsing: nested(193)) }
        #expect(throws: JSONError.self) { try JSONValue(parsing: String(repeating: "[", count: 1_000_000)) }
        #expect(throws: JSONError.self) { try JSONValue(parsing: String(repeating: "{\"a\":", count: 1_000_000)) }
        #expect(throws: JSONError.self) { try JSONValue(parsing: nested(3), depthLimit: 2) }
    }

    @Test func everyPrefixOfADocumentIsAnError() throws {
        let text = Array(#"{"k": [1.5e3, "a\u00e9😀", true, null, {"x": -7}]}"#.utf8)
        _ = try JSONValue(parsing: text)
        for length in 0..<text.count {
            #expect(throws: JSONError.self) { try JSONValue(parsing: Array(text[..<length])) }
        }
    }
}

@Suite struct JSONObjects {
    @Test func keepsOrderAndTheLastOfTwins() throws {
        let value = try JSONValue(parsing: #"{"z": 1, "a": 2, "z": 3}"#)
        let object = try #require(value.objectValue)
        #expect(Array(object.keys) == ["z", "a"])
        #expect(object["z"] == 3)
        #expect(value.serialized() == #"{"z":3,"a":2}"#)
    }

    @Test func looksUpInLargeObjects() throws {
        var object = JSONObject()
        for index in 0..<5000 { object["key\(index)"] = .integer(Int64(index)) }
        for index in 0..<5000 { #expect(object["key\(index)"] == .integer(Int64(index))) }
        #expect(object["key5000"] == nil)
        object["key17"] = nil
        #expect(object.count == 4999 && object["key17"] == nil && object["key4999"] == 4999)
        object["key18"] = "new"
        #expect(object.count == 4999 && object["key18"] == "new")
    }

    @Test func tellsCanonicalEquivalentsApart() throws {
        let composed = "\u{E9}"
        let decomposed = "e\u{301}"
        let value = try JSONValue(parsing: "{\"\(composed)\": 1, \"\(decomposed)\": 2}")
        #expect(value[composed] == 1 && value[decomposed] == 2)
        #expect(JSONValue.string(composed) != .string(decomposed))
    }

    @Test func equalityIgnoresOrder() {
        #expect(["a": 1, "b": 2] as JSONValue == ["b": 2, "a": 1])
        #expect(["a": 1, "b": 2] as JSONValue != ["b": 2, "c": 1])
        #expect(JSONValue.integer(1) != .double(1))
    }
}

@Suite struct JSONWriting {
    static let sample: JSONValue = ["b": [1, 2.0, "x\"\n\u{1}é😀\u{7F}"], "a": [:], "c": [], "d": nil, "e": true]

    @Test func compact() {
        #expect(
            Self.sample.serialized()
                == "{\"b\":[1,2.0,\"x\\\"\\n\\u0001é😀\u{7F}\"],\"a\":{},\"c\":[],\"d\":null,\"e\":true}")
    }

    @Test func pythonWithASCII() {
        var style = JSONStyle.python
        style.ensureASCII = true
        style.sortKeys = true
        #expect(
            Self.sample.serialized(style)
                == #"{"a": {}, "b": [1, 2.0, "x\"\n\u0001\u00e9\ud83d\ude00\u007f"], "c": [], "d": null, "e": true}"#)
    }

    @Test func pretty() {
        #expect(
            (["a": [1, ["b": 2]], "c": []] as JSONValue).serialized(.pretty) == """
                {
                  "a": [
                    1,
                    {
                      "b": 2
                    }
                  ],
                  "c": []
                }
                """)
    }

    /// Expected texts are Python's `repr`.
    @Test(
        arguments: [
            (0.0, "0.0"), (-0.0, "-0.0"), (1.0, "1.0"), (-1.5, "-1.5"), (0.1, "0.1"), (1e15, "1000000000000000.0"),
            (1e16, "1e+16"), (12345678901234567.0, "1.2345678901234568e+16"), (123456789012345.6, "123456789012345.6"),
            (0.0001, "0.0001"), (0.00001, "1e-05"), (1.25e-7, "1.25e-07"), (1e100, "1e+100"),
            (.leastNonzeroMagnitude, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"), (100.0, "100.0"), (1234.5, "1234.5"),
            (2.5e-5, "2.5e-05"), (9007199254740993.0, "9007199254740992.0"),
        ] as [(Double, String)])
    func doubles(value: Double, expected: String) throws {
        #expect(JSONValue.double(value).serialized() == expected)
        #expect(try JSONValue(parsing: expected) == .double(value))
    }

    @Test func randomDoublesRoundTrip() throws {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            let value = Double(bitPattern: .random(in: .min ... .max, using: &generator))
            guard value.isFinite else { continue }
            #expect(try JSONValue(parsing: JSONValue.double(value).serialized()) == .double(value))
        }
    }

    @Test func mutatedDocumentsNeverCrash() {
        var generator = SystemRandomNumberGenerator()
        let seed = Array(Self.sample.serialized(.pretty).utf8)
        for _ in 0..<5000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(in: 0...255, using: &generator)
            }
            #expect(bytes.withUnsafeBytes { fuzzJSON($0) }, "\(bytes)")
        }
    }
}

@Suite struct JSONNodes {
    let config = JSONNode(
        [
            "hidden_size": "576", "layers": 30, "rope_scaling": ["factor": [1, "x"]], "eps": 1e-5, "none": nil,
            "w": 2.0,
        ],
        name: "config.json")

    @Test func readsTypedMembers() throws {
        #expect(try config.int("layers") == 30)
        #expect(try config.int("w") == 2)
        #expect(try config.double("eps") == 1e-5)
        #expect(try config.double("layers") == 30)
        #expect(try config.int("missing", default: 4) == 4)
        #expect(try config.string("none", default: "x") == "x")
        #expect(try config.optional("none") == nil)
        #expect(try config.child("rope_scaling").child("factor").elements()[0].int() == 1)
        #expect(try config.members().map(\.key).first == "hidden_size")
    }

    @Test func errorsNameThePath() throws {
        let message = { (body: () throws -> Void) in
            #expect(throws: JSONError.self) { try body() }?.description
        }
        #expect(
            message { _ = try config.int("hidden_size") }
                == "config.json: hidden_size: expected an integer, found string \"576\"")
        #expect(message { _ = try config.int("heads") } == "config.json: heads: expected an integer, found nothing")
        #expect(
            message { _ = try config.child("rope_scaling").child("factor").elements()[1].double() }
                == "config.json: rope_scaling.factor[1]: expected a number, found string \"x\"")
        #expect(
            message { _ = try config.child("layers").int(in: 1...8) }
                == "config.json: layers: expected an integer from 1 to 8, found integer 30")
        #expect(
            message { _ = try config.child("eps").object() }
                == "config.json: eps: expected an object, found number 1e-05")
    }
}
