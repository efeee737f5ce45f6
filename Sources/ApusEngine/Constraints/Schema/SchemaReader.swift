import ApusText

/// Reads the keywords of schemas. References, `allOf` and the alternatives of `anyOf` and `oneOf` are multiplied out, so
/// that what remains are lists of plain schemas that hold together.
struct SchemaReader {
    var document: SchemaDocument

    private static let alternativeLimit = 2048

    /// Keywords that say nothing about which values fit.
    private static let annotations: Set<String> = [
        "$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary", "title", "description",
        "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
        "contentSchema", "discriminator", "externalDocs", "xml", "propertyOrdering",
    ]

    private static let applicators: Set<String> = ["$ref", "allOf", "anyOf", "oneOf"]

    /// A place itself, or, where all it says is a `$ref`, the place referred to.
    mutating func resolved(_ place: SchemaLocation) throws(JSONSchemaError) -> SchemaLocation {
        var place = place
        var seen: Set<SchemaLocation> = []
        while let object = document.value(place).objectValue, let reference = object["$ref"],
            object.allSatisfy({ $0.key == "$ref" || Self.isAnnotation($0.key) })
        {
            guard seen.insert(place).inserted else { throw .endlessReference(path: place.path) }
            place = try document.target(of: string(reference, place.child("$ref")), at: place.child("$ref"))
        }
        return place
    }

    static func isAnnotation(_ key: String) -> Bool { annotations.contains(key) || key.hasPrefix("x-") }

    /// The alternatives of a schema: each a list of places whose own keywords hold together.
    mutating func alternatives(
        of place: SchemaLocation, open: Set<SchemaLocation> = []
    ) throws(JSONSchemaError) -> [[SchemaLocation]] {
        switch document.value(place) {
        case .bool(let anything): return anything ? [[]] : []
        case .object(let object):
            guard !open.contains(place) else { throw .endlessReference(path: place.path) }
            var open = open
            open.insert(place)
            var result =
                object.contains { !Self.applicators.contains($0.key) && !Self.isAnnotation($0.key) } ? [[place]] : [[]]
            if let reference = object["$ref"] {
                let at = place.child("$ref")
                let target = try document.target(of: string(reference, at), at: at)
                result = try product(result, alternatives(of: target, open: open), at)
            }
            for part in try list(object["allOf"], place.child("allOf")) {
                result = try product(result, alternatives(of: part, open: open), place.child("allOf"))
            }
            for keyword in ["anyOf", "oneOf"] where object[keyword] != nil {
                var choices: [[SchemaLocation]] = []
                for part in try list(object[keyword], place.child(keyword)) {
                    choices += try alternatives(of: part, open: open)
                }
                result = try product(result, choices, place.child(keyword))
            }
            return result
        default: return []
        }
    }

    /// The alternatives of several schemas that hold together.
    mutating func alternatives(of places: [SchemaLocation]) throws(JSONSchemaError) -> [[SchemaLocation]] {
        var result: [[SchemaLocation]] = [[]]
        for place in places { result = try product(result, alternatives(of: place), place) }
        return result
    }

    private func product(
        _ left: [[SchemaLocation]], _ right: [[SchemaLocation]], _ place: SchemaLocation
    ) throws(JSONSchemaError) -> [[SchemaLocation]] {
        guard left.count * right.count <= Self.alternativeLimit else {
            throw .tooLarge("the number of alternatives", limit: Self.alternativeLimit, path: place.path)
        }
        return left.flatMap { first in right.map { second in first + second.filter { !first.contains($0) } } }
    }

    // MARK: Plain schemas

    /// What some plain schemas demand together.
    mutating func flat(_ places: [SchemaLocation]) throws(JSONSchemaError) -> FlatSchema {
        var flat = FlatSchema()
        flat.place = places.first ?? .root
        for place in places {
            guard let object = document.value(place).objectValue else { continue }
            for member in object where !Self.applicators.contains(member.key) && !Self.isAnnotation(member.key) {
                try read(member.key, member.value, of: object, place, into: &flat)
            }
            try readElements(object, place, into: &flat)
            try readMembers(object, place, into: &flat)
        }
        return flat
    }

    private mutating func read(
        _ key: String, _ value: JSONValue, of object: JSONObject, _ parent: SchemaLocation, into flat: inout FlatSchema
    ) throws(JSONSchemaError) {
        let place = parent.child(key)
        switch key {
        case "type": flat.restrict(to: try types(value, place, isNullable: object["nullable"]?.boolValue ?? false))
        case "nullable":
            guard value.boolValue != nil else { throw Self.invalid(place, "a boolean", value) }
        case "enum":
            guard let listed = value.arrayValue, !listed.isEmpty else {
                throw Self.invalid(place, "a non-empty array", value)
            }
            flat.keep(listed, at: place)
        case "const": flat.keep([value], at: place)
        case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
            try readBound(key, value, of: object, place, into: &flat)
        case "multipleOf":
            guard let number = value.doubleValue, number > 0 else {
                throw Self.invalid(place, "a number above 0", value)
            }
            flat.divisors.append((value, place))
        case "minLength":
            flat.minLength = max(flat.minLength, try count(value, place, limit: StringLanguage.lengthLimit))
        case "maxLength":
            flat.maxLength = min(flat.maxLength ?? .max, try count(value, place, limit: StringLanguage.lengthLimit))
        case "pattern": flat.patterns.append((try string(value, place), place))
        case "format": flat.formats.append((try string(value, place), place))
        case "minItems": flat.minItems = max(flat.minItems, try count(value, place))
        case "maxItems": flat.maxItems = min(flat.maxItems ?? .max, try count(value, place))
        case "required":
            for (index, name) in try array(value, place).enumerated() {
                let name = try string(name, place.child(index))
                if !flat.required.contains(name) { flat.required.append(name) }
            }
        case "minProperties": flat.minProperties = max(flat.minProperties, try count(value, place))
        case "maxProperties": flat.maxProperties = min(flat.maxProperties ?? .max, try count(value, place))
        case "propertyNames": flat.names.append(try document.note(value, at: place))
        case "items", "prefixItems", "additionalItems", "properties", "additionalProperties", "patternProperties": break
        case "uniqueItems" where value == .bool(false): break
        default: throw .unsupported("'\(key)'", path: place.path)
        }
    }

    private func types(
        _ value: JSONValue, _ place: SchemaLocation, isNullable: Bool
    ) throws(JSONSchemaError) -> Set<JSONType> {
        let names = value.arrayValue ?? [value]
        var result: Set<JSONType> = isNullable ? [.null] : []
        for name in names {
            guard let text = name.stringValue, let type = JSONType(rawValue: text) else {
                let all = JSONType.allCases.map(\.rawValue).joined(separator: ", ")
                throw Self.invalid(place, "one of \(all), or an array of them", name)
            }
            result.insert(type)
        }
        return result
    }

    private func readBound(
        _ key: String, _ value: JSONValue, of object: JSONObject, _ place: SchemaLocation, into flat: inout FlatSchema
    ) throws(JSONSchemaError) {
        let isMinimum = key.lowercased().hasSuffix("minimum")
        // Until draft 4, exclusiveMinimum was a flag beside minimum.
        if key.hasPrefix("exclusive"), value.boolValue != nil { return }
        let flag = object[isMinimum ? "exclusiveMinimum" : "exclusiveMaximum"]?.boolValue ?? false
        let number: Decimal
        switch value {
        case .integer(let value): number = Decimal(value)
        case .double(let value) where value.isFinite: number = Decimal(value)
        default: throw Self.invalid(place, "a number", value)
        }
        let bound = NumberBound(value: number, isExclusive: key.hasPrefix("exclusive") || flag)
        if isMinimum { flat.raise(bound) } else { flat.lower(bound) }
    }

    private mutating func readElements(
        _ object: JSONObject, _ place: SchemaLocation, into flat: inout FlatSchema
    ) throws(JSONSchemaError) {
        // Before draft 2020-12 an array under `items` was what is now `prefixItems`.
        let isTuple = object["items"]?.arrayValue != nil
        let prefix = isTuple ? "items" : "prefixItems"
        let rest = isTuple ? "additionalItems" : "items"
        guard object[prefix] != nil || object[rest] != nil else { return }
        var last: SchemaLocation?
        if let value = object[rest] { last = try document.note(value, at: place.child(rest)) }
        flat.elements.append((try list(object[prefix], place.child(prefix)), last))
    }

    private mutating func readMembers(
        _ object: JSONObject, _ place: SchemaLocation, into flat: inout FlatSchema
    ) throws(JSONSchemaError) {
        var members = FlatSchema.Members()
        if let value = object["properties"] {
            let at = place.child("properties")
            for member in try self.object(value, at) {
                members.properties.append((member.key, try document.note(member.value, at: at.child(member.key))))
            }
        }
        if let value = object["patternProperties"] {
            let at = place.child("patternProperties")
            for member in try self.object(value, at) {
                let schema = try document.note(member.value, at: at.child(member.key))
                members.patterns.append((member.key, at.child(member.key), schema))
            }
        }
        if let value = object["additionalProperties"] {
            members.additional = try document.note(value, at: place.child("additionalProperties"))
        }
        if !members.properties.isEmpty || !members.patterns.isEmpty || members.additional != nil {
            flat.members.append(members)
        }
    }

    // MARK: Values of keywords

    static func invalid(_ place: SchemaLocation, _ expected: String, _ value: JSONValue) -> JSONSchemaError {
        .invalid(path: place.path, expected: expected, found: value.shortDescription)
    }

    /// The schemas of an array, which may be missing but not empty.
    private mutating func list(_ value: JSONValue?, _ place: SchemaLocation) throws(JSONSchemaError) -> [SchemaLocation]
    {
        guard let value else { return [] }
        var result: [SchemaLocation] = []
        for (index, element) in try array(value, place).enumerated() {
            result.append(try document.note(element, at: place.child(index)))
        }
        guard !result.isEmpty else { throw Self.invalid(place, "a non-empty array", value) }
        return result
    }

    private func array(_ value: JSONValue, _ place: SchemaLocation) throws(JSONSchemaError) -> [JSONValue] {
        guard let result = value.arrayValue else { throw Self.invalid(place, "an array", value) }
        return result
    }

    private func object(_ value: JSONValue, _ place: SchemaLocation) throws(JSONSchemaError) -> JSONObject {
        guard let result = value.objectValue else { throw Self.invalid(place, "an object", value) }
        return result
    }

    private func string(_ value: JSONValue, _ place: SchemaLocation) throws(JSONSchemaError) -> String {
        guard let result = value.stringValue else { throw Self.invalid(place, "a string", value) }
        return result
    }

    private func count(
        _ value: JSONValue, _ place: SchemaLocation, limit: Int = 1 << 20
    ) throws(JSONSchemaError) -> Int {
        let number: Int?
        switch value {
        case .integer(let value): number = Int(exactly: value)
        case .double(let value): number = Int(exactly: value)
        default: number = nil
        }
        guard let number, number >= 0 else { throw Self.invalid(place, "an integer >= 0", value) }
        guard number <= limit else { throw .tooLarge("\(number)", limit: limit, path: place.path) }
        return number
    }
}

extension JSONValue {
    /// The value for a message: itself where it is short, otherwise its kind.
    fileprivate var shortDescription: String {
        switch self {
        case .bool, .integer, .double: "\(kind) \(self)"
        case .string(let text) where text.utf8.count <= 40: "string \(self)"
        default: kind
        }
    }
}
