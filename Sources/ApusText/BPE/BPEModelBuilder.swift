/// Puts a BPE model together from a vocabulary and merges by spelling.
struct BPEModelBuilder {
    let vocabulary: Vocabulary
    /// What to call the source in errors.
    let place: String
    private(set) var pairs: [(left: Int32, right: Int32)] = []
    private var results: [Int32] = []
    private var joined: [UInt8] = []

    init(_ vocabulary: Vocabulary, at place: String) {
        self.vocabulary = vocabulary
        self.place = place
    }

    mutating func reserve(_ count: Int) {
        pairs.reserveCapacity(count)
        results.reserveCapacity(count)
    }

    /// Adds the next merge.
    /// - Throws: `unknownToken` where a part or the whole is not in the vocabulary.
    mutating func addMerge(_ left: UnsafeBufferPointer<UInt8>, _ right: UnsafeBufferPointer<UInt8>) throws {
        guard !left.isEmpty, !right.isEmpty else {
            throw TokenizerError.invalid("expected a merge of two tokens, found an empty one", at: mergePlace)
        }
        joined.removeAll(keepingCapacity: true)
        joined.append(contentsOf: left)
        joined.append(contentsOf: right)
        let leftID = try id(left)
        let rightID = try id(right)
        let result = try joined.withUnsafeBufferPointer { try id($0) }
        pairs.append((leftID, rightID))
        results.append(result)
    }

    /// Adds the next merge, written as two tokens around a space.
    mutating func addMerge(line: UnsafeBufferPointer<UInt8>) throws {
        guard let space = line.firstIndex(of: 0x20), !line[(space + 1)...].contains(0x20) else {
            let text = String(decoding: line, as: UTF8.self)
            throw TokenizerError.invalid(
                "expected two tokens with one space between them, found \"\(text)\"", at: mergePlace)
        }
        try addMerge(
            UnsafeBufferPointer(rebasing: line[..<space]), UnsafeBufferPointer(rebasing: line[(space + 1)...]))
    }

    private var mergePlace: String { "\(place): merge \(pairs.count)" }

    private func id(_ token: UnsafeBufferPointer<UInt8>) throws -> Int32 {
        guard let id = vocabulary.id(of: token) else {
            throw TokenizerError.unknownToken(String(decoding: token, as: UTF8.self), at: mergePlace)
        }
        return id
    }

    /// The merges in the order they were added.
    func mergeTable() -> MergeTable {
        var table = MergeTable(capacity: pairs.count)
        for (rank, pair) in pairs.enumerated() {
            table.insert(left: pair.left, right: pair.right, rank: rank, merged: results[rank])
        }
        return table
    }
}
