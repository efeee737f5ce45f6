import ApusText

extension SchemaCompiler {
    /// The texts of the numbers that a schema allows.
    func numbers(_ flat: FlatSchema, isInteger: Bool) throws(JSONSchemaError) -> ScalarAutomaton {
        var language = NumberLanguage(low: flat.low, high: flat.high, isInteger: isInteger)
        var divisors: [(Int, SchemaLocation)] = []
        for (value, place) in flat.divisors {
            switch try divisor(value, place) {
            case .whole(let number):
                language.isInteger = true
                if number > 1 { divisors.append((number, place)) }
            case .decimals(let digits): language.fractionDigits = min(language.fractionDigits, digits)
            }
        }
        let place = flat.place
        do {
            var result = try ScalarAutomaton(language.expression)
            for (number, _) in divisors { result = try result.intersection(ScalarAutomaton(multiplesOf: number)) }
            return result
        } catch {
            throw .tooLarge("the range of numbers", limit: error.limit, path: place.path)
        }
    }

    private enum Divisor {
        /// Multiples of a whole number.
        case whole(Int)
        /// At most this many digits after the point.
        case decimals(Int)
    }

    private static let divisorLimit = 4096

    private func divisor(_ value: JSONValue, _ place: SchemaLocation) throws(JSONSchemaError) -> Divisor {
        let number = value.doubleValue ?? 0
        if let whole = Int(exactly: number) {
            guard whole <= Self.divisorLimit else {
                throw .tooLarge("\(whole)", limit: Self.divisorLimit, path: place.path)
            }
            return .whole(whole)
        }
        let decimal = Decimal(number)
        guard decimal.whole == [0], decimal.fraction.last == 1, decimal.fraction.dropLast().allSatisfy({ $0 == 0 })
        else {
            throw .unsupported(
                "a multiple of \(value), which is neither a whole number nor a power of ten,", path: place.path)
        }
        return .decimals(decimal.fraction.count)
    }

    /// The strings that a schema allows.
    mutating func strings(_ flat: FlatSchema) throws(JSONSchemaError) -> StringLanguage {
        let place = flat.place
        let automaton = try characters(flat)
        do {
            return try StringLanguage(automaton, minLength: flat.minLength, maxLength: flat.maxLength)
        } catch {
            throw .tooLarge("the string's pattern and length together", limit: error.limit, path: place.path)
        }
    }

    /// The texts that match all patterns and formats of a schema.
    mutating func characters(_ flat: FlatSchema) throws(JSONSchemaError) -> ScalarAutomaton {
        var result = ScalarAutomaton.universal
        for (pattern, place) in flat.patterns {
            result = try intersection(result, automaton(pattern, place), place)
        }
        for (name, place) in flat.formats {
            guard let meaning = StringFormats.meaning(of: name) else {
                throw .unsupported(
                    "the format '\(name)' (known: \(StringFormats.names.joined(separator: ", ")))", path: place.path)
            }
            if case .pattern(let pattern) = meaning {
                result = try intersection(result, automaton(pattern, place), place)
            }
        }
        return result
    }

    func intersection(
        _ left: ScalarAutomaton, _ right: ScalarAutomaton, _ place: SchemaLocation
    ) throws(JSONSchemaError) -> ScalarAutomaton {
        do {
            return try left.intersection(right)
        } catch {
            throw .tooLarge("the patterns together", limit: error.limit, path: place.path)
        }
    }

    /// The texts in which a pattern matches.
    mutating func automaton(_ pattern: String, _ place: SchemaLocation) throws(JSONSchemaError) -> ScalarAutomaton {
        if let known = knownPatterns[pattern] { return known }
        let language: RegularExpression
        do {
            language = try PatternParser.language(of: pattern)
        } catch {
            throw .pattern(pattern, reason: error.reason, path: place.path)
        }
        do {
            let result = try ScalarAutomaton(language)
            knownPatterns[pattern] = result
            return result
        } catch {
            throw .tooLarge("the pattern's automaton", limit: error.limit, path: place.path)
        }
    }

    /// The place where one of the listed values begins that fit what else the schema says.
    mutating func listed(_ values: [JSONValue], _ flat: FlatSchema) throws(JSONSchemaError) -> Int {
        var texts: [[UInt8]] = []
        var choices: [Int] = []
        for value in values where try allows(value, flat) {
            switch value {
            case .array, .object: choices.append(try literal(value, end))
            default: texts.append(Array(value.serialized().utf8))
            }
        }
        if !texts.isEmpty { choices.append(add(.bytes(ScalarAutomaton(words: texts)), end)) }
        return choices.count == 1 ? choices[0] : add(.fork(choices))
    }

    /// A value as it stands but for white space, then `next`.
    private mutating func literal(_ value: JSONValue, _ next: Int) throws(JSONSchemaError) -> Int {
        switch value {
        case .array(let elements):
            var place = try punctuation("]", spaceBefore: true, next)
            for (index, element) in elements.enumerated().reversed() {
                place = try literal(element, place)
                if index > 0 { place = try punctuation(",", spaceBefore: true, spaceAfter: true, place) }
            }
            return try punctuation("[", spaceAfter: true, place)
        case .object(let object):
            var place = try punctuation("}", spaceBefore: true, next)
            for (index, element) in object.enumerated().reversed() {
                place = member(element.key, try literal(element.value, place))
                if index > 0 { place = try punctuation(",", spaceBefore: true, spaceAfter: true, place) }
            }
            return try punctuation("{", spaceAfter: true, place)
        default: return add(.bytes(ScalarAutomaton(words: [Array(value.serialized().utf8)])), next)
        }
    }

    /// Whether a listed value fits what else the schema says.
    mutating func allows(_ value: JSONValue, _ flat: FlatSchema) throws(JSONSchemaError) -> Bool {
        switch value {
        case .null: return flat.types.contains(.null)
        case .bool: return flat.types.contains(.boolean)
        case .integer, .double:
            let number = value.doubleValue ?? 0
            let isInteger = flat.types.contains(.integer)
            guard flat.types.contains(.number) || isInteger && number.rounded(.towardZero) == number else {
                return false
            }
            guard flat.low != nil || flat.high != nil || !flat.divisors.isEmpty else { return true }
            guard value.serialized().utf8.allSatisfy({ $0 != 0x65 }) else {
                throw .unsupported("a listed number with an exponent beside a range", path: flat.valuesPlace.path)
            }
            return try numbers(flat, isInteger: false).accepts(value.serialized().utf8.map { UInt32($0) })
        case .string(let text):
            guard flat.types.contains(.string) else { return false }
            return try strings(flat).accepts(text)
        case .array:
            guard flat.types.contains(.array) else { return false }
            guard flat.elements.isEmpty, flat.minItems == 0, flat.maxItems == nil else {
                throw .unsupported("a listed array beside keywords for arrays", path: flat.valuesPlace.path)
            }
            return true
        case .object:
            guard flat.types.contains(.object) else { return false }
            let isFree = flat.members.isEmpty && flat.required.isEmpty && flat.names.isEmpty
            guard isFree, flat.minProperties == 0, flat.maxProperties == nil else {
                throw .unsupported("a listed object beside keywords for objects", path: flat.valuesPlace.path)
            }
            return true
        }
    }
}
