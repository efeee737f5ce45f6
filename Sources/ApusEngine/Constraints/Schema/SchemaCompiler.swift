import ApusText

/// Makes a grammar of a JSON schema: a rule for each list of schemas that hold together, bodies built from their ends.
///
/// Members come in the order in which the schema lists them, then additional ones. Keys and listed values are written
/// with as few escapes as possible.
struct SchemaCompiler {
    private enum Work {
        /// All alternatives of some schemas.
        case alternatives([SchemaLocation])
        /// Plain schemas that hold together.
        case plain([SchemaLocation])
    }

    var reader: SchemaReader
    let whitespace: JSONWhitespace
    private(set) var terminals: [Terminal] = []
    private var nodes: [Grammar.Node] = [.end]
    private var starts: [Int] = []
    private var rules: [String: Int] = [:]
    private var pending: [(rule: Int, work: Work)] = []
    private var knownTerminals: [String: Int] = [:]
    var knownPatterns: [String: ScalarAutomaton] = [:]

    /// The end of every rule.
    let end = 0
    private static let nodeLimit = 1 << 18

    /// The grammar of a schema.
    static func grammar(
        of schema: JSONValue, whitespace: JSONWhitespace
    ) throws(JSONSchemaError) -> Grammar {
        var document = SchemaDocument(schema)
        _ = try document.note(schema, at: .root)
        var compiler = SchemaCompiler(reader: SchemaReader(document: document), whitespace: whitespace)
        return try compiler.compile()
    }

    private init(reader: SchemaReader, whitespace: JSONWhitespace) {
        self.reader = reader
        self.whitespace = whitespace
    }

    private mutating func compile() throws(JSONSchemaError) -> Grammar {
        // The root has a rule of its own, for white space before the value.
        starts.append(0)
        let value = try rule(for: [.root])
        let call = add(.call(rule: value, next: end))
        starts[Grammar.root] = leadingSpace(call)
        while let (rule, work) = pending.popLast() {
            switch work {
            case .plain(let places): starts[rule] = try body(reader.flat(places))
            case .alternatives(let places):
                let choices = try reader.alternatives(of: places)
                if choices.count == 1 {
                    starts[rule] = try body(reader.flat(choices[0]))
                } else {
                    let calls = choices.map { choice in
                        add(.call(rule: number("=" + key(choice), .plain(choice)), next: end))
                    }
                    starts[rule] = add(.fork(calls))
                }
            }
            guard nodes.count <= Self.nodeLimit else {
                throw .tooLarge("the schema's grammar", limit: Self.nodeLimit, path: SchemaLocation.root.path)
            }
        }
        guard let grammar = Grammar(nodes: nodes, starts: starts, terminals: terminals) else { throw .unsatisfiable }
        guard grammar.leftRecursiveRule() == nil else { throw .endlessReference(path: SchemaLocation.root.path) }
        return grammar
    }

    /// The rule of the values that fit all of some schemas; of none, any value.
    mutating func rule(for places: [SchemaLocation]) throws(JSONSchemaError) -> Int {
        var resolved: [SchemaLocation] = []
        for place in places {
            let target = try reader.resolved(place)
            if !resolved.contains(target), reader.document.value(target) != .bool(true) { resolved.append(target) }
        }
        return number(key(resolved), .alternatives(resolved))
    }

    private func key(_ places: [SchemaLocation]) -> String { places.map(\.path).joined(separator: "\u{0}") }

    private mutating func number(_ key: String, _ work: Work) -> Int {
        if let known = rules[key] { return known }
        let rule = starts.count
        starts.append(end)
        rules[key] = rule
        pending.append((rule, work))
        return rule
    }

    /// A rule with a body of its own.
    mutating func rule(start: Int) -> Int {
        starts.append(start)
        return starts.count - 1
    }

    mutating func add(_ node: Grammar.Node) -> Int {
        nodes.append(node)
        return nodes.count - 1
    }

    mutating func set(_ place: Int, _ node: Grammar.Node) { nodes[place] = node }

    // MARK: Terminals

    /// A terminal, then `next`.
    mutating func add(_ terminal: Terminal, _ next: Int) -> Int {
        terminals.append(terminal)
        return add(.terminal(terminals.count - 1, next: next))
    }

    /// A terminal that occurs often, made once.
    mutating func add(
        named name: String, _ next: Int, _ make: () throws(JSONSchemaError) -> Terminal
    ) throws(JSONSchemaError) -> Int {
        if let known = knownTerminals[name] { return add(.terminal(known, next: next)) }
        terminals.append(try make())
        knownTerminals[name] = terminals.count - 1
        return add(.terminal(terminals.count - 1, next: next))
    }

    private var space: RegularExpression {
        switch whitespace {
        case .none: .empty
        case .flexible:
            .alternatives([
                .empty, .ascii(" "),
                .sequence([
                    .ascii("\r").optional, .ascii("\n"), .repetition(.set(ScalarSet(ascii: " \t")), min: 0, max: 32),
                ]),
            ])
        }
    }

    private mutating func leadingSpace(_ next: Int) -> Int {
        guard whitespace != .none else { return next }
        return add(.bytes(ScalarAutomaton.small(.ascii(" ").optional)), next)
    }

    /// Punctuation with white space before or after it.
    mutating func punctuation(
        _ text: String, spaceBefore: Bool = false, spaceAfter: Bool = false, _ next: Int
    ) throws(JSONSchemaError) -> Int {
        let space = self.space
        return try add(named: "\(text) \(spaceBefore) \(spaceAfter)", next) {
            .bytes(
                ScalarAutomaton.small(
                    .sequence([spaceBefore ? space : .empty, .ascii(text), spaceAfter ? space : .empty])))
        }
    }

    /// A key as it stands, its colon and the white space about them.
    mutating func member(_ key: String, _ next: Int) -> Int {
        let text = JSONValue.string(key).serialized().utf8.map { UInt32($0) }
        return add(.bytes(ScalarAutomaton.small(.sequence([.text(text), space, .ascii(":"), space]))), next)
    }

    // MARK: Values

    /// The place where a value begins that fits a plain schema.
    private mutating func body(_ flat: FlatSchema) throws(JSONSchemaError) -> Int {
        if let values = flat.values { return try listed(values, flat) }
        var choices: [Int] = []
        for type in JSONType.allCases where flat.types.contains(type) {
            switch type {
            case .null: choices.append(try add(named: "null", end) { .bytes(ScalarAutomaton.small(.ascii("null"))) })
            case .boolean:
                choices.append(
                    try add(named: "boolean", end) {
                        .bytes(ScalarAutomaton(words: [Array("true".utf8), Array("false".utf8)]))
                    })
            case .integer, .number: choices.append(add(.bytes(try numbers(flat, isInteger: type == .integer)), end))
            case .string: choices.append(add(.string(try strings(flat)), end))
            case .array: choices.append(try array(flat))
            case .object: choices.append(try object(flat))
            }
        }
        return choices.count == 1 ? choices[0] : add(.fork(choices))
    }
}

extension ScalarAutomaton {
    /// The automaton of an expression that is known to be small.
    static func small(_ expression: RegularExpression) -> ScalarAutomaton {
        do {
            return try ScalarAutomaton(expression)
        } catch {
            preconditionFailure("an expression of the compiler's own exceeds \(error.limit) states")
        }
    }
}
