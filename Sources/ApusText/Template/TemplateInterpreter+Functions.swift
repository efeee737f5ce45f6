#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Global functions.
extension TemplateInterpreter {
    func callFunction(_ name: String, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        switch name {
        case "range": return try range(arguments)
        case "namespace":
            let namespace = TemplateNamespace(in: heap)
            for (name, value) in try members(arguments, of: name) { namespace.attributes[name] = value }
            return .namespace(namespace)
        case "dict":
            let dictionary = try dictionary()
            for (name, value) in try members(arguments, of: name) { dictionary.set(name, value) }
            return .dictionary(dictionary)
        case "raise_exception":
            let bound = try bind(arguments, ["message"], required: 1, of: name)
            throw .raised(try printed(bound[0] ?? .none), at: place)
        case "strftime_now":
            let bound = try bind(arguments, ["format"], required: 1, of: name)
            return .string(try formatNow(try text(bound[0], of: name) ?? ""))
        case "cycler":
            guard !arguments.positional.isEmpty else { throw fail("cycler needs an argument") }
            return .callable(.cycler(TemplateCycler(arguments.positional, in: heap)))
        case "joiner":
            let bound = try bind(arguments, ["sep"], of: name)
            return .callable(.joiner(TemplateJoiner(try text(bound[0], of: name) ?? ", ")))
        default: throw .unsupported(construct: "the function \(name)", at: place)
        }
    }

    /// What `dict` and `namespace` are made of: a dictionary or pairs, then keyword arguments.
    private func members(
        _ arguments: TemplateArguments, of function: String
    ) throws(TemplateError) -> [(String, TemplateValue)] {
        guard arguments.positional.count <= 1 else { throw fail("\(function) takes at most one positional argument") }
        var members: [(String, TemplateValue)] = []
        if case .dictionary(let dictionary) = arguments.positional.first {
            for (key, value) in dictionary.entries {
                guard let name = key.text else {
                    throw .unsupported(construct: "\(function) with a key of type \(key.typeName)", at: place)
                }
                members.append((name, value))
            }
        } else if let pairs = arguments.positional.first {
            for pair in try iterate(pairs) {
                let items = try iterate(pair)
                guard items.count == 2, let name = items[0].text else {
                    throw fail("\(function) needs pairs of a name and a value")
                }
                members.append((name, items[1]))
            }
        }
        return members + arguments.keyword.map { ($0.name, $0.value) }
    }

    private func range(_ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        guard arguments.keyword.isEmpty, (1...3).contains(arguments.positional.count) else {
            throw fail("range takes one to three positional arguments")
        }
        var bounds: [Int] = []
        for argument in arguments.positional { bounds.append(try integer(argument, default: 0, of: "range")) }
        let start = bounds.count > 1 ? bounds[0] : 0
        let stop = bounds.count > 1 ? bounds[1] : bounds[0]
        let step = bounds.count > 2 ? bounds[2] : 1
        guard step != 0 else { throw fail("the step of a range must not be zero") }
        // Jinja's sandbox has the same limit.
        let limit = 100_000
        let (distance, overflow) =
            step > 0 ? stop.subtractingReportingOverflow(start) : start.subtractingReportingOverflow(stop)
        let isEmpty = step > 0 ? start >= stop : start <= stop
        guard isEmpty || (!overflow && UInt(distance - 1) / step.magnitude < limit) else {
            throw .limit(what: "numbers in a range", limit: limit, at: place)
        }
        let items = isEmpty ? [] : stride(from: start, to: stop, by: step).map { TemplateValue.integer($0) }
        return try sequence(.range(start: start, stop: stop, step: step), items)
    }

    /// The time of the run by `strftime`, in the local time zone.
    private func formatNow(_ format: String) throws(TemplateError) -> String {
        guard !format.isEmpty else { return "" }
        var seconds = now.map { time_t($0) } ?? time(nil)
        var parts = tm()
        localtime_r(&seconds, &parts)
        // A final mark tells an empty result from a buffer that is too small.
        let capacity = 256 + 64 * format.utf8.count
        try charge(bytes: capacity)
        var buffer = [CChar](repeating: 0, count: capacity)
        let length = strftime(&buffer, buffer.count, format + "|", &parts)
        guard length > 0 else { throw fail("the time's text is too long") }
        return String(decoding: buffer[..<(length - 1)].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension TemplateInterpreter {
    func callCycler(_ cycler: TemplateCycler, _ name: String) -> TemplateValue {
        if name == "reset" {
            cycler.position = 0
            return .none
        }
        defer { cycler.position = (cycler.position + 1) % cycler.items.count }
        return cycler.items[cycler.position]
    }

    func callLoop(
        _ loop: TemplateLoopState, _ name: String, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        if name == "cycle" {
            guard !arguments.positional.isEmpty else { throw fail("loop.cycle needs an argument") }
            return arguments.positional[loop.index % arguments.positional.count]
        }
        var isChanged = loop.lastChanged?.count != arguments.positional.count
        for (old, new) in zip(loop.lastChanged ?? [], arguments.positional) where !isChanged {
            isChanged = try !areEqual(old, new)
        }
        loop.lastChanged = arguments.positional
        return .bool(isChanged)
    }
}
