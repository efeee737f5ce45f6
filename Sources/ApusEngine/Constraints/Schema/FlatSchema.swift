import ApusText

/// A type of JSON Schema.
enum JSONType: String, CaseIterable {
    case null, boolean, integer, number, string, array, object
}

/// What several schemas without references and alternatives demand together.
struct FlatSchema {
    /// Never both `integer` and `number`.
    var types: Set<JSONType> = [.null, .boolean, .number, .string, .array, .object]
    /// The only values allowed, where they are listed.
    var values: [JSONValue]?
    /// Where the first listing of values stands.
    var valuesPlace = SchemaLocation.root

    var low: NumberBound?
    var high: NumberBound?
    var divisors: [(value: JSONValue, place: SchemaLocation)] = []

    var minLength = 0
    var maxLength: Int?
    var patterns: [(pattern: String, place: SchemaLocation)] = []
    var formats: [(name: String, place: SchemaLocation)] = []

    /// One entry for each schema that speaks of elements: the first ones, then the rest (nil: anything).
    var elements: [(prefix: [SchemaLocation], rest: SchemaLocation?)] = []
    var minItems = 0
    var maxItems: Int?

    /// One entry for each schema that speaks of members.
    var members: [Members] = []
    var required: [String] = []
    var minProperties = 0
    var maxProperties: Int?
    var names: [SchemaLocation] = []
    /// A place to name in errors about the whole.
    var place = SchemaLocation.root

    /// What one schema says of an object's members.
    struct Members {
        var properties: [(key: String, schema: SchemaLocation)] = []
        var patterns: [(pattern: String, place: SchemaLocation, schema: SchemaLocation)] = []
        var additional: SchemaLocation?
    }

    /// Keeps only the given types.
    mutating func restrict(to allowed: Set<JSONType>) {
        var result = types.intersection(allowed)
        // A whole number is a number.
        if types.contains(.number), allowed.contains(.integer), !allowed.contains(.number) { result.insert(.integer) }
        if types.contains(.integer), allowed.contains(.number) { result.insert(.integer) }
        if result.contains(.number) { result.remove(.integer) }
        types = result
    }

    mutating func raise(_ bound: NumberBound) {
        guard let old = low else { return low = bound }
        if old.value < bound.value || (old.value == bound.value && bound.isExclusive) { low = bound }
    }

    mutating func lower(_ bound: NumberBound) {
        guard let old = high else { return high = bound }
        if bound.value < old.value || (old.value == bound.value && bound.isExclusive) { high = bound }
    }

    mutating func keep(_ listed: [JSONValue], at place: SchemaLocation) {
        if let known = values {
            values = known.filter { value in listed.contains { $0.isSame(as: value) } }
        } else {
            values = listed
            valuesPlace = place
        }
    }
}

extension JSONValue {
    /// Equality as JSON Schema has it: numbers by their value.
    fileprivate func isSame(as other: JSONValue) -> Bool {
        if let left = doubleValue, let right = other.doubleValue {
            if case .integer = self, case .integer = other { return self == other }
            return left == right
        }
        return self == other
    }
}
