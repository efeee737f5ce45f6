/// Filters: what they take and give is told in Jinja's documentation.
extension TemplateInterpreter {
    func filter(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments = TemplateArguments()
    ) throws(TemplateError) -> TemplateValue {
        if let result = try generalFilter(name, value, arguments) { return result }
        if let result = try textFilter(name, value, arguments) { return result }
        if let result = try sequenceFilter(name, value, arguments) { return result }
        if let result = try selectionFilter(name, value, arguments) { return result }
        throw .unsupported(construct: "the filter '\(name)'", at: place)
    }

    private func generalFilter(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "default", "d":
            let bound = try bind(arguments, ["default_value", "boolean"], of: name)
            let replaces = value.isUndefined || (bound[1]?.isTrue ?? false) && !value.isTrue
            return replaces ? bound[0] ?? .string("") : value
        case "tojson": return .string(try toJSON(value, arguments))
        case "length", "count":
            _ = try bind(arguments, [], of: name)
            if let text = value.text { try charge(bytes: text.utf8.count) }
            guard let length = value.length else { throw fail("a value of type \(value.typeName) has no length") }
            return .integer(length)
        case "string":
            if case .markup = value { return value }
            return .string(try printed(value))
        case "int": return try toInteger(value, arguments)
        case "float": return try toDouble(value, arguments)
        case "abs":
            if case .double(let number) = value { return .double(number.magnitude) }
            guard let number = value.integer else { throw refusal("the absolute value of", value) }
            guard let result = Int(exactly: number.magnitude) else { throw fail("integers are limited to 64 bits") }
            return .integer(result)
        case "round": return try round(value, arguments)
        case "attr":
            let bound = try bind(arguments, ["name"], required: 1, of: name)
            if case .dictionary = value {
                throw .unsupported(construct: "the filter 'attr' on a dictionary", at: place)
            }
            return try attribute(try text(bound[0], of: name) ?? "", of: value)
        default: return nil
        }
    }

    // MARK: JSON

    /// The filter as transformers defines it: `json.dumps` without escaping for HTML.
    private func toJSON(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> String {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"]
        let bound = try bind(arguments, names, of: "tojson")
        var style = JSONStyle.python
        style.ensureASCII = bound[0]?.isTrue ?? false
        style.sortKeys = bound[3]?.isTrue ?? false
        if let indent = bound[1], !indent.isNone {
            let width = try indent.text == nil ? integer(indent, default: 0, of: "tojson") : 0
            try charge(bytes: max(width, 0))
            style.indent = indent.text ?? String(repeating: " ", count: max(width, 0))
            style.itemSeparator = ","
        }
        if let separators = bound[2], !separators.isNone {
            let parts = try iterate(separators)
            guard parts.count == 2, let item = parts[0].text, let key = parts[1].text else {
                throw fail("tojson needs two separators")
            }
            style.itemSeparator = item
            style.keySeparator = key
        }
        let json: JSONValue
        do {
            json = try value.json(sortsKeys: style.sortKeys, budget: &work)
        } catch {
            throw fail("tojson cannot write \(error.reason)")
        }
        try checkWork()
        try charge(bytes: json.indentation(style))
        let text = json.serialized(style)
        try charge(bytes: text.utf8.count)
        return text
    }

    // MARK: Numbers

    private func toInteger(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError)
        -> TemplateValue
    {
        let bound = try bind(arguments, ["default", "base"], of: "int")
        let fallback = bound[0] ?? .integer(0)
        if let text = value.text { try charge(bytes: 32 * text.utf8.count) }
        switch value {
        case .undefined(let undefined): throw fail(undefined.message)
        case .double(let number):
            guard number.isFinite else { return fallback }
            guard let result = Int(exactly: number.rounded(.towardZero)) else {
                throw fail("integers are limited to 64 bits")
            }
            return .integer(result)
        case .string(let text), .markup(let text):
            let base = try integer(bound[1], default: 10, of: "int")
            guard (2...36).contains(base) || base == 0 else { return fallback }
            if let result = Self.parseInteger(text, base: base) { return .integer(result) }
            // As in Jinja, "1.9" is 1.
            guard let number = Self.parseDouble(text), number.isFinite else { return fallback }
            guard let result = Int(exactly: number.rounded(.towardZero)) else {
                throw fail("integers are limited to 64 bits")
            }
            return .integer(result)
        default: return value.integer.map { .integer($0) } ?? fallback
        }
    }

    private func toDouble(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue
    {
        let bound = try bind(arguments, ["default"], of: "float")
        let fallback = bound[0] ?? .double(0)
        if let text = value.text { try charge(bytes: 32 * text.utf8.count) }
        if case .undefined(let undefined) = value { throw fail(undefined.message) }
        if let text = value.text { return Self.parseDouble(text).map { .double($0) } ?? fallback }
        return value.number.map { .double($0) } ?? fallback
    }

    private static func parseInteger(_ text: String, base: Int) -> Int? {
        var digits = Substring(text.stripped())
        var isNegative = false
        if let sign = digits.first, sign == "-" || sign == "+" {
            isNegative = sign == "-"
            digits = digits.dropFirst()
        }
        var base = base
        for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] where digits.lowercased().hasPrefix(prefix) {
            guard base == radix || base == 0 else { break }
            base = radix
            digits = digits.dropFirst(2)
            if digits.first == "_" { digits = digits.dropFirst() }
        }
        if base == 0 { base = 10 }
        guard let plain = withoutSeparators(digits), plain.first?.isHexDigit == true || plain.first?.isLetter == true
        else { return nil }
        return Int((isNegative ? "-" : "") + plain, radix: base)
    }

    private static func parseDouble(_ text: String) -> Double? {
        guard let plain = withoutSeparators(Substring(text.stripped())), !plain.lowercased().contains("0x"),
            !plain.contains("(")
        else { return nil }
        return Double(plain)
    }

    /// The digits without single underscores between them; nil where an underscore stands elsewhere.
    private static func withoutSeparators(_ digits: Substring) -> String? {
        let parts = digits.split(separator: "_", omittingEmptySubsequences: false)
        return parts.contains(where: \.isEmpty) ? nil : parts.joined()
    }

    private func round(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        let bound = try bind(arguments, ["precision", "method"], of: "round")
        let precision = try integer(bound[0], default: 0, of: "round")
        let method = try text(bound[1], of: "round") ?? "common"
        guard ["common", "ceil", "floor"].contains(method) else {
            throw fail("the method of round must be common, ceil or floor")
        }
        guard (-300...300).contains(precision) else { throw fail("the precision of round must be within 300") }
        guard let number = value.number else { throw refusal("rounding", value) }
        if method == "common" {
            guard precision >= 0 else { throw .unsupported(construct: "rounding to tens", at: place) }
            if let whole = value.integer { return .integer(whole) }
            return .double(number.isFinite ? PythonFormat.rounded(number, precision) : number)
        }
        var scale = 1.0
        for _ in 0..<precision.magnitude { scale *= 10 }
        let scaled = precision < 0 ? number / scale : number * scale
        let whole = scaled.rounded(method == "ceil" ? .up : .down)
        guard whole.isFinite else { throw fail("round cannot take \(number.pythonRepr)") }
        // Python computes with integers here, which have no negative zero.
        return .double((precision < 0 ? whole * scale : whole / scale) + 0)
    }
}

extension JSONValue {
    /// Bytes of indentation that a style adds.
    fileprivate func indentation(_ style: JSONStyle, level: Int = 1) -> Int {
        guard let indent = style.indent else { return 0 }
        let children: [JSONValue]
        switch self {
        case .array(let items): children = items
        case .object(let object): children = Array(object.values)
        default: return 0
        }
        let own = saturatingProduct((children.count + 1) * level, indent.utf8.count + 1)
        return children.reduce(own) { total, child in
            let (sum, overflow) = total.addingReportingOverflow(child.indentation(style, level: level + 1))
            return overflow ? .max : sum
        }
    }
}
