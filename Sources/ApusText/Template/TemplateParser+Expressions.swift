/// Expressions, from the loosest binding to the tightest.
extension TemplateParser {
    private func make(
        _ kind: TemplateExpression.Kind, at place: TemplatePlace, over children: [TemplateExpression] = []
    ) throws(TemplateError) -> TemplateExpression {
        let depth = 1 + (children.lazy.map(\.depth).max() ?? 0)
        guard depth <= Self.depthLimit else {
            throw .limit(what: "nested expressions", limit: Self.depthLimit, at: place)
        }
        return TemplateExpression(kind: kind, place: place, depth: depth)
    }

    /// Parses one expression, or several with commas between them as a tuple.
    mutating func parseTuple(
        withConditional: Bool = true, end: String? = nil, inParentheses: Bool = false
    ) throws(TemplateError) -> TemplateExpression {
        let place = current.place
        var items: [TemplateExpression] = []
        var isTuple = false
        while !endsTuple(end) {
            items.append(withConditional ? try parseExpression() : try parseOr())
            guard skipSymbol(",") else { break }
            isTuple = true
        }
        if !isTuple {
            if let item = items.first { return item }
            guard inParentheses else { throw unexpected("an expression") }
        }
        return try make(.tuple(items), at: place, over: items)
    }

    private func endsTuple(_ end: String?) -> Bool {
        switch current.kind {
        case .outputEnd, .blockEnd, .symbol(")"): true
        case .name(let name): name == end
        default: false
        }
    }

    mutating func parseExpression() throws(TemplateError) -> TemplateExpression {
        try nested { parser throws(TemplateError) in try parser.parseConditional() }
    }

    private mutating func parseConditional() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        var value = try parseOr()
        while skipName("if") {
            let condition = try parseOr()
            let otherwise = skipName("else") ? try parseExpression() : nil
            value = try make(
                .conditional(condition: condition, value, otherwise: otherwise), at: place,
                over: [condition, value] + (otherwise.map { [$0] } ?? []))
        }
        return value
    }

    mutating func parseOr() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        var operands = [try parseAnd()]
        while skipName("or") { operands.append(try parseAnd()) }
        return operands.count == 1 ? operands[0] : try make(.or(operands), at: place, over: operands)
    }

    private mutating func parseAnd() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        var operands = [try parseNot()]
        while skipName("and") { operands.append(try parseNot()) }
        return operands.count == 1 ? operands[0] : try make(.and(operands), at: place, over: operands)
    }

    private mutating func parseNot() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        guard skipName("not") else { return try parseComparison() }
        let operand = try nested { parser throws(TemplateError) in try parser.parseNot() }
        return try make(.not(operand), at: place, over: [operand])
    }

    private mutating func parseComparison() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        let first = try parseSum()
        var operations: [TemplateOperation] = []
        while let symbol = comparison() {
            operations.append(TemplateOperation(symbol: symbol, operand: try parseSum()))
        }
        if operations.isEmpty { return first }
        return try make(.comparison(first, operations), at: place, over: [first] + operations.map(\.operand))
    }

    /// Reads a comparison operator, if one comes next.
    private mutating func comparison() -> TemplateOperator? {
        switch current.kind {
        case .symbol(let symbol) where ["==", "!=", "<", "<=", ">", ">="].contains(symbol):
            advance()
            return TemplateOperator(rawValue: symbol)
        case .name("in"):
            advance()
            return .isIn
        case .name("not") where nextIsName("in"):
            advance()
            advance()
            return .isNotIn
        default: return nil
        }
    }

    private mutating func parseSum() throws(TemplateError) -> TemplateExpression {
        try parseChain(["+", "-"]) { parser throws(TemplateError) in try parser.parseConcatenation() }
    }

    private mutating func parseConcatenation() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        var operands = [try parseProduct()]
        while skipSymbol("~") { operands.append(try parseProduct()) }
        return operands.count == 1 ? operands[0] : try make(.concatenation(operands), at: place, over: operands)
    }

    private mutating func parseProduct() throws(TemplateError) -> TemplateExpression {
        try parseChain(["*", "/", "//", "%"]) { parser throws(TemplateError) in try parser.parsePower() }
    }

    private mutating func parsePower() throws(TemplateError) -> TemplateExpression {
        try parseChain(["**"]) { parser throws(TemplateError) in try parser.parseUnary(withFilters: true) }
    }

    private mutating func parseChain(
        _ symbols: [String], operand: (inout Self) throws(TemplateError) -> TemplateExpression
    ) throws(TemplateError) -> TemplateExpression {
        let place = current.place
        let first = try operand(&self)
        var operations: [TemplateOperation] = []
        while case .symbol(let text) = current.kind, symbols.contains(text),
            let symbol = TemplateOperator(rawValue: text)
        {
            advance()
            operations.append(TemplateOperation(symbol: symbol, operand: try operand(&self)))
        }
        if operations.isEmpty { return first }
        return try make(.chain(first, operations), at: place, over: [first] + operations.map(\.operand))
    }

    private mutating func parseUnary(withFilters: Bool) throws(TemplateError) -> TemplateExpression {
        let place = current.place
        var expression: TemplateExpression
        if isSymbol("-") || isSymbol("+") {
            let isMinus = isSymbol("-")
            advance()
            let operand = try nested { parser throws(TemplateError) in try parser.parseUnary(withFilters: false) }
            expression = try make(isMinus ? .negate(operand) : .positive(operand), at: place, over: [operand])
        } else {
            expression = try parsePrimary()
        }
        expression = try parsePostfix(expression)
        return withFilters ? try parseFiltersAndTests(expression) : expression
    }

    // MARK: Primaries

    private mutating func parsePrimary() throws(TemplateError) -> TemplateExpression {
        let token = current
        switch token.kind {
        case .name(let name):
            guard !Self.keywords.contains(name) else { throw unexpected("an expression") }
            advance()
            switch name {
            case "true", "True": return try make(.literal(.bool(true)), at: token.place)
            case "false", "False": return try make(.literal(.bool(false)), at: token.place)
            case "none", "None": return try make(.literal(.none), at: token.place)
            default:
                noteImplicitName(name)
                return try make(.name(name), at: token.place)
            }
        case .string(var text):
            advance()
            while case .string(let more) = current.kind {
                text += more
                advance()
            }
            return try make(.literal(.string(text)), at: token.place)
        case .integer(let value):
            advance()
            return try make(.literal(.integer(value)), at: token.place)
        case .double(let value):
            advance()
            return try make(.literal(.double(value)), at: token.place)
        case .symbol("("):
            advance()
            let tuple = try nested { parser throws(TemplateError) in try parser.parseTuple(inParentheses: true) }
            try expectSymbol(")")
            return tuple
        case .symbol("["):
            advance()
            var items: [TemplateExpression] = []
            while !isSymbol("]") {
                if !items.isEmpty { try expectSymbol(",") }
                if isSymbol("]") { break }
                items.append(try parseExpression())
            }
            advance()
            return try make(.list(items), at: token.place, over: items)
        case .symbol("{"): return try parseDictionary()
        default: throw unexpected("an expression")
        }
    }

    private static let keywords: Set<String> = ["and", "or", "in", "is", "if", "else", "elif"]

    private mutating func parseDictionary() throws(TemplateError) -> TemplateExpression {
        let place = current.place
        advance()
        var pairs: [TemplatePair] = []
        while !isSymbol("}") {
            if !pairs.isEmpty { try expectSymbol(",") }
            if isSymbol("}") { break }
            let key = try parseExpression()
            try expectSymbol(":")
            pairs.append(TemplatePair(key: key, value: try parseExpression()))
        }
        advance()
        return try make(.dictionary(pairs), at: place, over: pairs.flatMap { [$0.key, $0.value] })
    }

    // MARK: Postfixes

    private mutating func parsePostfix(_ start: TemplateExpression) throws(TemplateError) -> TemplateExpression {
        var expression = start
        while true {
            if isSymbol(".") {
                expression = try parseAttribute(of: expression)
            } else if isSymbol("[") {
                expression = try parseSubscript(of: expression)
            } else if isSymbol("(") {
                expression = try parseCall(of: expression)
            } else {
                return expression
            }
        }
    }

    private mutating func parseFiltersAndTests(
        _ start: TemplateExpression
    ) throws(TemplateError) -> TemplateExpression {
        var expression = start
        while true {
            if isSymbol("|") {
                expression = try parseFilter(of: expression)
            } else if isName("is") {
                expression = try parseTest(of: expression)
            } else if isSymbol("(") {
                expression = try parseCall(of: expression)
            } else {
                return expression
            }
        }
    }

    private mutating func parseAttribute(of base: TemplateExpression) throws(TemplateError) -> TemplateExpression {
        let place = current.place
        advance()
        switch current.kind {
        case .name(let name):
            advance()
            return try make(.attribute(base, name), at: place, over: [base])
        case .integer(let value):
            let position = try make(.literal(.integer(value)), at: current.place)
            advance()
            return try make(.element(base, position), at: place, over: [base])
        default: throw unexpected("a name or a number")
        }
    }

    private mutating func parseSubscript(of base: TemplateExpression) throws(TemplateError) -> TemplateExpression {
        let place = current.place
        advance()
        var start: TemplateExpression?
        if !isSymbol(":") {
            let first = try parseExpression()
            if isSymbol(",") { throw .unsupported(construct: "a subscript with several indices", at: current.place) }
            guard isSymbol(":") else {
                try expectSymbol("]")
                return try make(.element(base, first), at: place, over: [base, first])
            }
            start = first
        }
        advance()
        var slice = TemplateSlice(start: start)
        if !isSymbol(":"), !isSymbol("]") { slice.stop = try parseExpression() }
        if skipSymbol(":"), !isSymbol("]") { slice.step = try parseExpression() }
        try expectSymbol("]")
        let parts = [base] + [slice.start, slice.stop, slice.step].compactMap { $0 }
        return try make(.slice(base, slice), at: place, over: parts)
    }

    private mutating func parseCall(of base: TemplateExpression) throws(TemplateError) -> TemplateExpression {
        let place = current.place
        let arguments = try parseArguments()
        return try make(.call(base, arguments), at: place, over: [base] + arguments.all)
    }

    private mutating func parseArguments() throws(TemplateError) -> TemplateCallSyntax {
        var arguments = TemplateCallSyntax()
        try expectSymbol("(")
        var isFirst = true
        while !isSymbol(")") {
            if !isFirst { try expectSymbol(",") }
            isFirst = false
            if isSymbol(")") { break }
            let token = current
            if skipSymbol("*") {
                guard arguments.unpackedPositional == nil, arguments.unpackedKeyword == nil else {
                    throw .syntax(expected: "one '*' argument before '**'", found: "another", at: token.place)
                }
                arguments.unpackedPositional = try parseExpression()
            } else if skipSymbol("**") {
                guard arguments.unpackedKeyword == nil else {
                    throw .syntax(expected: "one '**' argument", found: "another", at: token.place)
                }
                arguments.unpackedKeyword = try parseExpression()
            } else if case .name(let name) = token.kind, index + 1 < tokens.count,
                tokens[index + 1].kind == .symbol("=")
            {
                advance()
                advance()
                arguments.keyword.append((name, try parseExpression()))
            } else {
                guard arguments.keyword.isEmpty, arguments.unpackedPositional == nil, arguments.unpackedKeyword == nil
                else { throw unexpected("a keyword argument") }
                arguments.positional.append(try parseExpression())
            }
        }
        advance()
        return arguments
    }

    /// Parses `| name(arguments)` as often as it comes; `startsInline` means that the first bar is left out.
    mutating func parseFilter(
        of base: TemplateExpression, startsInline: Bool = false
    ) throws(TemplateError) -> TemplateExpression {
        var expression = base
        var isInline = startsInline
        while isInline || isSymbol("|") {
            if !isInline { advance() }
            isInline = false
            let place = current.place
            let name = try expectName("a filter")
            let arguments = isSymbol("(") ? try parseArguments() : TemplateCallSyntax()
            expression = try make(.filter(expression, name, arguments), at: place, over: [expression] + arguments.all)
        }
        return expression
    }

    private mutating func parseTest(of base: TemplateExpression) throws(TemplateError) -> TemplateExpression {
        advance()
        let isNegated = skipName("not")
        let place = current.place
        let name = try expectName("a test")
        var arguments = TemplateCallSyntax()
        if isSymbol("(") {
            arguments = try parseArguments()
        } else if startsTestArgument {
            let argument = try parsePrimary()
            arguments.positional = [try parsePostfix(argument)]
        }
        let test = try make(.test(base, name, arguments), at: place, over: [base] + arguments.all)
        return isNegated ? try make(.not(test), at: place, over: [test]) : test
    }

    private var startsTestArgument: Bool {
        switch current.kind {
        case .name(let name): !["else", "or", "and", "is", "if", "in", "not"].contains(name)
        case .string, .integer, .double, .symbol("["), .symbol("{"): true
        default: false
        }
    }
}
