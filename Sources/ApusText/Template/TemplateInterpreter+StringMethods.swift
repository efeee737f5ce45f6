/// Methods of strings.
extension TemplateInterpreter {
    static let stringMethods: Set<String> = [
        "capitalize", "casefold", "center", "count", "encode", "endswith", "expandtabs", "find", "format", "format_map",
        "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric",
        "isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "maketrans", "partition",
        "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip",
        "split", "splitlines", "startswith", "strip", "swapcase", "title", "translate", "upper", "zfill",
    ]

    func stringMethod(
        _ name: String, _ text: String, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        try charge(bytes: 4 * text.utf8.count)
        if let result = try caseMethod(name, text) {
            _ = try bind(arguments, [], of: name)
            return result
        }
        if let result = try cuttingMethod(name, text, arguments) { return result }
        return try searchingMethod(name, text, arguments)
    }

    private func caseMethod(_ name: String, _ text: String) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "upper": return .string(text.uppercased())
        case "lower": return .string(text.lowercased())
        case "title": return .string(text.pythonTitle)
        case "capitalize": return .string(text.pythonCapitalized)
        case "swapcase": return .string(text.swappedCase)
        case "isascii": return .bool(text.utf8.allSatisfy { $0 < 0x80 })
        case "isprintable": return .bool(text.unicodeScalars.allSatisfy(\.isPythonPrintable))
        case "isspace": return all(text, \.isPythonSpace)
        case "isalpha": return all(text) { $0.properties.generalCategory.isLetter }
        case "isalnum":
            return all(text) { $0.properties.generalCategory.isLetter || $0.properties.numericType != nil }
        case "isdecimal": return all(text) { $0.properties.generalCategory == .decimalNumber }
        case "isdigit": return all(text) { [.decimal, .digit].contains($0.properties.numericType) }
        case "isnumeric": return all(text) { $0.properties.numericType != nil }
        case "isupper": return .bool(try test("upper", .string(text), TemplateArguments()))
        case "islower": return .bool(try test("lower", .string(text), TemplateArguments()))
        default: return nil
        }
    }

    private func all(_ text: String, _ holds: (Unicode.Scalar) -> Bool) -> TemplateValue {
        .bool(!text.isEmpty && text.unicodeScalars.allSatisfy(holds))
    }

    private func cuttingMethod(
        _ name: String, _ text: String, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "strip", "lstrip", "rstrip":
            let bound = try bind(arguments, ["chars"], of: name)
            let characters = try self.text(bound[0], of: name)
            return .string(text.stripped(of: characters, left: name != "rstrip", right: name != "lstrip"))
        case "split", "rsplit":
            let bound = try bind(arguments, ["sep", "maxsplit"], of: name)
            let separator = try self.text(bound[0], of: name)
            let limit = try integer(bound[1], default: -1, of: name)
            try charge(bytes: 16 * (text.utf8.count + (separator?.utf8.count ?? 0)))
            guard separator != "" else { throw fail("the separator of \(name) must not be empty") }
            let fromRight = name == "rsplit"
            let parts =
                separator.map { text.split(at: $0, limit: limit, fromRight: fromRight) }
                ?? text.splitAtSpace(limit: limit, fromRight: fromRight)
            return try list(parts.map { .string($0) })
        case "splitlines":
            let bound = try bind(arguments, ["keepends"], of: name)
            return try list(text.lines(keepingEnds: bound[0]?.isTrue ?? false).map { .string($0) })
        case "partition", "rpartition":
            let bound = try bind(arguments, ["sep"], required: 1, of: name)
            guard let separator = try self.text(bound[0], of: name), !separator.isEmpty else {
                throw fail("the separator of \(name) must not be empty")
            }
            try charge(bytes: 16 * (text.utf8.count + separator.utf8.count))
            let parts = text.split(at: separator, limit: 1, fromRight: name == "rpartition")
            let triple =
                parts.count == 2
                ? [parts[0], separator, parts[1]] : name == "partition" ? [text, "", ""] : ["", "", text]
            return try tuple(triple.map { .string($0) })
        case "removeprefix":
            let bound = try bind(arguments, ["prefix"], required: 1, of: name)
            let prefix = try self.text(bound[0], of: name) ?? ""
            return .string(text.starts(withScalars: prefix) ? String(text.utf8.dropFirst(prefix.utf8.count))! : text)
        case "removesuffix":
            let bound = try bind(arguments, ["suffix"], required: 1, of: name)
            let suffix = try self.text(bound[0], of: name) ?? ""
            return .string(text.ends(withScalars: suffix) ? String(text.utf8.dropLast(suffix.utf8.count))! : text)
        case "replace":
            let bound = try bind(arguments, ["old", "new", "count"], required: 2, of: name)
            let old = try self.text(bound[0], of: name) ?? ""
            let new = try self.text(bound[1], of: name) ?? ""
            return .string(try replaced(text, old, new, limit: try integer(bound[2], default: -1, of: name)))
        case "center", "ljust", "rjust":
            let bound = try bind(arguments, ["width", "fillchar"], required: 1, of: name)
            let width = try integer(bound[0], default: 0, of: name)
            let fill = try self.text(bound[1], of: name) ?? " "
            guard fill.unicodeScalars.count == 1 else { throw fail("\(name) fills with one character") }
            return .string(
                try padded(
                    text, to: width, fill: fill, side: name == "center" ? .center : name == "ljust" ? .right : .left))
        case "zfill":
            let bound = try bind(arguments, ["width"], required: 1, of: name)
            let sign = text.first.map { $0 == "-" || $0 == "+" } == true ? String(text.prefix(1)) : ""
            let width = try integer(bound[0], default: 0, of: name) - sign.count
            return .string(sign + (try padded(String(text.dropFirst(sign.count)), to: width, fill: "0", side: .left)))
        default: return nil
        }
    }

    private func searchingMethod(
        _ name: String, _ text: String, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "startswith", "endswith":
            let bound = try bind(arguments, ["prefix", "start", "end"], required: 1, of: name)
            let part = try window(text, bound[1], bound[2], of: name)
            var candidates: [TemplateValue] = []
            if case .tuple(let tuple) = bound[0] { candidates = tuple.items } else { candidates = [bound[0] ?? .none] }
            for candidate in candidates {
                guard let affix = candidate.text else { throw refusal("as an argument of \(name),", candidate) }
                try charge(bytes: affix.utf8.count)
                let holds = name == "startswith" ? part.starts(withScalars: affix) : part.ends(withScalars: affix)
                if holds { return .bool(true) }
            }
            return .bool(false)
        case "find", "rfind", "index", "rindex":
            let bound = try bind(arguments, ["sub"], required: 1, of: name)
            let needle = try self.text(bound[0], of: name) ?? ""
            try charge(bytes: 8 * (text.utf8.count + needle.utf8.count))
            let place = text.place(of: needle, fromRight: name.hasPrefix("r"))
            guard place != nil || name.hasSuffix("find") else { throw fail("the substring was not found") }
            return .integer(place ?? -1)
        case "count":
            let bound = try bind(arguments, ["sub"], required: 1, of: name)
            let needle = try self.text(bound[0], of: name) ?? ""
            try charge(bytes: 8 * (text.utf8.count + needle.utf8.count))
            return .integer(text.occurrences(of: needle))
        case "join":
            let bound = try bind(arguments, ["iterable"], required: 1, of: name)
            var parts: [String] = []
            for item in try iterate(bound[0] ?? .none) {
                guard let part = item.text else { throw refusal("joining", item) }
                try charge(bytes: 2 * (part.utf8.count + text.utf8.count) + 16)
                parts.append(part)
            }
            return .string(parts.joined(separator: text))
        case "format": return .string(try format(text, arguments))
        default: return nil
        }
    }

    /// The part of a text between two positions.
    private func window(
        _ text: String, _ start: TemplateValue?, _ end: TemplateValue?, of name: String
    ) throws(TemplateError) -> String {
        guard start != nil || end != nil else { return text }
        try charge(bytes: 16 * text.utf8.count)
        let scalars = Array(text.unicodeScalars)
        let clamp = { (position: Int) in min(max(position < 0 ? position + scalars.count : position, 0), scalars.count)
        }
        let first = clamp(try integer(start, default: 0, of: name))
        let last = clamp(try integer(end, default: scalars.count, of: name))
        return first < last ? String(scalars[first..<last]) : ""
    }
}

extension String {
    func starts(withScalars prefix: String) -> Bool { utf8.starts(with: prefix.utf8) }

    func ends(withScalars suffix: String) -> Bool { utf8.reversed().starts(with: suffix.utf8.reversed()) }
}

extension Unicode.GeneralCategory {
    /// Whether Python counts it as a letter.
    fileprivate var isLetter: Bool {
        switch self {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
        default: false
        }
    }
}
