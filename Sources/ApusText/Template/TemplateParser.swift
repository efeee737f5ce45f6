/// Recursive descent over the tokens, with Jinja's grammar. This file holds the statements.
struct TemplateParser {
    static let nestingLimit = 48
    static let depthLimit = 128

    var tokens: [TemplateToken]
    var index = 0
    var nesting = 0
    private var loops = 0
    /// For each macro around the current token: which implicit names it mentions.
    private var implicitNames: [Set<String>] = []

    static func statements(of source: String) throws(TemplateError) -> [TemplateStatement] {
        var parser = TemplateParser(tokens: try TemplateLexer.tokens(of: source))
        let (statements, _) = try parser.parseBody(until: [])
        return statements
    }

    private init(tokens: [TemplateToken]) {
        self.tokens = tokens
    }

    // MARK: Tokens

    var current: TemplateToken { tokens[index] }

    mutating func advance() {
        if index + 1 < tokens.count { index += 1 }
    }

    func isSymbol(_ symbol: String) -> Bool { current.kind == .symbol(symbol) }

    func isName(_ name: String) -> Bool { current.kind == .name(name) }

    func nextIsName(_ name: String) -> Bool {
        index + 1 < tokens.count && tokens[index + 1].kind == .name(name)
    }

    mutating func skipSymbol(_ symbol: String) -> Bool {
        guard isSymbol(symbol) else { return false }
        advance()
        return true
    }

    mutating func skipName(_ name: String) -> Bool {
        guard isName(name) else { return false }
        advance()
        return true
    }

    mutating func expectSymbol(_ symbol: String) throws(TemplateError) {
        guard skipSymbol(symbol) else { throw unexpected("'\(symbol)'") }
    }

    mutating func expectName(_ expected: String = "a name") throws(TemplateError) -> String {
        guard case .name(let name) = current.kind else { throw unexpected(expected) }
        advance()
        return name
    }

    private mutating func expectBlockEnd() throws(TemplateError) {
        guard current.kind == .blockEnd else { throw unexpected("'%}'") }
        advance()
    }

    func unexpected(_ expected: String) -> TemplateError {
        .syntax(expected: expected, found: current.summary, at: current.place)
    }

    /// Counts one level of nested source.
    mutating func nested<Result>(
        _ body: (inout Self) throws(TemplateError) -> Result
    ) throws(TemplateError) -> Result {
        nesting += 1
        defer { nesting -= 1 }
        guard nesting <= Self.nestingLimit else {
            throw .limit(what: "nested blocks and brackets", limit: Self.nestingLimit, at: current.place)
        }
        return try body(&self)
    }

    mutating func noteImplicitName(_ name: String) {
        guard name == "varargs" || name == "kwargs" || name == "caller" else { return }
        for index in implicitNames.indices { implicitNames[index].insert(name) }
    }

    // MARK: Statements

    /// Parses up to a block tag named in `ends`, whose name is read, or to the end of the template if there is none.
    private mutating func parseBody(
        until ends: [String]
    ) throws(TemplateError) -> (statements: [TemplateStatement], end: String) {
        var statements: [TemplateStatement] = []
        while true {
            let token = current
            switch token.kind {
            case .data(let text):
                advance()
                statements.append(.text(text, token.place))
            case .outputBegin:
                advance()
                statements.append(.output(try parseTuple()))
                guard current.kind == .outputEnd else { throw unexpected("'}}'") }
                advance()
            case .blockBegin:
                advance()
                guard case .name(let name) = current.kind else { throw unexpected("a tag") }
                if ends.contains(name) {
                    advance()
                    return (statements, name)
                }
                let statement = try nested { parser throws(TemplateError) in try parser.parseStatement() }
                if let statement { statements.append(contentsOf: statement) }
                try expectBlockEnd()
            default:
                guard ends.isEmpty else {
                    throw unexpected(ends.map { "'{% \($0) %}'" }.joined(separator: " or "))
                }
                return (statements, "")
            }
        }
    }

    /// Parses a block: `%}`, its body and the end tag up to its name.
    private mutating func parseBlock(
        until ends: String...
    ) throws(TemplateError) -> (statements: [TemplateStatement], end: String) {
        _ = skipSymbol(":")
        try expectBlockEnd()
        return try parseBody(until: ends)
    }

    private mutating func parseStatement() throws(TemplateError) -> [TemplateStatement]? {
        let token = current
        let name = try expectName("a tag")
        switch name {
        case "if": return [try parseIf()]
        case "for": return [try parseFor()]
        case "set": return [try parseSet()]
        case "macro": return [try parseMacro(at: token.place)]
        case "call": return [try parseCall(at: token.place)]
        case "with": return [try parseWith()]
        case "filter":
            let value = try parseFilter(of: captured(token.place), startsInline: true)
            return [.filterBlock(value: value, try parseBlock(until: "endfilter").statements)]
        case "generation":
            // transformers renders the body as a call block: a scope of its own, in which no loop can be left.
            let outerLoops = loops
            loops = 0
            defer { loops = outerLoops }
            return [.with([], try parseBlock(until: "endgeneration").statements)]
        case "print":
            var statements: [TemplateStatement] = []
            repeat { statements.append(.output(try parseExpression())) } while skipSymbol(",")
            return statements
        case "break", "continue":
            guard loops > 0 else {
                throw .syntax(expected: "a loop around '\(name)'", found: "none", at: token.place)
            }
            return [name == "break" ? .breakLoop : .continueLoop]
        case "include", "import", "from", "extends", "block", "autoescape", "do", "trans", "pluralize", "debug":
            throw .unsupported(construct: "{% \(name) %}", at: token.place)
        default: throw .syntax(expected: "a tag", found: "'\(name)'", at: token.place)
        }
    }

    private mutating func parseIf() throws(TemplateError) -> TemplateStatement {
        var branches: [TemplateBranch] = []
        while true {
            let condition = try parseTuple(withConditional: false)
            let (body, end) = try parseBlock(until: "elif", "else", "endif")
            branches.append(TemplateBranch(condition: condition, body: body))
            if end == "elif" { continue }
            if end == "endif" { return .branch(branches, otherwise: []) }
            return .branch(branches, otherwise: try parseBlock(until: "endif").statements)
        }
    }

    private mutating func parseFor() throws(TemplateError) -> TemplateStatement {
        let target = try parseTarget(allowsAttribute: false, end: "in")
        guard skipName("in") else { throw unexpected("'in'") }
        let items = try parseTuple(withConditional: false, end: "recursive")
        var filter: TemplateExpression?
        if skipName("if") { filter = try parseExpression() }
        if isName("recursive") { throw .unsupported(construct: "a recursive loop", at: current.place) }
        loops += 1
        let (body, end) = try parseBlock(until: "endfor", "else")
        loops -= 1
        let otherwise = end == "else" ? try parseBlock(until: "endfor").statements : []
        return .loop(TemplateLoop(target: target, items: items, filter: filter, body: body, otherwise: otherwise))
    }

    private mutating func parseSet() throws(TemplateError) -> TemplateStatement {
        let place = current.place
        let target = try parseTarget(allowsAttribute: true, end: nil)
        if skipSymbol("=") { return .set(target, try parseTuple()) }
        let value = try parseFilter(of: captured(place))
        return .setBlock(target, value: value, try parseBlock(until: "endset").statements)
    }

    private mutating func parseWith() throws(TemplateError) -> TemplateStatement {
        var bindings: [TemplateBinding] = []
        while current.kind != .blockEnd {
            if !bindings.isEmpty { try expectSymbol(",") }
            let target = try parseSingleTarget(allowsAttribute: false)
            try expectSymbol("=")
            bindings.append(TemplateBinding(target: target, value: try parseExpression()))
        }
        return .with(bindings, try parseBlock(until: "endwith").statements)
    }

    private mutating func parseMacro(at place: TemplatePlace) throws(TemplateError) -> TemplateStatement {
        let name = try expectName()
        return .macro(try parseMacroBody(name: name, at: place, end: "endmacro") { parser throws(TemplateError) in })
    }

    private mutating func parseCall(at place: TemplatePlace) throws(TemplateError) -> TemplateStatement {
        var call: TemplateExpression?
        let caller = try parseMacroBody(name: "caller", at: place, end: "endcall") { parser throws(TemplateError) in
            let expression = try parser.parseExpression()
            guard case .call = expression.kind else {
                throw .syntax(expected: "a call", found: "another expression", at: expression.place)
            }
            call = expression
        }
        return .callBlock(caller: caller, call!)
    }

    /// Parses parameters, whatever `head` reads, and the body.
    private mutating func parseMacroBody(
        name: String, at place: TemplatePlace, end: String,
        head: (inout Self) throws(TemplateError) -> Void
    ) throws(TemplateError) -> TemplateMacro {
        var parameters: [TemplateMacro.Parameter] = []
        if end == "endmacro" || isSymbol("(") { parameters = try parseParameters() }
        try head(&self)
        let outerLoops = loops
        loops = 0
        implicitNames.append([])
        let body = try parseBlock(until: end).statements
        loops = outerLoops
        return TemplateMacro(
            name: name, parameters: parameters, body: body, place: place, implicitNames: implicitNames.removeLast())
    }

    private mutating func parseParameters() throws(TemplateError) -> [TemplateMacro.Parameter] {
        var parameters: [TemplateMacro.Parameter] = []
        try expectSymbol("(")
        while !isSymbol(")") {
            if !parameters.isEmpty { try expectSymbol(",") }
            let token = current
            let name = try expectName()
            guard !parameters.contains(where: { $0.name == name }) else {
                throw .syntax(expected: "parameters with different names", found: "'\(name)' twice", at: token.place)
            }
            var fallback: TemplateExpression?
            if skipSymbol("=") {
                fallback = try parseExpression()
            } else if parameters.last?.fallback != nil {
                throw .syntax(expected: "a default for '\(name)'", found: "none", at: token.place)
            }
            parameters.append(.init(name: name, fallback: fallback))
        }
        try expectSymbol(")")
        return parameters
    }

    // MARK: Targets

    private mutating func parseTarget(allowsAttribute: Bool, end: String?) throws(TemplateError) -> TemplateTarget {
        var targets: [TemplateTarget] = []
        var isTuple = false
        while true {
            if let end, isName(end), isTuple { break }
            if isSymbol("=") && isTuple { break }
            targets.append(try parseSingleTarget(allowsAttribute: allowsAttribute))
            guard skipSymbol(",") else { break }
            isTuple = true
        }
        return isTuple ? .tuple(targets) : targets[0]
    }

    private mutating func parseSingleTarget(allowsAttribute: Bool) throws(TemplateError) -> TemplateTarget {
        let place = current.place
        if skipSymbol("(") {
            let target = try nested { parser throws(TemplateError) in
                try parser.parseTarget(allowsAttribute: allowsAttribute, end: nil)
            }
            try expectSymbol(")")
            return target
        }
        let name = try expectName("a name to assign to")
        guard !Self.constants.contains(name) else {
            throw .syntax(expected: "a name to assign to", found: "'\(name)'", at: place)
        }
        if allowsAttribute, skipSymbol(".") { return .attribute(of: name, try expectName(), place) }
        return .name(name)
    }

    static let constants: Set<String> = ["true", "false", "none", "True", "False", "None"]

    private func captured(_ place: TemplatePlace) -> TemplateExpression {
        TemplateExpression(kind: .captured, place: place, depth: 1)
    }
}
