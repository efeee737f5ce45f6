/// The members of a JSON object in the order written, with lookup by key in constant time.
///
/// Of a key that comes twice the last value holds, at the place of the first. Keys are compared code point by code
/// point. Appending costs O(1) amortised, removing O(n).
public struct JSONObject: Sendable {
    /// A key and its value.
    public struct Member: Sendable {
        /// The key.
        public let key: String
        /// The value.
        public var value: JSONValue
    }

    private var members: [Member] = []
    /// Open-addressed hash table of positions in `members`, -1 where free; empty while a linear search is faster.
    private var table: [Int32] = []

    private static let linearLimit = 8

    /// An object without members.
    public init() {}

    /// An object with these members; of a key that comes twice the last value holds.
    public init(_ members: some Sequence<(String, JSONValue)>) {
        for (key, value) in members { self[key] = value }
    }

    /// The value under `key`. Setting nil removes the member.
    public subscript(key: String) -> JSONValue? {
        get { position(of: key).map { members[$0].value } }
        set {
            guard let newValue else { return remove(key) }
            set(key, newValue)
        }
    }

    /// The keys in order.
    public var keys: some RandomAccessCollection<String> { members.lazy.map(\.key) }

    /// The values in the order of their keys.
    public var values: some RandomAccessCollection<JSONValue> { members.lazy.map(\.value) }

    mutating func set(_ key: String, _ value: JSONValue) {
        if let position = position(of: key) {
            members[position].value = value
            return
        }
        precondition(members.count < Int(Int32.max), "a JSON object holds at most 2^31 - 1 members")
        members.append(Member(key: key, value: value))
        if members.count > Self.linearLimit {
            if members.count * 2 > table.count { rebuildTable() } else { insert(members.count - 1) }
        }
    }

    private mutating func remove(_ key: String) {
        guard let position = position(of: key) else { return }
        members.remove(at: position)
        table = []
        if members.count > Self.linearLimit { rebuildTable() }
    }

    private func position(of key: String) -> Int? {
        if table.isEmpty { return members.firstIndex { $0.key.hasSameScalars(as: key) } }
        let mask = table.count - 1
        var slot = key.scalarHash & mask
        while table[slot] >= 0 {
            let candidate = Int(table[slot])
            if members[candidate].key.hasSameScalars(as: key) { return candidate }
            slot = (slot + 1) & mask
        }
        return nil
    }

    private mutating func rebuildTable() {
        var size = 32
        while size < members.count * 4 { size *= 2 }
        table = [Int32](repeating: -1, count: size)
        for position in members.indices { insert(position) }
    }

    private mutating func insert(_ position: Int) {
        let mask = table.count - 1
        var slot = members[position].key.scalarHash & mask
        while table[slot] >= 0 { slot = (slot + 1) & mask }
        table[slot] = Int32(position)
    }
}

extension JSONObject: RandomAccessCollection {
    /// Zero.
    public var startIndex: Int { 0 }
    /// The number of members.
    public var endIndex: Int { members.count }
    /// The member at a place in the order written.
    public subscript(position: Int) -> Member { members[position] }
}

extension JSONObject: Equatable {
    /// The same keys with equal values, in any order.
    public static func == (left: JSONObject, right: JSONObject) -> Bool {
        left.count == right.count
            && left.members.allSatisfy { member in
                guard let other = right[member.key] else { return false }
                return member.value == other
            }
    }
}

extension JSONObject: ExpressibleByDictionaryLiteral {
    /// The members in the order written; of a key written twice the last value holds.
    public init(dictionaryLiteral elements: (String, JSONValue)...) { self.init(elements) }
}
