/// Walks the statements of a template. One interpreter renders once.
final class TemplateInterpreter {
    let heap = TemplateHeap()
    /// Seconds since 1970 that `strftime_now` shows; nil for the clock.
    let now: Int?
    private let limits: TemplateLimits
    private let root = TemplateScope(parent: nil)
    private var steps = 0
    private var depth = 0
    private var output = ""
    private(set) var captured = ""
    /// Bytes that may still be produced.
    var work: Int
    var scope: TemplateScope
    /// Where the expression stands that is being computed.
    var place = TemplatePlace(line: 1, column: 1)

    private init(limits: TemplateLimits, now: Int?) {
        self.limits = limits
        self.now = now
        work = limits.workBytes
        scope = root
    }

    /// Renders `statements` with `variables` defined.
    static func render(
        _ statements: [TemplateStatement], variables: JSONObject, limits: TemplateLimits, now: Int?
    ) throws(TemplateError) -> String {
        let interpreter = TemplateInterpreter(limits: limits, now: now)
        defer {
            interpreter.root.empty()
            interpreter.heap.release()
        }
        for name in ["range", "dict", "namespace", "raise_exception", "strftime_now", "cycler", "joiner", "lipsum"] {
            interpreter.root.variables[name] = .callable(.function(name))
        }
        for member in variables {
            interpreter.root.variables[member.key] = TemplateValue(member.value, in: interpreter.heap)
        }
        _ = try interpreter.execute(statements)
        return interpreter.output
    }

    // MARK: Limits

    /// Counts one step and one level; the caller gives the level back.
    @inline(__always)
    func enter(at place: TemplatePlace) throws(TemplateError) {
        steps += 1
        depth += 1
        if steps > limits.steps { throw .limit(what: "steps", limit: limits.steps, at: place) }
        if depth > limits.depth { throw .limit(what: "nested steps", limit: limits.depth, at: place) }
    }

    @inline(__always)
    func leave() { depth -= 1 }

    /// Counts bytes that an operation is about to produce.
    func charge(bytes: Int) throws(TemplateError) {
        work -= min(bytes, limits.workBytes)
        try checkWork()
    }

    func checkWork() throws(TemplateError) {
        if work <= 0 { throw .limit(what: "bytes of work", limit: limits.workBytes, at: place) }
    }

    func fail(_ message: String) -> TemplateError { .evaluation(message, at: place) }

    private func write(_ text: String) throws(TemplateError) {
        output += text
        if output.utf8.count > limits.outputBytes {
            throw .limit(what: "bytes of output", limit: limits.outputBytes, at: place)
        }
    }

    // MARK: Containers

    func list(_ items: [TemplateValue]) throws(TemplateError) -> TemplateValue {
        .list(try container(items))
    }

    func tuple(_ items: [TemplateValue]) throws(TemplateError) -> TemplateValue {
        .tuple(try container(items))
    }

    private func container(_ items: [TemplateValue]) throws(TemplateError) -> TemplateList {
        try charge(bytes: 64 + 24 * items.count)
        return TemplateList(items, in: heap)
    }

    func dictionary() throws(TemplateError) -> TemplateDictionary {
        try charge(bytes: 128)
        return TemplateDictionary(in: heap)
    }

    func sequence(_ kind: TemplateSequence.Kind, _ items: [TemplateValue]) throws(TemplateError) -> TemplateValue {
        try charge(bytes: 64 + 24 * items.count)
        return .sequence(TemplateSequence(kind, items, in: heap))
    }

    func generator(_ items: [TemplateValue]) throws(TemplateError) -> TemplateValue {
        try sequence(.generator, items)
    }

    // MARK: Statements

    private enum Flow {
        case next
        case breakLoop
        case continueLoop
    }

    private func execute(_ statements: [TemplateStatement]) throws(TemplateError) -> Flow {
        for statement in statements {
            try enter(at: place)
            defer { leave() }
            let flow = try execute(statement)
            if flow != .next { return flow }
        }
        return .next
    }

    private func execute(_ statement: TemplateStatement) throws(TemplateError) -> Flow {
        switch statement {
        case .text(let text, let place):
            self.place = place
            try write(text)
        case .output(let expression):
            let value = try evaluate(expression)
            place = expression.place
            try write(try printed(value))
        case .branch(let branches, let otherwise): return try executeBranch(branches, otherwise)
        case .loop(let loop): return try executeLoop(loop)
        case .set(let target, let expression):
            let value = try evaluate(expression)
            place = expression.place
            try assign(value, to: target)
        case .setBlock(let target, let expression, let body):
            var flow = Flow.next
            let text = try capturing { () throws(TemplateError) in flow = try executeInScope(body) }
            guard flow == .next else { return flow }
            captured = text
            try assign(try evaluate(expression), to: target)
        case .macro(let macro):
            heap.own(scope, bytes: 256)
            scope.variables[macro.name] = .callable(.macro(macro, scope))
        case .callBlock(let caller, let call): try executeCall(caller, call)
        case .filterBlock(let expression, let body):
            var flow = Flow.next
            let text = try capturing { () throws(TemplateError) in flow = try executeInScope(body) }
            guard flow == .next else { return flow }
            captured = text
            try write(try printed(try evaluate(expression)))
        case .with(let bindings, let body): return try executeWith(bindings, body)
        case .breakLoop: return .breakLoop
        case .continueLoop: return .continueLoop
        }
        return .next
    }

    private func executeBranch(
        _ branches: [TemplateBranch], _ otherwise: [TemplateStatement]
    ) throws(TemplateError) -> Flow {
        for branch in branches where try evaluate(branch.condition).isTrue { return try execute(branch.body) }
        return try execute(otherwise)
    }

    private func executeInScope(_ body: [TemplateStatement]) throws(TemplateError) -> Flow {
        let outer = scope
        scope = TemplateScope(parent: outer)
        defer { scope = outer }
        return try execute(body)
    }

    private func executeWith(_ bindings: [TemplateBinding], _ body: [TemplateStatement]) throws(TemplateError) -> Flow {
        var values: [TemplateValue] = []
        for binding in bindings { values.append(try evaluate(binding.value)) }
        let outer = scope
        scope = TemplateScope(parent: outer)
        defer { scope = outer }
        for (binding, value) in zip(bindings, values) { try assign(value, to: binding.target) }
        return try execute(body)
    }

    private func executeCall(_ caller: TemplateMacro, _ call: TemplateExpression) throws(TemplateError) {
        guard case .call(let callee, let syntax) = call.kind else { return }
        let function = try evaluate(callee)
        var arguments = try evaluate(syntax)
        heap.own(scope, bytes: 256)
        arguments.keyword.append(("caller", .callable(.macro(caller, scope))))
        place = call.place
        try write(try printed(try self.call(function, arguments)))
    }

    private func executeLoop(_ loop: TemplateLoop) throws(TemplateError) -> Flow {
        let items = try iterate(try evaluate(loop.items), at: loop.items.place)
        let outer = scope
        defer { scope = outer }
        let state = TemplateLoopState(items, in: heap, accepts: condition(of: loop, in: outer))
        var inner = TemplateScope(parent: outer)
        while let item = try state.advance() {
            // A macro may have kept the last round's scope.
            if isKnownUniquelyReferenced(&inner) {
                inner.variables.removeAll(keepingCapacity: true)
            } else {
                inner = TemplateScope(parent: outer)
            }
            inner.variables["loop"] = .loop(state)
            scope = inner
            place = loop.items.place
            try assign(item, to: loop.target)
            let flow = try execute(loop.body)
            scope = outer
            if flow == .breakLoop { break }
        }
        // As in Jinja, the else branch is for loops without any round.
        return state.index < 0 ? try execute(loop.otherwise) : .next
    }

    /// What a loop's `if` says of an item; the target is bound in a scope of its own.
    private func condition(
        of loop: TemplateLoop, in outer: TemplateScope
    ) -> ((TemplateValue) throws(TemplateError) -> Bool)? {
        guard let filter = loop.filter else { return nil }
        return { item throws(TemplateError) in
            let current = self.scope
            self.scope = TemplateScope(parent: outer)
            defer { self.scope = current }
            self.place = filter.place
            try self.assign(item, to: loop.target)
            return try self.evaluate(filter).isTrue
        }
    }

    /// The items of a value, or an error where it has none.
    func iterate(_ value: TemplateValue, at place: TemplatePlace? = nil) throws(TemplateError) -> [TemplateValue] {
        if let place { self.place = place }
        switch value {
        case .string(let text), .markup(let text): try charge(bytes: 24 * text.utf8.count)
        case .dictionary(let dictionary): try charge(bytes: 24 * dictionary.count)
        default: break
        }
        guard let items = value.iterated else {
            throw fail("a value of type \(value.typeName) cannot be iterated over")
        }
        return items
    }

    private func assign(_ value: TemplateValue, to target: TemplateTarget) throws(TemplateError) {
        switch target {
        case .name(let name): scope.variables[name] = value
        case .attribute(let name, let attribute, let place):
            self.place = place
            guard case .namespace(let namespace) = scope.find(name) else {
                throw fail("only attributes of a namespace can be set, and '\(name)' is none")
            }
            namespace.attributes[attribute] = value
        case .tuple(let targets):
            let items = try iterate(value)
            guard items.count == targets.count else {
                throw fail("expected \(targets.count) values to unpack, found \(items.count)")
            }
            for (item, target) in zip(items, targets) { try assign(item, to: target) }
        }
    }

    /// What `body` writes, instead of writing it.
    private func capturing(_ body: () throws(TemplateError) -> Void) throws(TemplateError) -> String {
        var outer = ""
        swap(&outer, &output)
        defer { swap(&outer, &output) }
        try body()
        try charge(bytes: output.utf8.count)
        return output
    }

    // MARK: Macros

    func callMacro(
        _ macro: TemplateMacro, _ closure: TemplateScope, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        try enter(at: place)
        defer { leave() }
        let caller = scope
        let inner = TemplateScope(parent: closure)
        try bind(arguments, to: macro, in: inner)
        scope = inner
        defer { scope = caller }
        for parameter in macro.parameters where inner.variables[parameter.name] == nil {
            inner.variables[parameter.name] =
                if let fallback = parameter.fallback {
                    try evaluate(fallback)
                } else {
                    .undefined("parameter '\(parameter.name)' was not provided")
                }
        }
        return .string(try capturing { () throws(TemplateError) in _ = try execute(macro.body) })
    }

    private func bind(
        _ arguments: TemplateArguments, to macro: TemplateMacro, in inner: TemplateScope
    ) throws(TemplateError) {
        for (parameter, value) in zip(macro.parameters, arguments.positional) {
            inner.variables[parameter.name] = value
        }
        let rest = arguments.positional.dropFirst(macro.parameters.count)
        if macro.implicitNames.contains("varargs") {
            inner.variables["varargs"] = try tuple(Array(rest))
        } else if !rest.isEmpty {
            throw fail(
                "macro '\(macro.name)' takes at most \(macro.parameters.count) arguments, "
                    + "found \(arguments.positional.count)")
        }
        let others = macro.implicitNames.contains("kwargs") ? try dictionary() : nil
        if let others { inner.variables["kwargs"] = .dictionary(others) }
        if macro.implicitNames.contains("caller") { inner.variables["caller"] = .undefined("No caller defined") }
        for (name, value) in arguments.keyword {
            if let index = macro.parameters.firstIndex(where: { $0.name == name }) {
                guard index >= arguments.positional.count else {
                    throw fail("macro '\(macro.name)' got two values for '\(name)'")
                }
                inner.variables[name] = value
            } else if name == "caller", macro.implicitNames.contains("caller") {
                inner.variables["caller"] = value
            } else if let others {
                others.set(name, value)
            } else {
                throw fail("macro '\(macro.name)' takes no argument '\(name)'")
            }
        }
    }
}
