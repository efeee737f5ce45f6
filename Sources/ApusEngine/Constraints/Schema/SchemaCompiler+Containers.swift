import ApusText

extension SchemaCompiler {
    private static let prefixLimit = 1 << 12

    // MARK: Arrays

    /// The place where an array begins.
    mutating func array(_ flat: FlatSchema) throws(JSONSchemaError) -> Int {
        let count = flat.elements.map(\.prefix.count).max() ?? 0
        guard count <= Self.prefixLimit else {
            throw .tooLarge("the number of prefixItems", limit: Self.prefixLimit, path: flat.place.path)
        }
        if let most = flat.maxItems, most < flat.minItems { return add(.fork([])) }
        let close = try punctuation("]", spaceBefore: true, end)
        let item = try rule(for: flat.elements.compactMap(\.rest))
        // Elements behind the prefix.
        let following = rule(
            start: try punctuation(",", spaceBefore: true, spaceAfter: true, add(.call(rule: item, next: end))))
        let most = flat.maxItems.map { max($0 - count, 0) }
        var place = add(
            .loop(
                first: count == 0 ? item : following, again: following, min: max(flat.minItems - count, 0), max: most,
                exit: close))
        // The prefix, from its last element on.
        for index in (0..<count).reversed() {
            guard index < flat.maxItems ?? .max else {
                place = close
                continue
            }
            var here: [SchemaLocation] = []
            for (prefix, rest) in flat.elements {
                if index < prefix.count { here.append(prefix[index]) } else if let rest { here.append(rest) }
            }
            var element = add(.call(rule: try rule(for: here), next: place))
            if index > 0 { element = try punctuation(",", spaceBefore: true, spaceAfter: true, element) }
            place = index >= flat.minItems ? add(.fork([element, close])) : element
        }
        return try punctuation("[", spaceAfter: true, place)
    }

    // MARK: Objects

    private struct Member {
        var key: String
        var schemas: [SchemaLocation]
        var isRequired: Bool
    }

    /// The place where an object begins.
    mutating func object(_ flat: FlatSchema) throws(JSONSchemaError) -> Int {
        let members = try self.members(flat)
        try checkCounts(flat, members)
        let close = try punctuation("}", spaceBefore: true, end)
        // From the last member on: `names` is where another key may begin, `later` what follows a member's value.
        let later = add(.fork([]))
        let additional = try additionalMembers(flat, named: members.map(\.key), next: later)
        var names: Int? = additional.isEmpty ? nil : add(.fork(additional))
        if let names {
            set(later, .fork([try punctuation(",", spaceBefore: true, spaceAfter: true, names), close]))
        } else {
            set(later, .fork([close]))
        }
        var after = later
        var mayEnd = true
        for member in members.reversed() {
            let value = add(.call(rule: try rule(for: member.schemas), next: after))
            let key = self.member(member.key, value)
            if member.isRequired { mayEnd = false }
            let here = member.isRequired || names == nil ? key : add(.fork([key, names!]))
            names = here
            let comma = try punctuation(",", spaceBefore: true, spaceAfter: true, here)
            after = mayEnd ? add(.fork([comma, close])) : comma
        }
        var first = names.map { [$0] } ?? []
        if mayEnd { first.append(close) }
        return try punctuation("{", spaceAfter: true, add(.fork(first)))
    }

    /// The members that the schemas name, in their order, then those that are only required.
    private mutating func members(_ flat: FlatSchema) throws(JSONSchemaError) -> [Member] {
        var keys: [String] = []
        var known: Set<[UInt8]> = []
        for key in flat.members.flatMap({ $0.properties.map(\.key) }) + flat.required
        where known.insert(Array(key.utf8)).inserted { keys.append(key) }
        let required = Set(flat.required.map { Array($0.utf8) })
        var result: [Member] = []
        for key in keys {
            let isRequired = required.contains(Array(key.utf8))
            guard try isName(key, flat) else {
                // A name that is not allowed: no schema fits it.
                if isRequired { throw .unsatisfiable }
                continue
            }
            var schemas: [SchemaLocation] = []
            for source in flat.members {
                let named = source.properties.filter { Array($0.key.utf8) == Array(key.utf8) }.map(\.schema)
                var matching: [SchemaLocation] = []
                for (pattern, place, schema) in source.patterns
                where try automaton(pattern, place).accepts(key.unicodeScalars.map(\.value)) { matching.append(schema) }
                schemas += named + matching
                if named.isEmpty, matching.isEmpty, let additional = source.additional { schemas.append(additional) }
            }
            result.append(Member(key: key, schemas: schemas, isRequired: isRequired))
        }
        return result
    }

    /// Whether `propertyNames` allows a key.
    private mutating func isName(_ key: String, _ flat: FlatSchema) throws(JSONSchemaError) -> Bool {
        guard !flat.names.isEmpty else { return true }
        for choice in try reader.alternatives(of: flat.names) {
            let names = try reader.flat(choice)
            if names.values?.contains(.string(key)) ?? true, try allows(.string(key), names) { return true }
        }
        return false
    }

    /// Counting members would need to tell repeated keys apart; only counts that hold anyway are accepted.
    private func checkCounts(_ flat: FlatSchema, _ members: [Member]) throws(JSONSchemaError) {
        guard flat.minProperties <= members.count(where: \.isRequired) else {
            throw .unsupported("'minProperties' above the number of required properties", path: flat.place.path)
        }
        if let most = flat.maxProperties {
            let isClosed = flat.members.contains {
                $0.additional.map { reader.document.value($0) } == .bool(false) && $0.patterns.isEmpty
            }
            guard isClosed, members.count <= most else {
                throw .unsupported("'maxProperties' below the number of possible properties", path: flat.place.path)
            }
        }
    }

    /// Where members begin that the schemas do not name, each followed by `next`.
    private mutating func additionalMembers(
        _ flat: FlatSchema, named: [String], next: Int
    ) throws(JSONSchemaError) -> [Int] {
        let patterns = flat.members.flatMap(\.patterns)
        guard patterns.count <= 1 else {
            throw .unsupported("more than one of 'patternProperties'", path: patterns[1].place.path)
        }
        var result: [Int] = []
        // Keys that the pattern does not match, or all where there is none.
        let fallback = flat.members.compactMap(\.additional)
        let matching = try patterns.first.map { pattern throws(JSONSchemaError) in
            try automaton(pattern.pattern, pattern.place)
        }
        if !fallback.contains(where: { reader.document.value($0) == .bool(false) }) {
            let value = add(.call(rule: try rule(for: fallback), next: next))
            result += try keys(matching?.complement, flat, excluding: named, value)
        }
        if let pattern = patterns.first {
            // Schemas without the pattern still speak of these keys by their own additionalProperties.
            let others = flat.members.filter { $0.patterns.isEmpty }.compactMap(\.additional)
            let value = add(.call(rule: try rule(for: [pattern.schema] + others), next: next))
            result += try keys(matching, flat, excluding: named, value)
        }
        return result
    }

    /// Keys that match, have an allowed name and are not among those named, each followed by a colon and `value`.
    private mutating func keys(
        _ matching: ScalarAutomaton?, _ flat: FlatSchema, excluding named: [String], _ value: Int
    ) throws(JSONSchemaError) -> [Int] {
        let colon = try punctuation(":", spaceBefore: true, spaceAfter: true, value)
        var base = ScalarAutomaton(excluding: named)
        if let matching { base = try intersection(base, matching, flat.place) }
        var result: [Int] = []
        for choice in try reader.alternatives(of: flat.names) {
            let names = try reader.flat(choice)
            guard names.types.contains(.string) else { continue }
            var characters = try intersection(base, self.characters(names), flat.place)
            if let values = names.values {
                let listed = RegularExpression.alternatives(
                    values.compactMap(\.stringValue).map { .text($0.unicodeScalars.map(\.value)) })
                characters = try intersection(characters, ScalarAutomaton.small(listed), flat.place)
            }
            do {
                let language = try StringLanguage(characters, minLength: names.minLength, maxLength: names.maxLength)
                result.append(add(.string(language), colon))
            } catch {
                throw .tooLarge("the pattern and length of names together", limit: error.limit, path: flat.place.path)
            }
        }
        return result
    }
}
