/// Filters that take and give text.
extension TemplateInterpreter {
    func textFilter(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "trim":
            let bound = try bind(arguments, ["chars"], of: name)
            let characters = try text(bound[0], of: name)
            return try transform(value) { text throws(TemplateError) in text.stripped(of: characters) }
        case "upper": return try transform(value) { text throws(TemplateError) in text.uppercased() }
        case "lower": return try transform(value) { text throws(TemplateError) in text.lowercased() }
        case "capitalize": return try transform(value) { text throws(TemplateError) in text.pythonCapitalized }
        case "title": return try transform(value) { text throws(TemplateError) in Self.title(text) }
        case "safe": return .markup(try printed(value))
        case "escape", "e":
            if case .markup = value { return value }
            return .markup(try escaped(value))
        case "forceescape": return .markup(try escaped(value))
        case "replace": return try replace(value, arguments)
        case "indent": return try indent(value, arguments)
        case "center":
            let bound = try bind(arguments, ["width"], of: name)
            let width = try integer(bound[0], default: 80, of: name)
            return try transform(value) { text throws(TemplateError) in
                try padded(text, to: width, fill: " ", side: .center)
            }
        case "format":
            guard arguments.positional.isEmpty || arguments.keyword.isEmpty else {
                throw fail("format takes positional or keyword arguments, not both")
            }
            let text = try printed(value)
            if arguments.keyword.isEmpty {
                return .string(try formatPercent(text, try tuple(arguments.positional)))
            }
            let dictionary = try dictionary()
            for (name, value) in arguments.keyword { dictionary.set(name, value) }
            return .string(try formatPercent(text, .dictionary(dictionary)))
        case "wordcount":
            // Words are runs of letters, digits and underscores.
            let isWord = { (scalar: Unicode.Scalar) in
                scalar == "_" || scalar.properties.isAlphabetic || scalar.properties.numericType != nil
            }
            let text = try printed(value)
            try charge(bytes: 64 * text.utf8.count)
            return .integer(text.unicodeScalars.split { !isWord($0) }.count)
        default: return nil
        }
    }

    private func escaped(_ value: TemplateValue) throws(TemplateError) -> String {
        let text = try printed(value)
        try charge(bytes: 5 * text.utf8.count)
        return text.escapedForHTML
    }

    /// Changes the text of a value; text marked safe stays so.
    private func transform(
        _ value: TemplateValue, _ change: (String) throws(TemplateError) -> String
    ) throws(TemplateError) -> TemplateValue {
        let text = try printed(value)
        try charge(bytes: 16 * text.utf8.count)
        let changed = try change(text)
        if case .markup = value { return .markup(changed) }
        return .string(changed)
    }

    /// Jinja's `title`: words begin after white space and opening brackets, not after every other character.
    private static func title(_ text: String) -> String {
        var result = ""
        var isInWord = false
        for scalar in text.unicodeScalars {
            if scalar.isPythonSpace || ["-", "(", "{", "[", "<"].contains(scalar) {
                isInWord = false
                result.unicodeScalars.append(scalar)
            } else {
                result += isInWord ? scalar.properties.lowercaseMapping : scalar.properties.uppercaseMapping
                isInWord = true
            }
        }
        return result
    }

    private func replace(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue
    {
        let bound = try bind(arguments, ["old", "new", "count"], required: 2, of: "replace")
        let old = try printed(bound[0] ?? .none)
        let new = try printed(bound[1] ?? .none)
        let limit = try (bound[2]?.isNone ?? true) ? -1 : integer(bound[2], default: -1, of: "replace")
        return try transform(value) { text throws(TemplateError) in
            try replaced(text, old, new, limit: limit)
        }
    }

    /// `str.replace`, its result charged before it is made.
    func replaced(_ text: String, _ old: String, _ new: String, limit: Int) throws(TemplateError) -> String {
        try charge(bytes: 16 * (text.utf8.count + old.utf8.count))
        let count = text.occurrences(of: old)
        try charge(bytes: saturatingProduct(limit < 0 ? count : min(count, limit), new.utf8.count))
        return text.replacing(old, with: new, limit: limit)
    }

    private func indent(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        let bound = try bind(arguments, ["width", "first", "blank"], of: "indent")
        let indentsFirst = bound[1]?.isTrue ?? false
        let indentsBlank = bound[2]?.isTrue ?? false
        let width = try bound[0]?.text == nil ? integer(bound[0], default: 4, of: "indent") : 0
        guard value.text != nil else { throw refusal("indenting", value) }
        try charge(bytes: max(width, 0))
        let indentation = bound[0]?.text ?? String(repeating: " ", count: max(width, 0))
        return try transform(value) { text throws(TemplateError) in
            let lines = (text + "\n").lines(keepingEnds: false)
            try charge(bytes: saturatingProduct(lines.count, indentation.utf8.count + 16))
            let indented = lines.enumerated().map { index, line in
                let isIndented = index == 0 ? indentsFirst : indentsBlank || !line.isEmpty
                return isIndented ? indentation + line : line
            }
            return indented.joined(separator: "\n")
        }
    }

    /// Where padding goes.
    enum Padding {
        case left
        case right
        case center
    }

    /// Fills up to `width` scalars.
    func padded(_ text: String, to width: Int, fill: String, side: Padding) throws(TemplateError) -> String {
        let length = text.unicodeScalars.count
        guard width > length else { return text }
        try charge(bytes: saturatingProduct(width, fill.utf8.count))
        let missing = width - length
        // Python's str.center gives the odd blank to the left only in an odd width.
        let left =
            switch side {
            case .left: missing
            case .right: 0
            case .center: missing / 2 + (missing & width & 1)
            }
        return String(repeating: fill, count: left) + text + String(repeating: fill, count: missing - left)
    }
}
