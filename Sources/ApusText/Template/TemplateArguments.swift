/// The arguments of a call, evaluated.
struct TemplateArguments {
    var positional: [TemplateValue] = []
    var keyword: [(name: String, value: TemplateValue)] = []

    init(_ positional: TemplateValue...) { self.positional = positional }

    /// Without the first `count` positional arguments.
    func dropping(_ count: Int) -> TemplateArguments {
        var rest = self
        rest.positional.removeFirst(min(count, positional.count))
        return rest
    }
}

/// Arguments matched with parameters by `TemplateInterpreter.bind`.
struct TemplateBoundArguments {
    fileprivate let values: [TemplateValue?]

    /// The argument at a parameter's place, if it was passed.
    subscript(index: Int) -> TemplateValue? { values[index] }
}

extension TemplateInterpreter {
    /// Matches arguments with the named parameters, of which the first `required` must be there.
    func bind(
        _ arguments: TemplateArguments, _ names: [String], required: Int = 0, of function: String
    ) throws(TemplateError) -> TemplateBoundArguments {
        guard arguments.positional.count <= names.count else {
            throw fail("\(function) takes at most \(names.count) arguments, found \(arguments.positional.count)")
        }
        var values = arguments.positional as [TemplateValue?]
        values += [TemplateValue?](repeating: nil, count: names.count - values.count)
        for (name, value) in arguments.keyword {
            guard let index = names.firstIndex(of: name) else { throw fail("\(function) takes no argument '\(name)'") }
            guard values[index] == nil else { throw fail("\(function) got two values for '\(name)'") }
            values[index] = value
        }
        for index in 0..<required where values[index] == nil {
            throw fail("\(function) needs an argument '\(names[index])'")
        }
        return TemplateBoundArguments(values: values)
    }

    /// An integer argument, or `fallback` where it was not passed.
    func integer(
        _ value: TemplateValue?, default fallback: Int, of function: String
    ) throws(TemplateError) -> Int {
        guard let value else { return fallback }
        guard let integer = value.integer else { throw refusal("as an argument of \(function),", value) }
        return integer
    }

    /// A string argument, or nil where it was not passed or is none.
    func text(_ value: TemplateValue?, of function: String) throws(TemplateError) -> String? {
        guard let value, !value.isNone else { return nil }
        guard let text = value.text else { throw refusal("as an argument of \(function),", value) }
        return text
    }
}
