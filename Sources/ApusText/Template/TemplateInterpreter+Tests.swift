/// Tests, what stands after `is`.
extension TemplateInterpreter {
    func test(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> Bool {
        if let result = try typeTest(name, value) {
            _ = try bind(arguments, [], of: "the test '\(name)'")
            return result
        }
        if let symbol = Self.comparisons[name] {
            let bound = try bind(arguments, ["other"], required: 1, of: "the test '\(name)'")
            return try compare(value, symbol, bound[0] ?? .none)
        }
        switch name {
        case "divisibleby":
            let bound = try bind(arguments, ["num"], required: 1, of: "the test '\(name)'")
            return try compute(value, .remainder, bound[0] ?? .none).number == 0
        case "sameas":
            let bound = try bind(arguments, ["other"], required: 1, of: "the test '\(name)'")
            return try isSame(value, bound[0] ?? .none)
        default: throw .unsupported(construct: "the test '\(name)'", at: place)
        }
    }

    private static let comparisons: [String: TemplateOperator] = [
        "==": .equal, "eq": .equal, "equalto": .equal, "!=": .notEqual, "ne": .notEqual, ">": .greater, "gt": .greater,
        "greaterthan": .greater, "ge": .greaterOrEqual, ">=": .greaterOrEqual, "<": .less, "lt": .less,
        "lessthan": .less, "<=": .lessOrEqual, "le": .lessOrEqual, "in": .isIn,
    ]

    private func typeTest(_ name: String, _ value: TemplateValue) throws(TemplateError) -> Bool? {
        switch name {
        case "defined": return !value.isUndefined
        case "undefined": return value.isUndefined
        case "none": return value.isNone
        case "string": return value.text != nil
        case "mapping": if case .dictionary = value { return true } else { return false }
        case "boolean": if case .bool = value { return true } else { return false }
        case "true": if case .bool(true) = value { return true } else { return false }
        case "false": if case .bool(false) = value { return true } else { return false }
        case "integer": if case .integer = value { return true } else { return false }
        case "float": if case .double = value { return true } else { return false }
        case "number": return value.number != nil
        case "escaped": if case .markup = value { return true } else { return false }
        case "callable":
            switch value {
            case .undefined, .callable, .loop: return true
            default: return false
            }
        case "iterable":
            switch value {
            case .undefined, .string, .markup, .list, .tuple, .dictionary, .sequence, .loop: return true
            default: return false
            }
        case "sequence":
            switch value {
            case .undefined, .string, .markup, .list, .tuple, .dictionary: return true
            case .sequence(let sequence): if case .range = sequence.kind { return true } else { return false }
            default: return false
            }
        case "odd", "even":
            guard case .integer(let remainder) = try compute(value, .remainder, .integer(2)) else {
                return try compute(value, .remainder, .integer(2)).number == (name == "odd" ? 1 : 0)
            }
            return remainder == (name == "odd" ? 1 : 0)
        case "lower", "upper":
            let text = try printed(value)
            try charge(bytes: 4 * text.utf8.count)
            guard text.unicodeScalars.contains(where: \.properties.isCased) else { return false }
            return text.hasSameScalars(as: name == "lower" ? text.lowercased() : text.uppercased())
        case "filter", "test": throw .unsupported(construct: "the test '\(name)'", at: place)
        default: return nil
        }
    }

    /// Python's `is`: the same object. Constants are the same object where they are equal and of one type.
    private func isSame(_ left: TemplateValue, _ right: TemplateValue) throws(TemplateError) -> Bool {
        switch (left, right) {
        case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)): return a === b
        case (.dictionary(let a), .dictionary(let b)): return a === b
        case (.sequence(let a), .sequence(let b)): return a === b
        default:
            guard left.typeName == right.typeName else { return false }
            return try areEqual(left, right)
        }
    }
}
