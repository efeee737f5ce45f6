import ApusServer
import ApusText
import Testing

@Suite struct ToolCallParserTests {
    /// What an answer became: content and calls.
    struct Answer: Equatable {
        var content = ""
        var calls: [[String]] = []

        init(content: String = "", calls: [[String]] = []) {
            self.content = content
            self.calls = calls
        }

        /// Puts events together, checking that they are in order.
        init(_ events: [ToolCallParser.Event]) {
            var ids: Set<String> = []
            for event in events {
                switch event {
                case .content(let text):
                    #expect(!text.isEmpty)
                    content += text
                case .call(let index, let id, let name):
                    #expect(index == calls.count)
                    #expect(id.hasPrefix("call_") && ids.insert(id).inserted)
                    calls.append([name, ""])
                case .arguments(let index, let text):
                    #expect(index == calls.count - 1 && !text.isEmpty)
                    calls[calls.count - 1][1] += text
                }
            }
        }
    }

    static func parse(_ text: String, _ form: ToolCallForm, pieces: Int, isIncremental: Bool) -> Answer {
        var parser = ToolCallParser(form: form, tools: ["get", "add"], isIncremental: isIncremental)
        var events: [ToolCallParser.Event] = []
        var rest = text[...]
        while !rest.isEmpty {
            events += parser.push(String(rest.prefix(pieces)))
            rest = rest.dropFirst(pieces)
        }
        return Answer(events + parser.finish())
    }

    /// Text, form, and what it is at every way of cutting it, told whole or piece by piece.
    static let cases: [(String, ToolCallForm, Answer)] = [
        (
            #"<tool_call>{"name": "get", "arguments": {"a": [1, "}"]}}</tool_call>"#, .hermes,
            Answer(calls: [["get", #"{"a": [1, "}"]}"#]])
        ),
        (
            "Let me see.\n<tool_call>\n{\"name\": \"get\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n"
                + "{\"arguments\": {\"x\": \"\\\"é\"}, \"name\": \"add\"}\n</tool_call>\n",
            .hermes, Answer(content: "Let me see.", calls: [["get", "{}"], ["add", #"{"x": "\"é"}"#]])
        ),
        (
            #"<tool_call>[{"name": "get", "arguments": {"a": 1}}, {"name": "add", "arguments": {}}]</tool_call>Done"#,
            .hermes,
            Answer(content: "Done", calls: [["get", #"{"a": 1}"#], ["add", "{}"]])
        ),
        ("Use <tool_box> and <tool_call, 1 < 2\n", .hermes, Answer(content: "Use <tool_box> and <tool_call, 1 < 2\n")),
        (
            #"<tool_call>{"name": "unknown", "arguments": {}}</tool_call>"#, .hermes,
            Answer(content: #"<tool_call>{"name": "unknown", "arguments": {}}</tool_call>"#)
        ),
        ("<tool_call>get(1)</tool_call> x", .hermes, Answer(content: "<tool_call>get(1)</tool_call> x")),
        (#"<tool_call>{"name": get}</tool_call>"#, .hermes, Answer(content: #"<tool_call>{"name": get}</tool_call>"#)),
        (#"<tool_call>{"name": "get"}"#, .hermes, Answer(calls: [["get", "{}"]])),
        (#"<tool_call>{"name": "ge"#, .hermes, Answer(content: #"<tool_call>{"name": "ge"#)),
        (
            #"<tool_call>{"name": "get", "arguments": "{\"a\": 1}"}</tool_call>"#, .hermes,
            Answer(calls: [["get", #"{"a": 1}"#]])
        ),
        ("", .hermes, Answer()), ("  plain  text \n", .hermes, Answer(content: "  plain  text \n")),
        (#"{"name": "get", "arguments": {}}"#, .hermes, Answer(content: #"{"name": "get", "arguments": {}}"#)),
        (#"{"name": "get", "parameters": {"city": "Bern"}}"#, .llama3, Answer(calls: [["get", #"{"city": "Bern"}"#]])),
        (
            #"<|python_tag|>{"type": "function", "name": "get", "parameters": {}}; {"name": "add", "parameters": {"b": null}}"#,
            .llama3,
            Answer(calls: [["get", "{}"], ["add", #"{"b": null}"#]])
        ),
        (#"<|python_tag|>print(1)"#, .llama3, Answer(content: "<|python_tag|>print(1)")),
        (#"{"answer": 42}"#, .llama3, Answer(content: #"{"answer": 42}"#)),
        (
            #"{"name": "Bern", "size": 3} is a city"#, .llama3,
            Answer(content: #"{"name": "Bern", "size": 3} is a city"#)
        ),
        (
            #"Here: {"name": "get", "parameters": {}}"#, .llama3,
            Answer(content: #"Here: {"name": "get", "parameters": {}}"#)
        ),
        (
            #"[{"name":"get","arguments":{"a":1}},{"name":"add","arguments":{}}]"#, .json,
            Answer(calls: [["get", #"{"a":1}"#], ["add", "{}"]])
        ),
        (#" {"name":"get","arguments":{}}"#, .json, Answer(calls: [["get", "{}"]])),
        (
            #"<tool_call>{"name": "get", "arguments": {}}</tool_call>"#, .none,
            Answer(content: #"<tool_call>{"name": "get", "arguments": {}}</tool_call>"#)
        ),
    ]

    @Test(arguments: cases.indices, [1, 2, 3, 7, 1000])
    func answers(index: Int, pieces: Int) {
        let (text, form, expected) = Self.cases[index]
        for isIncremental in [false, true] {
            #expect(
                Self.parse(text, form, pieces: pieces, isIncremental: isIncremental) == expected,
                "\(text), pieces of \(pieces), \(isIncremental ? "incremental" : "whole")")
        }
    }

    @Test func argumentsComeAsTheyAreWritten() {
        var parser = ToolCallParser(form: .hermes, tools: ["get"], isIncremental: true)
        var told: [[ToolCallParser.Event]] = []
        for piece in [
            "Hi <tool", "_call>{\"name\": \"get\", \"argu", "ments\": {\"city\": \"B", "ern\"", "}}\n</tool_call>",
        ] {
            told.append(parser.push(piece))
        }
        told.append(parser.finish())
        #expect(parser.callCount == 1)
        guard case .call(0, let id, "get")? = told[2].first else {
            Issue.record("expected a call, found \(told)")
            return
        }
        #expect(id.count == 29)
        told[2].removeFirst()
        #expect(
            told == [
                [.content("Hi")], [], [.arguments(index: 0, "{\"city\": \"B")], [.arguments(index: 0, "ern\"")],
                [.arguments(index: 0, "}")], [],
            ])
    }

    @Test func whatBreaksOffStaysTextUnlessItWasTold() {
        let text = #"<tool_call>{"name": "get", "arguments": {"a": "#
        #expect(Self.parse(text, .hermes, pieces: 5, isIncremental: false) == Answer(content: text))
        #expect(Self.parse(text, .hermes, pieces: 5, isIncremental: true) == Answer(calls: [["get", #"{"a": "#]]))
        let wrong = #"<tool_call>{"name": "get", "arguments": {"a": 1}]</tool_call>"#
        #expect(Self.parse(wrong, .hermes, pieces: 5, isIncremental: false) == Answer(content: wrong))
        #expect(
            Self.parse(wrong, .hermes, pieces: 5, isIncremental: true)
                == Answer(content: "]</tool_call>", calls: [["get", #"{"a": 1}"#]]))
        let broken = #"<tool_call>{"name": "get", "arguments": {"a": nope}}</tool_call>"#
        #expect(Self.parse(broken, .hermes, pieces: 5, isIncremental: false) == Answer(content: broken))
    }

    @Test func mangledCallsLoseNothing() {
        var state: UInt64 = 5
        func random(_ count: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % count
        }
        for round in 0..<3000 {
            let (text, form, _) = Self.cases[round % Self.cases.count]
            var bytes = Array(text.utf8)
            for _ in 0..<(1 + random(3)) where !bytes.isEmpty {
                let place = random(bytes.count)
                switch random(3) {
                case 0: bytes[place] = UInt8(0x20 + random(0x5F))
                case 1: bytes.remove(at: place)
                default: bytes.insert(contentsOf: bytes[place..<min(place + 9, bytes.count)], at: random(bytes.count))
                }
            }
            let mangled = String(decoding: bytes, as: UTF8.self)
            let whole = Self.parse(mangled, form, pieces: 1 + random(6), isIncremental: false)
            #expect(whole == Self.parse(mangled, form, pieces: 1000, isIncremental: false), "\(mangled)")
            if whole.calls.isEmpty { #expect(whole.content == mangled, "\(mangled)") }
            for call in whole.calls { #expect((try? JSONValue(parsing: call[1]))?.objectValue != nil, "\(mangled)") }
            _ = Self.parse(mangled, form, pieces: 1 + random(6), isIncremental: true)
        }
    }

    @Test func formsComeFromTemplates() {
        #expect(ToolCallForm.detected(template: "{% if tools %}<tool_call>{% endif %}") == .hermes)
        #expect(ToolCallForm.detected(template: #"{{ "<|python_tag|>" }}"#) == .llama3)
        #expect(
            ToolCallForm.detected(
                template: #"{"name": function name, "parameters": dictionary of argument name and its value}"#)
                == .llama3)
        #expect(ToolCallForm.detected(template: nil) == .hermes)
    }
}
