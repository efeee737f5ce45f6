/// Methods of dictionaries, lists, tuples, cyclers and loops.
extension TemplateInterpreter {
    /// Whether Python's type has a method of that name, supported here or not: it hides a dictionary's key.
    static func hasMethod(_ name: String, _ value: TemplateValue) -> Bool {
        switch value {
        case .string, .markup: stringMethods.contains(name)
        case .list: listMethods.contains(name)
        case .tuple: name == "index" || name == "count"
        case .dictionary: dictionaryMethods.contains(name)
        case .callable(.cycler): name == "next" || name == "reset"
        case .loop: name == "cycle" || name == "changed"
        default: false
        }
    }

    private static let listMethods: Set<String> = [
        "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort",
    ]

    private static let dictionaryMethods: Set<String> = [
        "clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values",
    ]

    func callMethod(
        _ name: String, of receiver: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        let result =
            switch receiver {
            case .string(let text): try stringMethod(name, text, arguments)
            case .markup(let text): try markupMethod(name, text, arguments)
            case .list(let list): try listMethod(name, list, arguments)
            case .tuple(let tuple): try searchMethod(name, tuple, arguments)
            case .dictionary(let dictionary): try dictionaryMethod(name, dictionary, arguments)
            case .callable(.cycler(let cycler)): callCycler(cycler, name)
            case .loop(let loop): try callLoop(loop, name, arguments)
            default: TemplateValue?.none
            }
        guard let result else {
            throw .unsupported(construct: "the method \(receiver.typeName).\(name)", at: place)
        }
        return result
    }

    /// Parts of text marked safe are safe; other text that joins it is escaped.
    private func markupMethod(
        _ name: String, _ text: String, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        var arguments = arguments
        switch name {
        case "format": return nil
        case "join":
            var parts: [TemplateValue] = []
            for part in try iterate(arguments.positional.first ?? .none) { parts.append(try filter("e", part)) }
            arguments.positional = [try list(parts)]
        case "replace" where arguments.positional.count > 1:
            arguments.positional[1] = try filter("e", arguments.positional[1])
        default: break
        }
        switch try stringMethod(name, text, arguments) {
        case .string(let result): return .markup(result)
        case .list(let parts): return try list(parts.items.map { $0.text.map { .markup($0) } ?? $0 })
        case .tuple(let parts): return try tuple(parts.items.map { $0.text.map { .markup($0) } ?? $0 })
        case let result: return result
        }
    }

    // MARK: Dictionaries

    private func dictionaryMethod(
        _ name: String, _ dictionary: TemplateDictionary, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "get":
            let bound = try bind(arguments, ["key", "default"], required: 1, of: name)
            return dictionary[try key(bound[0] ?? .none)] ?? bound[1] ?? TemplateValue.none
        case "items": return try sequence(.view("dict_items"), try pairs(dictionary))
        case "keys": return try sequence(.view("dict_keys"), dictionary.entries.map(\.key))
        case "values": return try sequence(.view("dict_values"), dictionary.entries.map(\.value))
        case "copy":
            let copy = try self.dictionary()
            try merge(dictionary, into: copy)
            return .dictionary(copy)
        case "update":
            if case .dictionary(let other) = arguments.positional.first {
                try merge(other, into: dictionary)
            } else if !arguments.positional.isEmpty {
                throw .unsupported(construct: "update with a value that is no dictionary", at: place)
            }
            try charge(bytes: 128 * arguments.keyword.count)
            for (name, value) in arguments.keyword { dictionary.set(name, value) }
            return TemplateValue.none
        case "setdefault":
            let bound = try bind(arguments, ["key", "default"], required: 1, of: name)
            let key = try key(bound[0] ?? .none)
            if let value = dictionary[key] { return value }
            try charge(bytes: 128)
            dictionary.set(key, bound[1] ?? TemplateValue.none)
            return bound[1] ?? TemplateValue.none
        case "pop":
            let bound = try bind(arguments, ["key", "default"], required: 1, of: name)
            try charge(bytes: 64 * dictionary.count)
            if let value = dictionary.remove(try key(bound[0] ?? .none)) { return value }
            guard let fallback = bound[1] else { throw fail("there is no key \(try represented(bound[0] ?? .none))") }
            return fallback
        case "clear":
            dictionary.empty()
            return TemplateValue.none
        default: return nil
        }
    }

    private func merge(_ source: TemplateDictionary, into target: TemplateDictionary) throws(TemplateError) {
        try charge(bytes: 128 * source.count)
        for (key, value) in source.entries { target.set(try self.key(key), value) }
    }

    // MARK: Lists

    private func listMethod(
        _ name: String, _ list: TemplateList, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "append":
            let bound = try bind(arguments, ["object"], required: 1, of: name)
            try charge(bytes: 24)
            list.items.append(bound[0] ?? .none)
            return TemplateValue.none
        case "extend":
            let bound = try bind(arguments, ["iterable"], required: 1, of: name)
            let items = try iterate(bound[0] ?? .none)
            try charge(bytes: 24 * items.count)
            list.items += items
            return TemplateValue.none
        case "insert":
            let bound = try bind(arguments, ["index", "object"], required: 2, of: name)
            let index = try integer(bound[0], default: 0, of: name)
            let offset = min(max(index < 0 ? index + list.items.count : index, 0), list.items.count)
            try charge(bytes: 24 * (list.items.count - offset + 1))
            list.items.insert(bound[1] ?? .none, at: offset)
            return TemplateValue.none
        case "pop":
            let bound = try bind(arguments, ["index"], of: name)
            let index = try integer(bound[0], default: -1, of: name)
            let offset = index < 0 ? index + list.items.count : index
            guard list.items.indices.contains(offset) else { throw fail("pop from outside the list") }
            try charge(bytes: 24 * (list.items.count - offset))
            return list.items.remove(at: offset)
        case "remove":
            let bound = try bind(arguments, ["value"], required: 1, of: name)
            guard let index = try firstIndex(of: bound[0] ?? .none, in: list.items) else {
                throw fail("the value is not in the list")
            }
            list.items.remove(at: index)
            return TemplateValue.none
        case "reverse":
            try charge(bytes: 24 * list.items.count)
            list.items.reverse()
            return TemplateValue.none
        case "copy": return try self.list(list.items)
        case "clear":
            list.items = []
            return TemplateValue.none
        default: return try searchMethod(name, list, arguments)
        }
    }

    private func searchMethod(
        _ name: String, _ list: TemplateList, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        guard name == "index" || name == "count" else { return nil }
        let bound = try bind(arguments, ["value"], required: 1, of: name)
        let value = bound[0] ?? .none
        if name == "count" {
            var count = 0
            for item in list.items where try areEqual(item, value) { count += 1 }
            return .integer(count)
        }
        guard let index = try firstIndex(of: value, in: list.items) else { throw fail("the value is not in the list") }
        return .integer(index)
    }

    private func firstIndex(of value: TemplateValue, in items: [TemplateValue]) throws(TemplateError) -> Int? {
        for (index, item) in items.enumerated() where try areEqual(item, value) { return index }
        return nil
    }
}
