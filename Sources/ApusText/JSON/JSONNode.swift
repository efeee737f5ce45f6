/// A JSON value together with where it came from, so that a reader of configuration files gets errors that name the
/// place: `config.json: rope_scaling.factor: expected a number, found string`.
///
/// ```swift
/// let config = JSONNode(try JSONValue(parsing: text), name: "config.json")
/// let width = try config.int("hidden_size")
/// let base = try config.double("rope_theta", default: 10000)
/// for layer in try config.child("layer_types").elements() { print(try layer.string()) }
/// ```
public struct JSONNode: Sendable {
    private indirect enum Place: Sendable {
        case root(String)
        case member(Place, String)
        case element(Place, Int)
    }

    /// The value itself.
    public let value: JSONValue
    private let place: Place

    /// The root of a document; `name` is usually its file.
    public init(_ value: JSONValue, name: String) {
        self.value = value
        place = .root(name)
    }

    private init(_ value: JSONValue, place: Place) {
        self.value = value
        self.place = place
    }

    /// The place in words: `config.json: rope_scaling.factor`.
    public var path: String { Self.describe(place) }

    private static func describe(_ place: Place) -> String {
        switch place {
        case .root(let name): name
        case .member(.root(let name), let key): "\(name): \(key)"
        case .member(let parent, let key): "\(describe(parent)).\(key)"
        case .element(.root(let name), let index): "\(name): [\(index)]"
        case .element(let parent, let index): "\(describe(parent))[\(index)]"
        }
    }

    // MARK: Going down

    /// The member under `key`.
    /// - Throws: `JSONError.type` where this is no object, `.missing` where it lacks the key.
    public func child(_ key: String, expected: String = "a value") throws(JSONError) -> JSONNode {
        guard let value = try object()[key] else {
            throw .missing(path: Self.describe(.member(place, key)), expected: expected)
        }
        return JSONNode(value, place: .member(place, key))
    }

    /// The member under `key`, or nil where it is missing or null.
    /// - Throws: `JSONError.type` where this is no object.
    public func optional(_ key: String) throws(JSONError) -> JSONNode? {
        guard let value = try object()[key], !value.isNull else { return nil }
        return JSONNode(value, place: .member(place, key))
    }

    /// The elements of this array.
    public func elements() throws(JSONError) -> [JSONNode] {
        try array().enumerated().map { JSONNode($0.element, place: .element(place, $0.offset)) }
    }

    /// The members of this object in order.
    public func members() throws(JSONError) -> [(key: String, node: JSONNode)] {
        try object().map { ($0.key, JSONNode($0.value, place: .member(place, $0.key))) }
    }

    // MARK: This value as a Swift type

    /// An error about this value.
    public func error(expected: String) -> JSONError {
        let found =
            switch value {
            case .bool, .integer, .double: "\(value.kind) \(value)"
            case .string(let text) where text.utf8.count <= 40: "string \(value)"
            default: value.kind
            }
        return .type(path: path, expected: expected, found: found)
    }

    /// This value as a boolean.
    public func bool() throws(JSONError) -> Bool {
        guard let result = value.boolValue else { throw error(expected: "a boolean") }
        return result
    }

    /// This value as an integer; a double without fraction, as some exporters write them, counts.
    public func int() throws(JSONError) -> Int {
        if let result = value.intValue { return result }
        if case .double(let number) = value, let result = Int(exactly: number) { return result }
        throw error(expected: "an integer")
    }

    /// This value as an integer within `range`.
    public func int(in range: ClosedRange<Int>) throws(JSONError) -> Int {
        let result = try int()
        guard range.contains(result) else {
            throw error(expected: "an integer from \(range.lowerBound) to \(range.upperBound)")
        }
        return result
    }

    /// This value as a double.
    public func double() throws(JSONError) -> Double {
        guard let result = value.doubleValue else { throw error(expected: "a number") }
        return result
    }

    /// This value as a string.
    public func string() throws(JSONError) -> String {
        guard let result = value.stringValue else { throw error(expected: "a string") }
        return result
    }

    /// This value as an array.
    public func array() throws(JSONError) -> [JSONValue] {
        guard let result = value.arrayValue else { throw error(expected: "an array") }
        return result
    }

    /// This value as an object.
    public func object() throws(JSONError) -> JSONObject {
        guard let result = value.objectValue else { throw error(expected: "an object") }
        return result
    }

    // MARK: Members as Swift types

    /// The boolean under `key`; `default` where it is missing or null.
    public func bool(_ key: String, default fallback: Bool? = nil) throws(JSONError) -> Bool {
        if let fallback { return try optional(key)?.bool() ?? fallback }
        return try child(key, expected: "a boolean").bool()
    }

    /// The integer under `key`; `default` where it is missing or null.
    public func int(_ key: String, default fallback: Int? = nil) throws(JSONError) -> Int {
        if let fallback { return try optional(key)?.int() ?? fallback }
        return try child(key, expected: "an integer").int()
    }

    /// The number under `key`; `default` where it is missing or null.
    public func double(_ key: String, default fallback: Double? = nil) throws(JSONError) -> Double {
        if let fallback { return try optional(key)?.double() ?? fallback }
        return try child(key, expected: "a number").double()
    }

    /// The string under `key`; `default` where it is missing or null.
    public func string(_ key: String, default fallback: String? = nil) throws(JSONError) -> String {
        if let fallback { return try optional(key)?.string() ?? fallback }
        return try child(key, expected: "a string").string()
    }
}
