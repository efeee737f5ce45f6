/// Python's notions of type, truth, equality and order.
extension TemplateValue {
    /// Python's name of the type, for messages.
    var typeName: String {
        switch self {
        case .undefined: "Undefined"
        case .none: "NoneType"
        case .bool: "bool"
        case .integer: "int"
        case .double: "float"
        case .string: "str"
        case .markup: "Markup"
        case .list: "list"
        case .tuple: "tuple"
        case .dictionary: "dict"
        case .namespace: "Namespace"
        case .sequence(let sequence):
            switch sequence.kind {
            case .range: "range"
            case .view(let name): name
            case .generator: "generator"
            }
        case .callable(.macro): "Macro"
        case .callable: "function"
        case .loop: "LoopContext"
        }
    }

    var isUndefined: Bool {
        if case .undefined = self { true } else { false }
    }

    var isNone: Bool {
        if case .none = self { true } else { false }
    }

    /// The text of a string, marked safe or not.
    var text: String? {
        switch self {
        case .string(let text), .markup(let text): text
        default: nil
        }
    }

    /// The value of an integer; booleans are integers.
    var integer: Int? {
        switch self {
        case .integer(let value): value
        case .bool(let value): value ? 1 : 0
        default: nil
        }
    }

    /// The value of a number; booleans are numbers.
    var number: Double? {
        if case .double(let value) = self { value } else { integer.map { Double($0) } }
    }

    var isTrue: Bool {
        switch self {
        case .undefined, .none: false
        case .bool(let value): value
        case .integer(let value): value != 0
        case .double(let value): value != 0
        case .string(let text), .markup(let text): !text.isEmpty
        case .list(let list): !list.items.isEmpty
        case .tuple(let tuple): !tuple.items.isEmpty
        case .dictionary(let dictionary): dictionary.count > 0
        case .sequence(let sequence): sequence.isGenerator || !sequence.items.isEmpty
        case .namespace, .callable, .loop: true
        }
    }

    /// Python's `len`, or nil where a value has none.
    var length: Int? {
        switch self {
        case .undefined: 0
        case .string(let text), .markup(let text): text.unicodeScalars.count
        case .list(let list): list.items.count
        case .tuple(let tuple): tuple.items.count
        case .dictionary(let dictionary): dictionary.count
        case .sequence(let sequence): sequence.isGenerator ? nil : sequence.items.count
        default: nil
        }
    }

    /// What a loop over the value walks, or nil where it cannot be walked. A generator is used up.
    var iterated: [TemplateValue]? {
        switch self {
        case .undefined: []
        case .string(let text), .markup(let text): text.unicodeScalars.map { .string(String($0)) }
        case .list(let list): list.items
        case .tuple(let tuple): tuple.items
        case .dictionary(let dictionary): dictionary.entries.map(\.key)
        case .sequence(let sequence): sequence.drain()
        default: nil
        }
    }

    /// Python's `==`. Every comparison takes from the budget; without any left, and for containers nested beyond
    /// any honest depth, the answer is no.
    func isEqual(to other: TemplateValue, budget: inout Int, depth: Int = 0) -> Bool {
        budget -= 16 + (text?.utf8.count ?? 0) / 8
        guard depth < Self.depthLimit, budget > 0 else { return false }
        switch (self, other) {
        case (.undefined, .undefined), (.none, .none): return true
        case (.string(let a), .string(let b)), (.string(let a), .markup(let b)), (.markup(let a), .string(let b)),
            (.markup(let a), .markup(let b)):
            return a.hasSameScalars(as: b)
        case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)):
            return a === b || Self.areEqual(a.items, b.items, &budget, depth)
        case (.dictionary(let a), .dictionary(let b)):
            if a === b { return true }
            guard a.count == b.count else { return false }
            for (key, value) in a.entries {
                guard let key = TemplateKey(key), let match = b[key],
                    value.isEqual(to: match, budget: &budget, depth: depth + 1)
                else { return false }
            }
            return true
        case (.namespace(let a), .namespace(let b)): return a === b
        case (.loop(let a), .loop(let b)): return a === b
        case (.sequence(let a), .sequence(let b)):
            if a === b { return true }
            guard !a.isGenerator, !b.isGenerator, typeName == other.typeName, typeName != "dict_values" else {
                return false
            }
            return Self.areEqual(a.items, b.items, &budget, depth)
        default:
            if let a = integer, let b = other.integer { return a == b }
            if let a = number, let b = other.number { return a == b }
            return false
        }
    }

    static let depthLimit = 200

    private static func areEqual(
        _ left: [TemplateValue], _ right: [TemplateValue], _ budget: inout Int, _ depth: Int
    ) -> Bool {
        guard left.count == right.count else { return false }
        for (a, b) in zip(left, right) {
            guard a.isEqual(to: b, budget: &budget, depth: depth + 1) else { return false }
        }
        return true
    }

    /// Python's `<`, or nil where the types have no order.
    func isLess(than other: TemplateValue, budget: inout Int, depth: Int = 0) -> Bool? {
        budget -= 16 + (text?.utf8.count ?? 0) / 8
        guard depth < Self.depthLimit, budget > 0 else { return false }
        if let a = text, let b = other.text { return a.precedesByScalars(b) }
        if let a = integer, let b = other.integer { return a < b }
        if let a = number, let b = other.number { return a < b }
        switch (self, other) {
        case (.list(let left), .list(let right)), (.tuple(let left), .tuple(let right)):
            for (a, b) in zip(left.items, right.items) where !a.isEqual(to: b, budget: &budget, depth: depth + 1) {
                return a.isLess(than: b, budget: &budget, depth: depth + 1)
            }
            return left.items.count < right.items.count
        default: return nil
        }
    }
}

// MARK: Text

extension TemplateValue {
    /// Appends what Python's `repr` writes, taking the bytes from the budget; stops early without any left. False for
    /// what has no text worth printing: generators, functions, cyclic containers.
    func appendRepr(to text: inout String, budget: inout Int, depth: Int = 0) -> Bool {
        guard depth < Self.depthLimit else { return false }
        guard budget > 0 else { return true }
        let start = text.utf8.count
        switch self {
        case .undefined: text += "Undefined"
        case .none: text += "None"
        case .bool(let value): text += value ? "True" : "False"
        case .integer(let value): text += String(value)
        case .double(let value): text += value.pythonRepr
        case .string(let string): text += string.pythonRepr
        case .markup(let string): text += "Markup(\(string.pythonRepr))"
        case .list(let list): return Self.appendReprs(list.items, "[", "]", to: &text, &budget, depth)
        case .tuple(let tuple):
            let close = tuple.items.count == 1 ? ",)" : ")"
            return Self.appendReprs(tuple.items, "(", close, to: &text, &budget, depth)
        case .dictionary(let dictionary):
            text += "{"
            for (index, entry) in dictionary.entries.enumerated() {
                if index > 0 { text += ", " }
                guard entry.key.appendRepr(to: &text, budget: &budget, depth: depth + 1) else { return false }
                text += ": "
                guard entry.value.appendRepr(to: &text, budget: &budget, depth: depth + 1) else { return false }
            }
            text += "}"
            return true
        case .sequence(let sequence):
            switch sequence.kind {
            case .range(let start, let stop, let step):
                text += step == 1 ? "range(\(start), \(stop))" : "range(\(start), \(stop), \(step))"
            case .view(let name):
                return Self.appendReprs(sequence.items, "\(name)([", "])", to: &text, &budget, depth)
            case .generator: return false
            }
        case .namespace, .callable, .loop: return false
        }
        budget -= 8 * (text.utf8.count - start)
        return true
    }

    private static func appendReprs(
        _ items: [TemplateValue], _ open: String, _ close: String, to text: inout String, _ budget: inout Int,
        _ depth: Int
    ) -> Bool {
        text += open
        for (index, item) in items.enumerated() {
            if index > 0 { text += ", " }
            guard item.appendRepr(to: &text, budget: &budget, depth: depth + 1) else { return false }
        }
        text += close
        budget -= open.utf8.count + close.utf8.count + 2 * items.count
        return true
    }
}

// MARK: JSON

extension TemplateValue {
    init(_ json: JSONValue, in heap: TemplateHeap) {
        switch json {
        case .null: self = .none
        case .bool(let value): self = .bool(value)
        case .integer(let value): self = .integer(Int(value))
        case .double(let value): self = .double(value)
        case .string(let value): self = .string(value)
        case .array(let items): self = .list(TemplateList(items.map { TemplateValue($0, in: heap) }, in: heap))
        case .object(let object):
            let dictionary = TemplateDictionary(in: heap)
            for member in object { dictionary.set(member.key, TemplateValue(member.value, in: heap)) }
            self = .dictionary(dictionary)
        }
    }

    /// Why `json.dumps` refuses a value.
    struct JSONRefusal: Error {
        let reason: String
    }

    /// The value as Python's `json.dumps` sees it. Every element takes from the budget; without any left the rest is
    /// left out.
    func json(sortsKeys: Bool, budget: inout Int, depth: Int = 0) throws(JSONRefusal) -> JSONValue {
        guard depth < Self.depthLimit else { throw JSONRefusal(reason: "a container inside itself") }
        budget -= 16
        guard budget > 0 else { return .null }
        switch self {
        case .none: return .null
        case .bool(let value): return .bool(value)
        case .integer(let value): return .integer(Int64(value))
        case .double(let value): return .double(value)
        case .string(let text), .markup(let text):
            budget -= text.utf8.count
            return .string(text)
        case .list(let list), .tuple(let list):
            var array: [JSONValue] = []
            for item in list.items {
                array.append(try item.json(sortsKeys: sortsKeys, budget: &budget, depth: depth + 1))
            }
            return .array(array)
        case .dictionary(let dictionary):
            var object = JSONObject()
            if sortsKeys, dictionary.count > 1, dictionary.entries.contains(where: { $0.key.text == nil }) {
                throw JSONRefusal(reason: "keys in order that are not all strings")
            }
            for (key, value) in dictionary.entries {
                guard let name = key.jsonKey else { throw JSONRefusal(reason: "a key of type \(key.typeName)") }
                object[name] = try value.json(sortsKeys: sortsKeys, budget: &budget, depth: depth + 1)
            }
            return .object(object)
        default: throw JSONRefusal(reason: "a value of type \(typeName)")
        }
    }

    private var jsonKey: String? {
        switch self {
        case .string(let text), .markup(let text): text
        case .none: "null"
        case .bool(let value): value ? "true" : "false"
        case .integer(let value): String(value)
        case .double(let value): JSONValue.double(value).serialized()
        default: nil
        }
    }
}
