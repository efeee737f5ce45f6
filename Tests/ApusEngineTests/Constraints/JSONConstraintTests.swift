import ApusEngine
import ApusText
import Testing

@Suite struct JSONConstraintTests {
    // MARK: Numbers

    @Test(arguments: [(-13, 7), (0, 0), (5, 12), (-120, -99), (99, 1001), (-1, 0), (1, 1)])
    func wholeNumbersInARange(low: Int, high: Int) throws {
        let inclusive = try ConstraintSupport.constraint(
            "{\"type\":\"integer\",\"minimum\":\(low),\"maximum\":\(high)}")
        let exclusive = try ConstraintSupport.constraint(
            "{\"type\":\"integer\",\"exclusiveMinimum\":\(low - 1),\"exclusiveMaximum\":\(high + 1)}")
        let halves = try ConstraintSupport.constraint(
            "{\"type\":\"integer\",\"minimum\":\(Double(low) - 0.5),\"maximum\":\(Double(high) + 0.5)}")
        for number in -1500...1500 {
            for constraint in [inclusive, exclusive, halves] {
                #expect(constraint.accepts(Array("\(number)".utf8)) == (low...high).contains(number), "\(number)")
            }
        }
        for text in ["-0", "01", "1.0", "+1", "", "-", "1e1"] {
            #expect(!inclusive.accepts(Array(text.utf8)), "\(text)")
        }
    }

    @Test(arguments: [-250, -3.75, -1, -0.05, 0, 0.002, 0.5, 1, 9.99, 10, 123.456])
    func numbersInARange(low: Double) throws {
        for width in [0, 0.01, 0.5, 3, 90, 1000] {
            let high = low + width
            for (keywords, holds) in [
                ("\"minimum\":\(low),\"maximum\":\(high)", { (x: Double) in x >= low && x <= high }),
                ("\"exclusiveMinimum\":\(low),\"maximum\":\(high)", { x in x > low && x <= high }),
                ("\"minimum\":\(low),\"exclusiveMaximum\":\(high)", { x in x >= low && x < high }),
                ("\"minimum\":\(low)", { x in x >= low }), ("\"exclusiveMaximum\":\(high)", { x in x < high }),
            ] {
                let constraint: JSONConstraint
                do {
                    constraint = try ConstraintSupport.constraint("{\"type\":\"number\",\(keywords)}")
                } catch JSONSchemaError.unsatisfiable {
                    #expect(width == 0)
                    continue
                }
                var random = TestRandom(11)
                for step in 0..<400 {
                    let scale = [1.0, 10, 100, 1000][step % 4]
                    let near = step % 3 == 0 ? low : high
                    let number = (Double.random(in: near - 12...near + 12, using: &random) * scale).rounded() / scale
                    // A few more zeros make no other number.
                    let text = "\(number)" + (step % 5 == 0 ? "00" : "")
                    guard !text.contains("e") else { continue }
                    #expect(constraint.accepts(Array(text.utf8)) == holds(number), "\(text) in \(keywords)")
                }
            }
        }
    }

    @Test func formsOfNumbers() throws {
        let number = try ConstraintSupport.constraint(#"{"type":"number"}"#)
        for text in ["0", "-0", "10", "1.5", "-0.25e-3", "1E+5", "3e250", "0.0"] {
            #expect(number.accepts(Array(text.utf8)), "\(text)")
        }
        for text in ["01", ".5", "1.", "1e", "+1", "--1", "1e999", "NaN", "0x1"] {
            #expect(!number.accepts(Array(text.utf8)), "\(text)")
        }
        let sevens = try ConstraintSupport.constraint(#"{"type":"integer","multipleOf":7,"minimum":-100}"#)
        for number in -200...200 {
            #expect(sevens.accepts(Array("\(number)".utf8)) == (number % 7 == 0 && number >= -100), "\(number)")
        }
        let cents = #"{"type":"number","multipleOf":0.01}"#
        #expect(try ConstraintSupport.accepts(cents, "12.34"))
        #expect(try ConstraintSupport.accepts(cents, "12"))
        #expect(try !ConstraintSupport.accepts(cents, "12.345"))
    }

    // MARK: Strings

    @Test func escapesAndCharacters() throws {
        let string = try ConstraintSupport.constraint(#"{"type":"string"}"#)
        for text in [#""""#, #""a\"\\\/\b\f\n\r\té""#, #""\u00e9\uD83D\uDE00""#, "\"日本 😀\"", #""\uFFFF\uE000""#] {
            #expect(string.accepts(Array(text.utf8)), "\(text)")
        }
        for text in ["\"\n\"", #""\x""#, #""\uD83D""#, #""\uDE00""#, #""\uD83Dx""#, #""\uD83D\u0041""#, "\"", #""a"b"#]
        {
            #expect(!string.accepts(Array(text.utf8)), "\(text)")
        }
        let broken: [[UInt8]] = [
            [0x80], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x9F, 0xBF], [0xED, 0xA0, 0x80], [0xF0, 0x8F, 0xBF, 0xBF],
            [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xC3], [0xE6, 0x97],
        ]
        for bytes in broken { #expect(!string.accepts([0x22] + bytes + [0x22]), "\(bytes)") }
        for bytes: [UInt8] in [
            [0xED, 0x9F, 0xBF], [0xF4, 0x8F, 0xBF, 0xBF], [0xE0, 0xA0, 0x80], [0xF0, 0x90, 0x80, 0x80],
        ] {
            #expect(string.accepts([0x22] + bytes + [0x22]), "\(bytes)")
        }
    }

    @Test func lengthsCountCharacters() throws {
        let schema = #"{"type":"string","minLength":2,"maxLength":3}"#
        for (text, fits) in [
            (#""a""#, false), (#""ab""#, true), (#""😀é""#, true), (#""\uD83D\uDE00\n\u0041""#, true),
            (#""abcd""#, false),
            ("\"日本語x\"", false),
        ] {
            #expect(try ConstraintSupport.accepts(schema, text) == fits, "\(text)")
        }
        // Where pattern and length meet only at some lengths, no beginning leads astray.
        let even = try ConstraintSupport.constraint(
            #"{"type":"string","pattern":"^(ab)*$","minLength":3,"maxLength":5}"#)
        #expect(even.accepts(Array(#""abab""#.utf8)))
        #expect(!even.accepts(Array(#""ab""#.utf8)))
        #expect(!even.accepts(Array(#""ababab""#.utf8)))
        #expect(throws: JSONSchemaError.unsatisfiable) {
            try ConstraintSupport.constraint(#"{"type":"string","pattern":"^(ab)*$","minLength":3,"maxLength":3}"#)
        }
    }

    @Test(arguments: [
        ("^[a-c]+$", ["a", "abc"], ["", "d", "abd"]), ("b", ["b", "abc", "bb"], ["", "ac"]),
        ("^a|b$", ["ax", "xb"], ["xa", "bx"]),
        ("^(a|b)?c{2,3}$", ["cc", "accc"], ["c", "cccc", "abcc"]),
        ("^\\d{3}-\\w\\s$", ["123-_ "], ["12-_ ", "١٢٣-_ "]),
        ("^[^a-y]$", ["z", "é"], ["a", ""]), ("^.\\.\\u00e9\\x41$", ["x.éA"], ["\n.éA"]),
        ("^(?:x|yz)*?$", ["", "xyzx"], ["y"]),
        ("^(?<year>[0-9]{4})$", ["2024"], ["24"]), ("(^a$)|(^b$)", ["a", "b"], ["ab"]),
        ("^[\\]\\-x]{1}$", ["]", "-", "x"], ["y"]),
        ("^a{,2}$", ["a{,2}"], ["a", "aa"]), ("", ["", "anything"], []), ("^$", [""], ["a"]), ("^[]$", [], ["", "a"]),
    ])
    func patterns(pattern: String, matching: [String], others: [String]) throws {
        let schema = JSONValue.object(["type": "string", "pattern": .string(pattern)])
        guard pattern != "^[]$" else {
            #expect(throws: JSONSchemaError.unsatisfiable) {
                try JSONConstraint(schema: schema, vocabulary: ConstraintSupport.vocabulary)
            }
            return
        }
        let constraint = try JSONConstraint(schema: schema, vocabulary: ConstraintSupport.vocabulary)
        for text in matching { #expect(constraint.accepts(Array(JSONValue.string(text).serialized().utf8)), "\(text)") }
        for text in others { #expect(!constraint.accepts(Array(JSONValue.string(text).serialized().utf8)), "\(text)") }
    }

    @Test func dates() throws {
        let date = try ConstraintSupport.constraint(#"{"type":"string","format":"date"}"#)
        let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        for year in [1, 4, 100, 400, 1900, 1999, 2000, 2023, 2024, 9999] {
            let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
            for month in 0...13 {
                for day in 0...32 {
                    let two = { (n: Int) in n < 10 ? "0\(n)" : "\(n)" }
                    let text = "\"" + String("000\(year)".suffix(4)) + "-\(two(month))-\(two(day))\""
                    var fits = (1...12).contains(month) && day >= 1
                    if fits { fits = day <= lengths[month - 1] + (isLeap && month == 2 ? 1 : 0) }
                    #expect(date.accepts(Array(text.utf8)) == fits, "\(text)")
                }
            }
        }
    }

    // MARK: Structure

    @Test func whiteSpaceIsToleratedButBounded() throws {
        let schema =
            #"{"type":"object","properties":{"a":{"type":"array","items":{"type":"integer"}}},"required":["a"]}"#
        for text in [
            #"{"a":[1,2]}"#, #"{ "a": [ 1, 2 ] }"#, "{\n  \"a\": [\n    1,\n    2\n  ]\n}", "{\"a\" :[1 , 2]\r\n}",
        ] {
            #expect(try ConstraintSupport.accepts(schema, text, .flexible), "\(text)")
            #expect(try ConstraintSupport.accepts(schema, text, .none) == !text.contains(" "), "\(text)")
        }
        #expect(try !ConstraintSupport.accepts(schema, "{  \"a\":[]}", .flexible))
        #expect(try !ConstraintSupport.accepts(schema, "{\n\n\"a\":[]}", .flexible))
    }

    @Test func objects() throws {
        let schema = """
            {"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"},"c":{"type":"null"}},
            "required":["b"],"additionalProperties":{"type":"string"}}
            """
        for (text, fits) in [
            (#"{"b":true}"#, true), (#"{"a":1,"b":true,"c":null}"#, true), (#"{"b":true,"x":"y","z":""}"#, true),
            (#"{"a":1}"#, false), (#"{"b":true,"a":1}"#, false), (#"{"b":true,"x":1}"#, false),
            (#"{"b":true,}"#, false),
            (#"{"b":true,"b":false}"#, false), (#"{"x":"y","b":true}"#, false), (#"{}"#, false),
            (#"{"b":true,"\u0061":"y"}"#, false),
        ] {
            #expect(try ConstraintSupport.accepts(schema, text) == fits, "\(text)")
        }
        let patterned =
            #"{"type":"object","patternProperties":{"^n_":{"type":"integer"}},"additionalProperties":{"type":"boolean"}}"#
        #expect(try ConstraintSupport.accepts(patterned, #"{"n_x":1,"y":true}"#))
        #expect(try !ConstraintSupport.accepts(patterned, #"{"n_x":true}"#))
        #expect(try !ConstraintSupport.accepts(patterned, #"{"y":1}"#))
        let named = #"{"type":"object","propertyNames":{"enum":["k","l"]},"additionalProperties":{"type":"integer"}}"#
        #expect(try ConstraintSupport.accepts(named, #"{"k":1,"l":2}"#))
        #expect(try !ConstraintSupport.accepts(named, #"{"m":1}"#))
    }

    @Test func conjunctions() throws {
        let both = """
            {"allOf":[{"type":"object","properties":{"a":{"type":"integer","minimum":3}},"required":["a"]},
            {"properties":{"a":{"maximum":5},"b":{"type":"string"}},"required":["b"]}]}
            """
        for (text, fits) in [
            (#"{"a":4,"b":""}"#, true), (#"{"a":6,"b":""}"#, false), (#"{"a":2,"b":""}"#, false), (#"{"a":4}"#, false),
        ] {
            #expect(try ConstraintSupport.accepts(both, text) == fits, "\(text)")
        }
        let beside = ##"{"$defs":{"s":{"type":"string","minLength":2}},"$ref":"#/$defs/s","maxLength":3}"##
        #expect(try ConstraintSupport.accepts(beside, #""abc""#))
        #expect(try !ConstraintSupport.accepts(beside, #""a""#))
        #expect(try !ConstraintSupport.accepts(beside, #""abcd""#))
        let filtered = #"{"type":["integer","string"],"enum":[1,2.5,"x",null],"minimum":0}"#
        #expect(try ConstraintSupport.accepts(filtered, "1"))
        #expect(try ConstraintSupport.accepts(filtered, #""x""#))
        #expect(try !ConstraintSupport.accepts(filtered, "null"))
        #expect(try !ConstraintSupport.accepts(filtered, "2.5"))
        let nullable = #"{"type":"integer","nullable":true}"#
        #expect(try ConstraintSupport.accepts(nullable, "null"))
    }

    @Test func arrays() throws {
        let tuple =
            #"{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":1,"maxItems":3}"#
        for (text, fits) in [
            ("[]", false), ("[1]", true), (#"[1,"a"]"#, true), (#"[1,"a",null]"#, true), (#"[1,"a",null,null]"#, false),
            (#"["a"]"#, false), (#"[1,null]"#, false), ("[1,]", false),
        ] {
            #expect(try ConstraintSupport.accepts(tuple, text) == fits, "\(text)")
        }
        let counted = try ConstraintSupport.constraint(
            #"{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":40}"#)
        for count in 0...42 {
            let text = "[" + [String](repeating: "true", count: count).joined(separator: ",") + "]"
            #expect(counted.accepts(Array(text.utf8)) == (2...40).contains(count), "\(count)")
        }
    }

    @Test func recursion() throws {
        let list = """
            {"$defs":{"list":{"anyOf":[{"type":"null"},{"type":"object","properties":{"next":{"$ref":"#/$defs/list"}},
            "required":["next"],"additionalProperties":false}]}},"$ref":"#/$defs/list"}
            """
        let constraint = try ConstraintSupport.constraint(list)
        for depth in 0...50 {
            let text = String(repeating: "{\"next\":", count: depth) + "null" + String(repeating: "}", count: depth)
            #expect(constraint.accepts(Array(text.utf8)))
            #expect(!constraint.accepts(Array(text.utf8) + [UInt8(ascii: "}")]))
        }
        #expect(throws: JSONSchemaError.unsatisfiable) {
            try ConstraintSupport.constraint(
                ##"{"type":"object","properties":{"next":{"$ref":"#"}},"required":["next"]}"##)
        }
        #expect(throws: JSONSchemaError.endlessReference(path: "#/$defs/a")) {
            try ConstraintSupport.constraint(
                ##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"},{"type":"null"}]}},"$ref":"#/$defs/a"}"##)
        }
        #expect(throws: JSONSchemaError.self) { try ConstraintSupport.constraint(##"{"$ref":"#"}"##) }
    }

    @Test func theCacheForgetsWhatWasUsedLongestAgo() throws {
        let cache = JSONConstraintCache(ConstraintSupport.vocabulary, capacity: 2)
        let first = try cache.constraint(for: ["type": "null"])
        _ = try cache.constraint(for: ["type": "boolean"])
        #expect(try cache.constraint(for: ["type": "null"]) === first)
        _ = try cache.constraint(for: ["type": "string"])
        #expect(try cache.constraint(for: ["type": "null"]) === first)
        #expect(throws: JSONSchemaError.unsatisfiable) { try cache.constraint(for: false) }
    }

    // MARK: Errors

    @Test(arguments: [
        (#"{"not":{}}"#, "#/not: 'not' is not supported in constrained decoding"),
        (
            #"{"properties":{"a/b":{"contains":{}}}}"#,
            "#/properties/a~1b/contains: 'contains' is not supported in constrained decoding"
        ),
        (
            #"{"type":"strin"}"#,
            "#/type: expected one of null, boolean, integer, number, string, array, object, or an array of them, found string \"strin\""
        ),
        (#"{"type":"string","minLength":-1}"#, "#/minLength: expected an integer >= 0, found integer -1"),
        (#"{"type":"string","pattern":"a(?=b)"}"#, "#/pattern: the pattern 'a(?=b)' has a look-around"),
        (
            #"{"type":"string","pattern":"[b-a]"}"#,
            "#/pattern: the pattern '[b-a]' has a range of characters before character 4"
        ),
        (
            ##"{"$ref":"#/$defs/missing"}"##,
            "#/$ref: expected a reference to a place in the schema (#/...), found '#/$defs/missing'"
        ),
        (#"{"items":3}"#, "#/items: expected a schema (an object or a boolean), found integer"),
        (#"{"enum":[]}"#, "#/enum: expected a non-empty array, found array"),
        (
            #"{"type":"object","maxProperties":1}"#,
            "#: 'maxProperties' below the number of possible properties is not supported in constrained decoding"
        ),
        (#"{"type":"integer","minimum":3,"maximum":2}"#, "no finite JSON value fits the schema"),
        ("3", "#: expected a schema (an object or a boolean), found integer"),
        ("false", "no finite JSON value fits the schema"),
    ])
    func errorsNameThePlace(schema: String, message: String) throws {
        let error = #expect(throws: JSONSchemaError.self) { try ConstraintSupport.constraint(schema) }
        #expect(error?.description == message)
    }

    @Test func mangledSchemasGiveErrorsOrConstraints() throws {
        let seeds =
            TokenMaskTests.schemas + [
                #"{"allOf":[{"type":"object","properties":{"a":{"pattern":"^x{2,3}$"}}},{"required":["a"]}],"minimum":1e3}"#,
                #"{"oneOf":[{"type":"number","multipleOf":0.5},{"type":"string","format":"date-time"}],"propertyNames":{"maxLength":2}}"#,
            ]
        var random = TestRandom(3)
        var compiled = 0
        for round in 0..<2400 {
            var bytes = Array(seeds[round % seeds.count].utf8)
            for _ in 0..<Int.random(in: 1...2, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0x20...0x7E, using: &random)
                case 1: bytes.remove(at: place)
                case 2: bytes.insert(bytes.randomElement(using: &random)!, at: place)
                default:
                    let end = min(place + Int.random(in: 1...20, using: &random), bytes.count)
                    bytes.insert(contentsOf: bytes[place..<end], at: Int.random(in: 0...bytes.count, using: &random))
                }
            }
            guard let schema = try? JSONValue(parsing: bytes) else { continue }
            guard let constraint = try? JSONConstraint(schema: schema, vocabulary: ConstraintSupport.vocabulary) else {
                continue
            }
            compiled += 1
            var sampler = ConstraintSampler(constraint, vocabulary: ConstraintSupport.vocabulary, seed: UInt64(round))
            let text = sampler.text(tokens: 12)
            #expect(sampler.deadEnds == 0, "\(schema)")
            if let text { _ = try JSONValue(parsing: text, depthLimit: 1024) }
        }
        #expect(compiled > 20)
    }
}
