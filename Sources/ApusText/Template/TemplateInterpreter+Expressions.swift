/// Expressions. Each kind that needs more than a line has its own function, which keeps the stack frame of the
/// recursion small.
extension TemplateInterpreter {
    func evaluate(_ expression: TemplateExpression) throws(TemplateError) -> TemplateValue {
        try enter(at: expression.place)
        defer { leave() }
        switch expression.kind {
        case .literal(let literal): return TemplateValue(literal)
        case .name(let name): return scope.find(name) ?? .undefined("'\(name)' is undefined")
        case .list(let items): return try list(try evaluateAll(items))
        case .tuple(let items): return try tuple(try evaluateAll(items))
        case .dictionary(let pairs): return try evaluateDictionary(pairs)
        case .attribute(let base, let name):
            let value = try evaluate(base)
            place = expression.place
            return try attribute(name, of: value)
        case .element(let base, let key): return try evaluateElement(base, key, at: expression.place)
        case .slice(let base, let slice): return try evaluateSlice(base, slice, at: expression.place)
        case .call(let callee, let syntax):
            let function = try evaluate(callee)
            let arguments = try evaluate(syntax)
            place = expression.place
            return try call(function, arguments)
        case .filter(let base, let name, let syntax):
            let value = try evaluate(base)
            let arguments = try evaluate(syntax)
            place = expression.place
            return try filter(name, value, arguments)
        case .test(let base, let name, let syntax):
            let value = try evaluate(base)
            let arguments = try evaluate(syntax)
            place = expression.place
            return .bool(try test(name, value, arguments))
        case .not(let operand): return .bool(!(try evaluate(operand).isTrue))
        case .negate(let operand): return try evaluateSign(operand, negates: true, at: expression.place)
        case .positive(let operand): return try evaluateSign(operand, negates: false, at: expression.place)
        case .chain(let first, let operations): return try evaluateChain(first, operations, at: expression.place)
        case .concatenation(let operands): return try evaluateConcatenation(operands)
        case .comparison(let first, let operations):
            return try evaluateComparison(first, operations, at: expression.place)
        case .and(let operands): return try evaluateLogic(operands, stopsAt: false)
        case .or(let operands): return try evaluateLogic(operands, stopsAt: true)
        case .conditional(let condition, let value, let otherwise):
            if try evaluate(condition).isTrue { return try evaluate(value) }
            if let otherwise { return try evaluate(otherwise) }
            return .undefined("the conditional expression has no else branch")
        case .captured: return .string(captured)
        }
    }

    private func evaluateAll(_ expressions: [TemplateExpression]) throws(TemplateError) -> [TemplateValue] {
        var values: [TemplateValue] = []
        values.reserveCapacity(expressions.count)
        for expression in expressions { values.append(try evaluate(expression)) }
        return values
    }

    private func evaluateDictionary(_ pairs: [TemplatePair]) throws(TemplateError) -> TemplateValue {
        let dictionary = try dictionary()
        for pair in pairs {
            let key = try evaluate(pair.key)
            let value = try evaluate(pair.value)
            place = pair.key.place
            dictionary.set(try self.key(key), value)
        }
        return .dictionary(dictionary)
    }

    func key(_ value: TemplateValue) throws(TemplateError) -> TemplateKey {
        if let text = value.text { try charge(bytes: text.utf8.count / 8) }
        guard let key = TemplateKey(value) else { throw fail("a value of type \(value.typeName) cannot be a key") }
        return key
    }

    private func evaluateElement(
        _ base: TemplateExpression, _ key: TemplateExpression, at place: TemplatePlace
    ) throws(TemplateError) -> TemplateValue {
        let value = try evaluate(base)
        let key = try evaluate(key)
        self.place = place
        return try element(key, of: value)
    }

    private func evaluateSlice(
        _ base: TemplateExpression, _ slice: TemplateSlice, at place: TemplatePlace
    ) throws(TemplateError) -> TemplateValue {
        let value = try evaluate(base)
        var bounds: [TemplateValue] = []
        for part in [slice.start, slice.stop, slice.step] {
            bounds.append(try part.map { part throws(TemplateError) in try evaluate(part) } ?? .none)
        }
        self.place = place
        return try self.slice(value, bounds)
    }

    private func evaluateSign(
        _ operand: TemplateExpression, negates: Bool, at place: TemplatePlace
    ) throws(TemplateError) -> TemplateValue {
        let value = try evaluate(operand)
        self.place = place
        if case .double(let number) = value { return .double(negates ? -number : number) }
        guard let number = value.integer else { throw refusal("a sign before", value) }
        let (result, overflows) = negates ? Int(0).subtractingReportingOverflow(number) : (number, false)
        if overflows { throw fail("integers are limited to 64 bits") }
        return .integer(result)
    }

    private func evaluateChain(
        _ first: TemplateExpression, _ operations: [TemplateOperation], at place: TemplatePlace
    ) throws(TemplateError) -> TemplateValue {
        var value = try evaluate(first)
        for operation in operations {
            let operand = try evaluate(operation.operand)
            self.place = place
            value = try compute(value, operation.symbol, operand)
        }
        return value
    }

    private func evaluateConcatenation(_ operands: [TemplateExpression]) throws(TemplateError) -> TemplateValue {
        var text = ""
        for operand in operands {
            let value = try evaluate(operand)
            place = operand.place
            text += try printed(value)
        }
        try charge(bytes: text.utf8.count)
        return .string(text)
    }

    private func evaluateComparison(
        _ first: TemplateExpression, _ operations: [TemplateOperation], at place: TemplatePlace
    ) throws(TemplateError) -> TemplateValue {
        var left = try evaluate(first)
        for operation in operations {
            let right = try evaluate(operation.operand)
            self.place = place
            guard try compare(left, operation.symbol, right) else { return .bool(false) }
            left = right
        }
        return .bool(true)
    }

    /// `and` and `or` give the operand that decides.
    private func evaluateLogic(
        _ operands: [TemplateExpression], stopsAt truth: Bool
    ) throws(TemplateError) -> TemplateValue {
        var value = TemplateValue.none
        for operand in operands {
            value = try evaluate(operand)
            if value.isTrue == truth { return value }
        }
        return value
    }

    // MARK: Calls

    func evaluate(_ syntax: TemplateCallSyntax) throws(TemplateError) -> TemplateArguments {
        var arguments = TemplateArguments()
        for expression in syntax.positional { arguments.positional.append(try evaluate(expression)) }
        if let unpacked = syntax.unpackedPositional {
            arguments.positional += try iterate(try evaluate(unpacked), at: unpacked.place)
        }
        for (name, expression) in syntax.keyword { arguments.keyword.append((name, try evaluate(expression))) }
        if let unpacked = syntax.unpackedKeyword {
            let value = try evaluate(unpacked)
            place = unpacked.place
            guard case .dictionary(let dictionary) = value else { throw refusal("'**' before", value) }
            for (key, value) in dictionary.entries {
                guard let name = key.text else { throw refusal("an argument's name of", key) }
                arguments.keyword.append((name, value))
            }
        }
        return arguments
    }

    func call(_ function: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        switch function {
        case .callable(.method(let receiver, let name)): return try callMethod(name, of: receiver, arguments)
        case .callable(.macro(let macro, let closure)): return try callMacro(macro, closure, arguments)
        case .callable(.function(let name)): return try callFunction(name, arguments)
        case .callable(.joiner(let joiner)):
            defer { joiner.isUsed = true }
            return .string(joiner.isUsed ? joiner.separator : "")
        case .undefined(let undefined): throw fail(undefined.message)
        default: throw fail("a value of type \(function.typeName) cannot be called")
        }
    }

    // MARK: Attributes and elements

    func attribute(_ name: String, of value: TemplateValue) throws(TemplateError) -> TemplateValue {
        switch value {
        case .undefined(let undefined): throw fail(undefined.message)
        case .namespace(let namespace):
            if let value = namespace.attributes[name] { return value }
        case .loop(let loop):
            if let value = try loopAttribute(name, of: loop) { return value }
        case .callable(.macro(let macro, _)) where name == "name": return .string(macro.name)
        case .callable(.cycler(let cycler)) where name == "current": return cycler.items[cycler.position]
        default: break
        }
        if Self.hasMethod(name, value) { return .callable(.method(of: value, name)) }
        if case .dictionary(let dictionary) = value, let value = dictionary[name] { return value }
        return missing(name, in: value)
    }

    private func missing(_ name: String, in value: TemplateValue) -> TemplateValue {
        .undefined("'\(value.typeName) object' has no attribute '\(name)'")
    }

    private func loopAttribute(
        _ name: String, of loop: TemplateLoopState
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "index": .integer(loop.index + 1)
        case "index0": .integer(loop.index)
        case "revindex": .integer(try loop.length() - loop.index)
        case "revindex0": .integer(try loop.length() - loop.index - 1)
        case "first": .bool(loop.index == 0)
        case "last": .bool(try loop.next() == nil)
        case "length": .integer(try loop.length())
        case "depth": .integer(1)
        case "depth0": .integer(0)
        case "previtem": loop.previous ?? .undefined("there is no previous item")
        case "nextitem": try loop.next() ?? .undefined("there is no next item")
        default: nil
        }
    }

    func element(_ key: TemplateValue, of value: TemplateValue) throws(TemplateError) -> TemplateValue {
        switch value {
        case .undefined(let undefined): throw fail(undefined.message)
        case .dictionary(let dictionary):
            if let text = key.text { try charge(bytes: text.utf8.count / 8) }
            if let key = TemplateKey(key), let value = dictionary[key] { return value }
        case .list(let list), .tuple(let list):
            if let item = pick(key, from: list.items) { return item }
        case .sequence(let sequence):
            if case .range = sequence.kind, let item = pick(key, from: sequence.items) { return item }
        case .string(let text), .markup(let text):
            if let position = key.integer {
                try charge(bytes: text.utf8.count / 2)
                let scalars = text.unicodeScalars
                let offset = position < 0 ? scalars.count + position : position
                if offset >= 0,
                    let index = scalars.index(scalars.startIndex, offsetBy: offset, limitedBy: scalars.endIndex),
                    index < scalars.endIndex
                {
                    return .string(String(scalars[index]))
                }
            }
        default: break
        }
        // As in Jinja, `value['name']` falls back to `value.name`.
        guard let name = key.text else {
            return .undefined("'\(value.typeName) object' has no element \(try represented(key))")
        }
        if case .dictionary = value {
            return Self.hasMethod(name, value) ? .callable(.method(of: value, name)) : missing(name, in: value)
        }
        return try attribute(name, of: value)
    }

    private func pick(_ key: TemplateValue, from items: [TemplateValue]) -> TemplateValue? {
        guard let position = key.integer else { return nil }
        let offset = position < 0 ? items.count + position : position
        return items.indices.contains(offset) ? items[offset] : nil
    }

    private func slice(_ value: TemplateValue, _ bounds: [TemplateValue]) throws(TemplateError) -> TemplateValue {
        if case .undefined(let undefined) = value { throw fail(undefined.message) }
        for bound in bounds where !bound.isNone && bound.integer == nil { throw refusal("slicing by", bound) }
        guard let length = value.length else { throw refusal("slicing", value) }
        let step = bounds[2].integer ?? 1
        guard step != 0 else { throw fail("a slice's step must not be zero") }
        let positions = Self.positions(bounds[0].integer, bounds[1].integer, step, length)
        switch value {
        case .string(let text), .markup(let text):
            try charge(bytes: 16 * text.utf8.count)
            let scalars = Array(text.unicodeScalars)
            let result = String(positions.lazy.map { scalars[$0] })
            if case .markup = value { return .markup(result) }
            return .string(result)
        case .list(let list): return try self.list(positions.map { list.items[$0] })
        case .tuple(let tuple): return try self.tuple(positions.map { tuple.items[$0] })
        case .sequence(let sequence):
            if case .range = sequence.kind { return try list(positions.map { sequence.items[$0] }) }
        default: break
        }
        throw refusal("slicing", value)
    }

    /// The positions that Python's `slice(start, stop, step).indices(length)` walks.
    private static func positions(_ start: Int?, _ stop: Int?, _ step: Int, _ length: Int) -> StrideTo<Int> {
        let lowest = step > 0 ? 0 : -1
        let highest = step > 0 ? length : length - 1
        let clamp = { (bound: Int) in
            min(max(bound < 0 ? bound + length : bound, lowest), highest)
        }
        let first = start.map(clamp) ?? (step > 0 ? lowest : highest)
        let end = stop.map(clamp) ?? (step > 0 ? highest : lowest)
        return stride(from: first, to: end, by: step.magnitude > UInt(length) + 1 ? step.signum() * (length + 1) : step)
    }
}

extension TemplateValue {
    init(_ literal: TemplateLiteral) {
        switch literal {
        case .none: self = .none
        case .bool(let value): self = .bool(value)
        case .integer(let value): self = .integer(value)
        case .double(let value): self = .double(value)
        case .string(let value): self = .string(value)
        }
    }
}
