import ApusText
import Foundation
import Testing

/// What `Tests/Fixtures/templates.py` rendered with Jinja2.
private enum Fixture {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../Fixtures")

    static func load() throws -> JSONNode {
        // The dates in the fixture are those of UTC.
        setenv("TZ", "UTC", 1)
        tzset()
        let data = try Data(contentsOf: folder.appending(path: "templates.json"))
        return JSONNode(try JSONValue(parsing: [UInt8](data)), name: "templates.json")
    }
}

private func render(_ source: String, _ variables: JSONObject = [:], limits: TemplateLimits? = nil) throws -> String {
    var template = try ChatTemplate(source: source)
    if let limits { template.limits = limits }
    return try template.render(variables: variables)
}

@Suite struct TemplateFixtures {
    @Test func conversationsEqualJinja2() throws {
        let fixture = try Fixture.load()
        let messages = try fixture.child("messages")
        var rendered = 0
        for example in try fixture.child("cases").elements() {
            let file = try example.string("file")
            let path = Fixture.folder.appending(path: "templates/\(file).jinja")
            let template = try ChatTemplate(source: try String(contentsOf: path, encoding: .utf8))
            let name = try example.string("messages")
            var extra: [String: JSONValue] = [:]
            for (key, node) in try example.child("variables").members() { extra[key] = node.value }
            let documents = extra.removeValue(forKey: "documents")
            let render = { () throws(TemplateError) -> String in
                try template.render(
                    messages: try! messages.child(name).value,
                    tools: try! example.bool("tools") ? try! fixture.child("tools").value : nil, documents: documents,
                    extra: extra, now: try! fixture.int("now"))
            }
            if let expected = try example.optional("text")?.string() {
                #expect(try render() == expected, "\(file), \(name)")
                rendered += 1
            } else {
                #expect(throws: TemplateError.self, "\(file), \(name)") { try render() }
            }
        }
        #expect(rendered > 100)
    }

    @Test func randomTemplatesEqualJinja2() throws {
        let fixture = try Fixture.load()
        let values = try fixture.child("values").object()
        var rendered = 0
        for example in try fixture.child("random").elements() {
            let pair = try example.array()
            let source = try #require(pair[0].stringValue)
            let template = try ChatTemplate(source: source)
            if let expected = pair[1].stringValue {
                #expect(throws: Never.self, "\(source)") {
                    let text = try template.render(variables: values)
                    #expect(JSONValue.string(text) == .string(expected), "\(source)")
                }
                rendered += 1
            } else {
                #expect(throws: TemplateError.self, "\(source)") { try template.render(variables: values) }
            }
        }
        #expect(rendered > 1000)
    }
}

@Suite struct TemplateErrors {
    @Test(
        arguments: [
            ("{{ a", "chat template: expected '}}', found the end of the template at line 1, column 1"),
            (
                "x\n{% if a %}y",
                "chat template: expected '{% elif %}' or '{% else %}' or '{% endif %}', found the end of the template at line 2, column 12"
            ),
            ("{% endif %}", "chat template: expected a tag, found 'endif' at line 1, column 4"),
            ("{{ (1 }}", "chat template: expected ')', found '}' at line 1, column 7"),
            ("{{ 1 + }}", "chat template: expected an expression, found '}}' at line 1, column 8"),
            (
                "{{ 'a }}",
                "chat template: expected the string's closing quote, found the end of the template at line 1, column 4"
            ),
            (
                "{{ 99999999999999999999 }}",
                "chat template: expected a number of at most 64 bits, found 99999999999999999999 at line 1, column 4"
            ),
            ("{# a", "chat template: expected '#}', found the end of the template at line 1, column 1"),
            ("{% break %}", "chat template: expected a loop around 'break', found none at line 1, column 4"),
            ("{% include 'x' %}", "chat template: {% include %} is not supported, at line 1, column 4"),
            (
                "{% for a in b recursive %}{% endfor %}",
                "chat template: a recursive loop is not supported, at line 1, column 15"
            ),
        ] as [(String, String)])
    func syntax(source: String, message: String) {
        let error = #expect(throws: TemplateError.self) { try ChatTemplate(source: source) }
        #expect(error?.description == message)
    }

    @Test(
        arguments: [
            ("{{ a.b }}", "chat template: 'a' is undefined at line 1, column 5"),
            ("\n{{ {}.b.c }}", "chat template: 'dict object' has no attribute 'b' at line 2, column 8"),
            ("{{ 1 + 'a' }}", "chat template: '+' between int and str is not possible at line 1, column 4"),
            ("{{ a() }}", "chat template: 'a' is undefined at line 1, column 5"),
            ("{{ none|length }}", "chat template: a value of type NoneType has no length at line 1, column 9"),
            ("{{ [1]|groupby('a') }}", "chat template: the filter 'groupby' is not supported, at line 1, column 8"),
            ("{{ 1 is prime }}", "chat template: the test 'prime' is not supported, at line 1, column 9"),
            ("{{ 'a'.encode() }}", "chat template: the method str.encode is not supported, at line 1, column 14"),
            ("{{ lipsum() }}", "chat template: the function lipsum is not supported, at line 1, column 10"),
            ("{{ raise_exception('no ' ~ 1) }}", "chat template: no 1 (raised at line 1, column 19)"),
            (
                "{% set x.y = 1 %}",
                "chat template: only attributes of a namespace can be set, and 'x' is none at line 1, column 8"
            ),
            ("{% set a, b = [1] %}", "chat template: expected 2 values to unpack, found 1 at line 1, column 15"),
            (
                "{{ undefd|tojson }}",
                "chat template: tojson cannot write a value of type Undefined at line 1, column 11"
            ),
            ("{{ 9223372036854775807 + 1 }}", "chat template: integers are limited to 64 bits at line 1, column 4"),
            ("{{ 1 // 0 }}", "chat template: division by zero at line 1, column 4"),
            ("{{ 'a'|indent(b=1) }}", "chat template: indent takes no argument 'b' at line 1, column 8"),
            (
                "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
                "chat template: macro 'm' takes at most 1 arguments, found 2 at line 1, column 35"
            ),
        ] as [(String, String)])
    func evaluation(source: String, message: String) {
        let error = #expect(throws: TemplateError.self) { try render(source) }
        #expect(error?.description == message)
    }

    /// None of these may crash, hang or fill the memory.
    @Test(arguments: [
        "{{ 'a' * 9000000000 }}", "{{ [1] * 9000000000000 }}", "{{ range(100000000) }}",
        "{{ 'a'|center(90000000000) }}",
        "{{ 'a'.rjust(9000000000) }}", "{{ '%999999d' % 1 ~ '%99999999d' % 1 }}", "{{ '{:>9999999}'.format(1) }}",
        "{{ [1]|tojson(indent=9000000000) }}", "{{ 'a'|indent(9000000000, true) }}", "{{ 2 ** 9000000000 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ [[m(n - 1)]] }}{% endif %}{% endmacro %}{{ m(100000) }}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s.replace('', ns.s) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'text that is written' }}{% endfor %}{% endfor %}",
        "{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}", "{% set l = [1] %}{% set _ = l.append(l) %}{{ l|tojson }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set a = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set a.l = [a.l, a.l] %}{% set a.m = [a.m, a.m] %}{% endfor %}{{ a.l == a.m }}",
    ])
    func limits(source: String) {
        let limits = TemplateLimits(steps: 300_000, workBytes: 16 << 20, outputBytes: 1 << 20)
        #expect(throws: TemplateError.self) { try render(source, limits: limits) }
    }

    @Test func longChainsAreFreedWithoutRecursion() throws {
        let lists = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}done"
        #expect(try render(lists) == "done")
        let tuples = lists.replacingOccurrences(of: "[ns.x]", with: "(ns.x,)")
        #expect(try render(tuples) == "done")
        let spaces = lists.replacingOccurrences(of: "[ns.x]", with: "namespace(x=ns.x)")
        #expect(try render(spaces) == "done")
        let views = lists.replacingOccurrences(of: "[ns.x]", with: "{'a': ns.x}.items()")
        #expect(try render(views) == "done")
    }

    @Test(arguments: [
        ("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("{% if a %}", "{% endif %}"), ("1 if 1 else ", ""),
        ("", ".a"),
        ("", "|trim"), ("", "[0]"), ("", " + 1"), ("", " ~ 1"), ("", " and 1"), ("a(", ")"),
    ])
    func deepNestingIsAnErrorOrFine(open: String, close: String) {
        for depth in [30, 1000, 100_000] {
            let inside = String(repeating: open, count: depth) + "a" + String(repeating: close, count: depth)
            let source = open.hasPrefix("{%") ? inside : "{{ \(inside) }}"
            let text = Result { try render(source, ["a": "b"]) }
            if case .failure(let error) = text { #expect(error is TemplateError) }
        }
    }

    @Test func mutatedTemplatesNeverCrash() throws {
        var generator = SystemRandomNumberGenerator()
        let files = try FileManager.default.contentsOfDirectory(
            at: Fixture.folder.appending(path: "templates"), includingPropertiesForKeys: nil)
        for file in files {
            let source = [UInt8](try Data(contentsOf: file))
            for _ in 0..<60 {
                var bytes = source
                for _ in 0..<Int.random(in: 1...6, using: &generator) {
                    let place = Int.random(in: 0..<bytes.count, using: &generator)
                    switch Int.random(in: 0..<3, using: &generator) {
                    case 0: bytes[place] = .random(in: 0...127, using: &generator)
                    case 1: bytes.remove(at: place)
                    default:
                        let other = Int.random(in: 0..<source.count, using: &generator)
                        bytes.insert(contentsOf: source[other...].prefix(40), at: place)
                    }
                }
                bytes.withUnsafeBytes { fuzzTemplate($0) }
            }
        }
    }
}

@Suite struct TemplateMessages {
    static let call = ChatMessage.ToolCall(id: "c1", name: "add", arguments: ["a": 1])

    @Test func messagesGoToJSONAndBack() throws {
        let messages: [ChatMessage] = [
            .system("s"), .user("u"),
            ChatMessage(role: "assistant", content: nil, toolCalls: [Self.call], reasoning: "r"),
            .tool("3", callID: "c1", name: "add"),
            ChatMessage(role: "user", content: .parts([["type": "text", "text": "x"]]), others: ["k": 1]),
        ]
        for message in messages { #expect(try ChatMessage(JSONNode(message.json, name: "m")) == message) }
        #expect(
            messages[2].json.serialized()
                == #"{"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[{"type":"function","function":{"name":"add","arguments":{"a":1}},"id":"c1"}]}"#
        )
        #expect(messages[4].content?.text == "x")
    }

    @Test func textArgumentsAreParsed() throws {
        let json = try JSONValue(
            parsing:
                #"{"role":"assistant","tool_calls":[{"id":"c1","function":{"name":"add","arguments":"{\"a\": 1}"}}]}"#)
        #expect(try ChatMessage(JSONNode(json, name: "m")).toolCalls == [Self.call])
        let error = #expect(throws: JSONError.self) {
            try ChatMessage(JSONNode(["role": "user", "content": 1], name: "m"))
        }
        #expect(error?.description == "m: content: expected a string or an array of parts, found integer 1")
    }

    @Test func argumentsBecomeTextWhereTheTemplateWantsText() throws {
        let message = ChatMessage.assistant("", toolCalls: [Self.call])
        let concatenating = "{{ 'x' + messages[0].tool_calls[0].function.arguments }}"
        #expect(try ChatTemplate(source: concatenating).render(messages: [message]) == #"x{"a": 1}"#)
        let walking = "{% for k, v in messages[0].tool_calls[0].function.arguments|items %}{{ k }}{{ v }}{% endfor %}"
        #expect(try ChatTemplate(source: walking).render(messages: [message]) == "a1")
        let wrong = "{{ messages[0].tool_calls[0].function.arguments.b.c }}"
        #expect(throws: TemplateError.self) { try ChatTemplate(source: wrong).render(messages: [message]) }
    }

    @Test func toolsAndDocumentsAreNoneWhereTheyAreMissing() throws {
        let source =
            "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ enable_thinking is defined }}"
        #expect(try ChatTemplate(source: source).render(messages: [.user("a")]) == "TrueTrueTrueFalse")
    }

    @Test func templatesAreChosenByName() throws {
        let config = JSONNode(
            [
                "chat_template": [
                    ["name": "default", "template": "D"], ["name": "tool_use", "template": "T"],
                    ["name": "rag", "template": "R"],
                ], "bos_token": "<s>", "eos_token": ["content": "</s>"], "pad_token": nil,
            ], name: "tokenizer_config.json")
        let set = try ChatTemplateSet(tokenizerConfig: config)
        #expect(try set.template().source == "D")
        #expect(try set.template(forTools: true).source == "T")
        #expect(try set.template(named: "rag", forTools: true).source == "R")
        let error = #expect(throws: TemplateError.self) { try set.template(named: "x") }
        #expect(
            error?.description
                == #"chat template: expected a template named "x", found "default", "tool_use", "rag""#)
        let filed = try ChatTemplateSet(tokenizerConfig: config, templateFile: "F", additionalFiles: ["rag": "A"])
        #expect(try filed.template().source == "F")
        #expect(try filed.template(named: "rag").source == "A")
        #expect(try ChatTemplateSet(source: "G").template(forTools: true).source == "G")
        #expect(throws: TemplateError.self) { try ChatTemplateSet(tokenizerConfig: nil).template() }
        #expect(throws: TemplateError.self) {
            try ChatTemplateSet(tokenizerConfig: JSONNode(["chat_template": 1], name: "c"))
        }
        #expect(try ChatTemplateSet.specialTokens(of: config) == ["bos_token": "<s>", "eos_token": "</s>"])
    }
}
