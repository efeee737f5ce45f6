import ApusText

/// The members of a request's body, read with errors that name the field.
struct RequestFields {
    let node: JSONNode

    /// Parses a body.
    init(body: UnsafeRawBufferPointer) throws(APIError) {
        do throws(JSONError) {
            let value = try JSONValue(parsing: body)
            node = JSONNode(value, name: APIError.bodyName)
            _ = try node.object()
        } catch {
            throw APIError(error)
        }
    }

    init(_ node: JSONNode) { self.node = node }

    private func read<T>(_ body: () throws(JSONError) -> T) throws(APIError) -> T {
        do { return try body() } catch { throw APIError(error) }
    }

    /// The member under `key`, or nil where it is missing or null.
    func optional(_ key: String) throws(APIError) -> JSONNode? {
        try read { () throws(JSONError) in try node.optional(key) }
    }

    /// The member under `key`.
    func required(_ key: String, _ expected: String) throws(APIError) -> JSONNode {
        try read { () throws(JSONError) in
            guard let found = try node.optional(key) else { return try node.child(key, expected: expected) }
            return found
        }
    }

    func bool(_ key: String) throws(APIError) -> Bool? {
        try read { () throws(JSONError) in try node.optional(key)?.bool() }
    }

    func int(_ key: String, _ range: ClosedRange<Int>) throws(APIError) -> Int? {
        try read { () throws(JSONError) in try node.optional(key)?.int(in: range) }
    }

    func double(_ key: String, _ range: ClosedRange<Double>) throws(APIError) -> Double? {
        try read { () throws(JSONError) in
            guard let child = try node.optional(key) else { return nil }
            let value = try child.double()
            guard range.contains(value) else {
                throw child.error(expected: "a number from \(short(range.lowerBound)) to \(short(range.upperBound))")
            }
            return value
        }
    }

    func string(_ key: String) throws(APIError) -> String? {
        try read { () throws(JSONError) in try node.optional(key)?.string() }
    }

    /// A string that is one of `choices`.
    func choice(_ key: String, _ choices: [String]) throws(APIError) -> String? {
        try read { () throws(JSONError) in
            guard let child = try node.optional(key) else { return nil }
            let value = try child.string()
            guard choices.contains(value) else { throw child.error(expected: choices.joined(separator: " or ")) }
            return value
        }
    }

    /// One string, or an array of at most `limit` of them.
    func strings(_ key: String, limit: Int) throws(APIError) -> [String] {
        try read { () throws(JSONError) in
            guard let child = try node.optional(key) else { return [] }
            if case .string(let one) = child.value { return [one] }
            let elements = try child.elements()
            guard elements.count <= limit else { throw child.error(expected: "at most \(limit) strings") }
            var result: [String] = []
            for element in elements { result.append(try element.string()) }
            return result
        }
    }

    /// Refuses a member that this server does not act on, unless it is null, false, empty or `neutral`.
    func refuse(_ key: String, neutral: JSONValue? = nil) throws(APIError) {
        guard let child = try optional(key) else { return }
        switch child.value {
        case .bool(false): return
        case .array(let elements) where elements.isEmpty: return
        case .object(let object) where object.isEmpty: return
        case .string(let text) where text.isEmpty: return
        case let value where neutral == value: return
        default: throw .invalid("\(key): not supported by this server", parameter: key, code: "unsupported_parameter")
        }
    }

    private func short(_ value: Double) -> String { value == value.rounded() ? "\(Int(value))" : "\(value)" }
}

/// What a completion starts from, or what is embedded: a text or its tokens.
enum TextInput: Equatable, Sendable {
    case text(String)
    case tokens([Int32])
}

extension RequestFields {
    /// A text, a list of token ids, or a list of either: OpenAI's `prompt` and `input`.
    func inputs(_ key: String, limit: Int) throws(APIError) -> [TextInput] {
        let expected = "a string, an array of token ids, or an array of either"
        let node = try required(key, expected)
        return try read { () throws(JSONError) in
            switch node.value {
            case .string(let text): return [.text(text)]
            case .array(let elements):
                guard let first = elements.first else { throw node.error(expected: "a non-empty array") }
                if case .integer = first { return [.tokens(try Self.tokens(node))] }
                if case .double = first { return [.tokens(try Self.tokens(node))] }
                guard elements.count <= limit else { throw node.error(expected: "at most \(limit) prompts") }
                var result: [TextInput] = []
                for element in try node.elements() {
                    switch element.value {
                    case .string(let text): result.append(.text(text))
                    case .array: result.append(.tokens(try Self.tokens(element)))
                    default: throw element.error(expected: "a string or an array of token ids")
                    }
                }
                return result
            default: throw node.error(expected: expected)
            }
        }
    }

    /// An array of token ids.
    static func tokens(_ node: JSONNode) throws(JSONError) -> [Int32] {
        var result: [Int32] = []
        for (index, value) in try node.array().enumerated() {
            if case .integer(let id) = value, let token = Int32(exactly: id), token >= 0 {
                result.append(token)
            } else {
                result.append(Int32(try node.elements()[index].int(in: 0...Int(Int32.max))))
            }
        }
        return result
    }
}
