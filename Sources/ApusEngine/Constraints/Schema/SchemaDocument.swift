import ApusText

/// A place in a schema, as a JSON pointer in a URI fragment: `#/properties/name`.
struct SchemaLocation: Hashable, Comparable, Sendable {
    let path: String

    static let root = SchemaLocation(path: "#")

    func child(_ key: String) -> SchemaLocation {
        guard key.utf8.contains(where: { $0 == 0x7E || $0 == 0x2F }) else {
            return SchemaLocation(path: "\(path)/\(key)")
        }
        var escaped = ""
        for scalar in key.unicodeScalars {
            switch scalar {
            case "~": escaped += "~0"
            case "/": escaped += "~1"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return SchemaLocation(path: "\(path)/\(escaped)")
    }

    func child(_ index: Int) -> SchemaLocation { SchemaLocation(path: "\(path)/\(index)") }

    static func < (left: SchemaLocation, right: SchemaLocation) -> Bool { left.path < right.path }
}

/// A schema and the places in it that were looked at.
struct SchemaDocument {
    private var values: [SchemaLocation: JSONValue]
    private let root: JSONValue

    init(_ root: JSONValue) {
        self.root = root
        values = [.root: root]
    }

    /// The schema at a place that `note` or `target` gave.
    func value(_ place: SchemaLocation) -> JSONValue { values[place] ?? .bool(true) }

    /// Remembers what stands below a place.
    mutating func note(_ value: JSONValue, at place: SchemaLocation) throws(JSONSchemaError) -> SchemaLocation {
        switch value {
        case .object, .bool: values[place] = value
        default: throw .invalid(path: place.path, expected: "a schema (an object or a boolean)", found: value.kind)
        }
        return place
    }

    /// The place that a `$ref` names.
    mutating func target(of reference: String, at place: SchemaLocation) throws(JSONSchemaError) -> SchemaLocation {
        guard reference.hasPrefix("#") else { throw .unresolvedReference(reference, path: place.path) }
        var target = SchemaLocation.root
        var value = root
        let fragment = reference.dropFirst()
        if !fragment.isEmpty {
            guard fragment.hasPrefix("/") else { throw .unresolvedReference(reference, path: place.path) }
            for part in fragment.dropFirst().split(separator: "/", omittingEmptySubsequences: false) {
                guard let key = Self.unescaped(part), let next = Self.step(value, key) else {
                    throw .unresolvedReference(reference, path: place.path)
                }
                target = target.child(key)
                value = next
            }
        }
        return try note(value, at: target)
    }

    private static func step(_ value: JSONValue, _ key: String) -> JSONValue? {
        if case .array = value { return Int(key).flatMap { value[$0] } }
        return value[key]
    }

    /// Undoes `%20`, then `~1` and `~0`.
    private static func unescaped(_ part: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = part.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == 0x25 else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        var result: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == 0x7E {
                guard index + 1 < bytes.count, bytes[index + 1] == 0x30 || bytes[index + 1] == 0x31 else { return nil }
                result.append(bytes[index + 1] == 0x30 ? 0x7E : 0x2F)
                index += 2
            } else {
                result.append(bytes[index])
                index += 1
            }
        }
        return String(validating: result, as: UTF8.self)
    }
}
