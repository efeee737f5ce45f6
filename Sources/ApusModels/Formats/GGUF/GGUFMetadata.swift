/// The key-value pairs of a GGUF file, in order.
public struct GGUFMetadata: Sendable {
    /// Keys and values in the file's order.
    public private(set) var entries: [(key: String, value: GGUFValue)] = []
    private var index: [String: Int] = [:]
    let fileName: String

    private static let maximumKeyLength = 65535
    private static let maximumAlignment = 1 << 20

    init(_ reader: inout GGUFReader, count: Int) throws {
        fileName = reader.file.name
        entries.reserveCapacity(count)
        for number in 0..<count {
            let key = try reader.string("metadata key \(number)", limit: Self.maximumKeyLength)
            let place = "key \(key.abbreviated())"
            let type = try reader.type(place + ": type")
            let value = try reader.value(type, place: place, depth: 0)
            guard index.updateValue(entries.count, forKey: key) == nil else {
                throw reader.malformed("metadata", expected: "distinct keys", found: "\(key.abbreviated()) twice")
            }
            entries.append((key, value))
        }
    }

    /// The value of a key, or nil when it is absent.
    public subscript(key: String) -> GGUFValue? { index[key].map { entries[$0].value } }

    /// The integer under a key; nil when absent, an error when of another type.
    public func integer(_ key: String) throws -> Int? {
        try typed(key, "an integer") { $0.integer }
    }

    /// The number under a key; nil when absent, an error when of another type.
    public func number(_ key: String) throws -> Double? {
        try typed(key, "a number") { $0.number }
    }

    /// The string under a key; nil when absent, an error when of another type.
    public func string(_ key: String) throws -> String? {
        try typed(key, "a string") { $0.string }
    }

    /// The bool under a key; nil when absent, an error when of another type.
    public func bool(_ key: String) throws -> Bool? {
        try typed(key, "a bool") { $0.bool }
    }

    /// The array under a key; nil when absent, an error when of another type.
    public func array(_ key: String, of types: GGUFValueType...) throws -> GGUFArray? {
        let names = types.map { "\($0)" }.joined(separator: " or ")
        return try typed(key, "an array of \(names)") { value in
            value.array.flatMap { types.contains($0.elementType) ? $0 : nil }
        }
    }

    private func typed<T>(_ key: String, _ expected: String, _ convert: (GGUFValue) -> T?) throws -> T? {
        guard let value = self[key] else { return nil }
        guard let result = convert(value) else {
            throw ModelFileError.malformed(
                file: fileName, place: "key \(key)", expected: expected,
                found: "\(value.type) \(value.summary.abbreviated(40))")
        }
        return result
    }

    func alignment() throws -> Int {
        let value = try integer("general.alignment") ?? 32
        guard value > 0, value <= Self.maximumAlignment, value & (value - 1) == 0 else {
            throw ModelFileError.malformed(
                file: fileName, place: "key general.alignment",
                expected: "a power of two up to \(Self.maximumAlignment)", found: "\(value)")
        }
        return value
    }
}
