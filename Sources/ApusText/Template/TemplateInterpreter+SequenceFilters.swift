/// Filters over lists and dictionaries.
extension TemplateInterpreter {
    func sequenceFilter(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "list": return try list(try iterate(value))
        case "items":
            if value.isUndefined { return try generator([]) }
            guard case .dictionary(let dictionary) = value else { throw refusal("the items of", value) }
            return try generator(try pairs(dictionary))
        case "first": return try first(of: value)
        case "last": return try last(of: value)
        case "join":
            let bound = try bind(arguments, ["d", "attribute"], of: name)
            let separator = try printed(bound[0] ?? .string(""))
            let get = try getter(bound[1])
            var parts: [String] = []
            for item in try iterate(value) {
                let part = try printed(try get(item))
                try charge(bytes: 2 * (part.utf8.count + separator.utf8.count) + 16)
                parts.append(part)
            }
            return .string(parts.joined(separator: separator))
        case "reverse":
            if let text = value.text {
                try charge(bytes: text.utf8.count)
                return .string(String(text.unicodeScalars.reversed()))
            }
            return try generator(try iterate(value).reversed())
        case "sum":
            let bound = try bind(arguments, ["attribute", "start"], of: name)
            let get = try getter(bound[0])
            var total = bound[1] ?? .integer(0)
            for item in try iterate(value) { total = try compute(total, .add, try get(item)) }
            return total
        case "sort": return try sort(value, arguments)
        case "dictsort": return try sortDictionary(value, arguments)
        case "unique": return try unique(value, arguments)
        case "min", "max": return try extreme(name, value, arguments)
        default: return nil
        }
    }

    /// The members of a dictionary as tuples.
    func pairs(_ dictionary: TemplateDictionary) throws(TemplateError) -> [TemplateValue] {
        var pairs: [TemplateValue] = []
        for (key, value) in dictionary.entries { pairs.append(try tuple([key, value])) }
        return pairs
    }

    private func first(of value: TemplateValue) throws(TemplateError) -> TemplateValue {
        let empty = TemplateValue.undefined("there is no first item, the sequence was empty")
        switch value {
        case .sequence(let sequence): return sequence.takeFirst() ?? empty
        case .string(let text), .markup(let text):
            return text.unicodeScalars.first.map { .string(String($0)) } ?? empty
        default: return try iterate(value).first ?? empty
        }
    }

    private func last(of value: TemplateValue) throws(TemplateError) -> TemplateValue {
        let empty = TemplateValue.undefined("there is no last item, the sequence was empty")
        switch value {
        case .sequence(let sequence) where sequence.isGenerator: throw fail("a generator cannot be reversed")
        case .string(let text), .markup(let text):
            return text.unicodeScalars.last.map { .string(String($0)) } ?? empty
        default: return try iterate(value).last ?? empty
        }
    }

    // MARK: Getters

    /// What the `attribute` argument of a filter picks from an item: a path of names and indices, or the item itself.
    func getter(
        _ attribute: TemplateValue?, default fallback: TemplateValue? = nil
    ) throws(TemplateError) -> (TemplateValue) throws(TemplateError) -> TemplateValue {
        guard let attribute, !attribute.isNone else { return { item throws(TemplateError) in item } }
        let path: [TemplateValue]
        if let text = attribute.text {
            path = text.split(separator: ".", omittingEmptySubsequences: false).map { part in
                Int(part).map { .integer($0) } ?? .string(String(part))
            }
        } else {
            path = [attribute]
        }
        return { [unowned self] item throws(TemplateError) in
            var value = item
            for part in path {
                value = try element(part, of: value)
                if value.isUndefined, let fallback { value = fallback }
            }
            return value
        }
    }

    // MARK: Order

    private func folded(_ value: TemplateValue, isCaseSensitive: Bool) throws(TemplateError) -> TemplateValue {
        guard !isCaseSensitive, let text = value.text else { return value }
        try charge(bytes: 8 * text.utf8.count)
        return .string(text.lowercased())
    }

    /// Sorts by keys, stably; equal keys stay in order whichever the direction.
    private func sorted(
        _ items: [TemplateValue], isReversed: Bool, by key: (TemplateValue) throws(TemplateError) -> [TemplateValue]
    ) throws(TemplateError) -> [TemplateValue] {
        var keyed: [(item: TemplateValue, keys: [TemplateValue])] = []
        for item in items { keyed.append((item, try key(item))) }
        var failure: TemplateError?
        let precedes = { [unowned self] (left: [TemplateValue], right: [TemplateValue]) -> Bool in
            do throws(TemplateError) {
                for (a, b) in zip(left, right) where try !areEqual(a, b) { return try isLess(a, b) }
            } catch {
                failure = failure ?? error
            }
            return false
        }
        keyed.sort { isReversed ? precedes($1.keys, $0.keys) : precedes($0.keys, $1.keys) }
        if let failure { throw failure }
        return keyed.map(\.item)
    }

    private func sort(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        let bound = try bind(arguments, ["reverse", "case_sensitive", "attribute"], of: "sort")
        let isCaseSensitive = bound[1]?.isTrue ?? false
        var getters: [(TemplateValue) throws(TemplateError) -> TemplateValue] = []
        if let paths = bound[2]?.text {
            for path in paths.split(separator: ",", omittingEmptySubsequences: false) {
                getters.append(try getter(.string(String(path).stripped())))
            }
        } else {
            getters.append(try getter(bound[2]))
        }
        let items = try iterate(value)
        return try list(
            try sorted(items, isReversed: bound[0]?.isTrue ?? false) { item throws(TemplateError) in
                var keys: [TemplateValue] = []
                for get in getters { keys.append(try folded(try get(item), isCaseSensitive: isCaseSensitive)) }
                return keys
            })
    }

    private func sortDictionary(
        _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        let bound = try bind(arguments, ["case_sensitive", "by", "reverse"], of: "dictsort")
        let isCaseSensitive = bound[0]?.isTrue ?? false
        let by = try text(bound[1], of: "dictsort") ?? "key"
        guard by == "key" || by == "value" else { throw fail("dictsort sorts by 'key' or 'value'") }
        guard case .dictionary(let dictionary) = value else { throw refusal("sorting as a dictionary", value) }
        let items = try pairs(dictionary)
        return try list(
            try sorted(items, isReversed: bound[2]?.isTrue ?? false) { pair throws(TemplateError) in
                guard case .tuple(let tuple) = pair else { return [] }
                return [try folded(tuple.items[by == "key" ? 0 : 1], isCaseSensitive: isCaseSensitive)]
            })
    }

    private func unique(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        let bound = try bind(arguments, ["case_sensitive", "attribute"], of: "unique")
        let isCaseSensitive = bound[0]?.isTrue ?? false
        let get = try getter(bound[1])
        var seen: Set<TemplateKey> = []
        var items: [TemplateValue] = []
        for item in try iterate(value) {
            let key = try key(try folded(try get(item), isCaseSensitive: isCaseSensitive))
            if seen.insert(key).inserted { items.append(item) }
        }
        return try generator(items)
    }

    private func extreme(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        let bound = try bind(arguments, ["case_sensitive", "attribute"], of: name)
        let isCaseSensitive = bound[0]?.isTrue ?? false
        let get = try getter(bound[1])
        var best: (item: TemplateValue, key: TemplateValue)?
        for item in try iterate(value) {
            let key = try folded(try get(item), isCaseSensitive: isCaseSensitive)
            let isBetter = try best.map { best throws(TemplateError) in
                name == "min" ? try isLess(key, best.key) : try isLess(best.key, key)
            }
            if isBetter ?? true { best = (item, key) }
        }
        return best?.item ?? .undefined("there is no \(name), the sequence was empty")
    }

    // MARK: Selection

    func selectionFilter(
        _ name: String, _ value: TemplateValue, _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue? {
        guard ["map", "select", "reject", "selectattr", "rejectattr"].contains(name) else { return nil }
        // As in Jinja, these take anything false for an empty list, none as well.
        guard value.isTrue else { return try generator([]) }
        switch name {
        case "map": return try map(value, arguments)
        case "select", "reject":
            return try select(value, keeps: name == "select", test: arguments) { item throws(TemplateError) in item }
        default:
            guard let attribute = arguments.positional.first else { throw fail("\(name) needs an attribute") }
            let get = try getter(attribute)
            return try select(value, keeps: name == "selectattr", test: arguments.dropping(1), get)
        }
    }

    private func map(_ value: TemplateValue, _ arguments: TemplateArguments) throws(TemplateError) -> TemplateValue {
        var results: [TemplateValue] = []
        if let name = arguments.positional.first {
            guard let name = name.text else { throw refusal("as the name of a filter,", name) }
            let rest = arguments.dropping(1)
            for item in try iterate(value) { results.append(try filter(name, item, rest)) }
        } else {
            let bound = try bind(arguments, ["attribute", "default"], required: 1, of: "map")
            let get = try getter(bound[0], default: bound[1])
            for item in try iterate(value) { results.append(try get(item)) }
        }
        return try generator(results)
    }

    private func select(
        _ value: TemplateValue, keeps: Bool, test arguments: TemplateArguments,
        _ get: (TemplateValue) throws(TemplateError) -> TemplateValue
    ) throws(TemplateError) -> TemplateValue {
        var name: String?
        if let first = arguments.positional.first {
            guard let text = first.text else { throw refusal("as the name of a test,", first) }
            name = text
        }
        let rest = arguments.dropping(1)
        var items: [TemplateValue] = []
        for item in try iterate(value) {
            let subject = try get(item)
            let passes =
                if let name { try test(name, subject, rest) } else { subject.isTrue }
            if passes == keeps { items.append(item) }
        }
        return try generator(items)
    }
}
