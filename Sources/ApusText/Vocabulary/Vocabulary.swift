/// Tokens by id and ids by token, spelled as in the file that they came from.
///
/// A lookup by bytes is one probe of an open-addressing table at most half full, plus one comparison.
struct Vocabulary: Sendable {
    /// Ids are kept in dense tables, so a single huge id must not be able to fill memory.
    static let idLimit = 1 << 22

    private let bytes: FixedBuffer<UInt8>
    private let starts: FixedBuffer<UInt32>
    /// -1 where no token has the id.
    private let lengths: FixedBuffer<Int32>
    /// Ids, -1 where free; a power of two of them.
    private let slots: FixedBuffer<Int32>

    /// One more than the largest id.
    let idBound: Int
    /// The number of tokens.
    let count: Int

    fileprivate init(_ builder: VocabularyBuilder) {
        bytes = FixedBuffer(builder.bytes)
        starts = FixedBuffer(builder.starts)
        lengths = FixedBuffer(builder.lengths)
        idBound = builder.lengths.count
        count = builder.count
        slots = builder.slots
    }

    /// The spelling of the token `id`, or nil where there is none. Valid as long as the vocabulary lives.
    @inline(__always)
    func spelling(_ id: Int) -> UnsafeBufferPointer<UInt8>? {
        guard id >= 0, id < idBound, lengths[id] >= 0 else { return nil }
        return UnsafeBufferPointer(start: bytes.base + Int(starts[id]), count: Int(lengths[id]))
    }

    /// The id of the token spelled by these bytes, or -1.
    func id(of start: UnsafePointer<UInt8>, count: Int) -> Int32 {
        Self.find(start, count, slots: slots, bytes: bytes.base, starts: starts.base, lengths: lengths.base)
    }

    /// The id of the token spelled by these bytes, or nil.
    func id(of spelling: UnsafeBufferPointer<UInt8>) -> Int32? {
        guard let start = spelling.baseAddress else { return nil }
        let result = id(of: start, count: spelling.count)
        return result < 0 ? nil : result
    }

    /// The id of the token spelled `token`, or nil.
    func id(of token: String) -> Int32? {
        var token = token
        return token.withUTF8 { id(of: $0) }
    }

    fileprivate static func find(
        _ start: UnsafePointer<UInt8>, _ count: Int, slots: FixedBuffer<Int32>, bytes: UnsafePointer<UInt8>,
        starts: UnsafePointer<UInt32>, lengths: UnsafePointer<Int32>
    ) -> Int32 {
        let mask = slots.count - 1
        var slot = Int(truncatingIfNeeded: ByteHash.hash(start, count)) & mask
        while true {
            let id = slots[slot]
            if id < 0 { return id }
            if Int(lengths[Int(id)]) == count, isEqual(bytes + Int(starts[Int(id)]), start, count) { return id }
            slot = (slot + 1) & mask
        }
    }

    @inline(__always)
    private static func isEqual(_ left: UnsafePointer<UInt8>, _ right: UnsafePointer<UInt8>, _ count: Int) -> Bool {
        for index in 0..<count where left[index] != right[index] { return false }
        return true
    }
}

/// Collects tokens in any order of ids.
struct VocabularyBuilder {
    fileprivate private(set) var bytes: [UInt8] = []
    fileprivate private(set) var starts: [UInt32] = []
    fileprivate private(set) var lengths: [Int32] = []
    fileprivate private(set) var slots = FixedBuffer<Int32>(repeating: -1, count: 1 << 12)
    fileprivate private(set) var count = 0

    mutating func reserve(count: Int, byteCount: Int) {
        starts.reserveCapacity(count)
        lengths.reserveCapacity(count)
        bytes.reserveCapacity(byteCount)
        var size = slots.count
        while size < count * 2 { size *= 2 }
        if self.count == 0, size > slots.count { slots = FixedBuffer(repeating: -1, count: size) }
    }

    /// Adds a token under a free id.
    /// - Throws: `idOutOfRange`, or `duplicate` where the id or the spelling is taken.
    mutating func add(_ spelling: UnsafeBufferPointer<UInt8>, id: Int, at place: @autoclosure () -> String) throws {
        guard id >= 0, id < Vocabulary.idLimit else {
            throw TokenizerError.idOutOfRange(id: id, limit: Vocabulary.idLimit, at: place())
        }
        guard bytes.count + spelling.count <= Int(UInt32.max), spelling.count < Int(Int32.max) else {
            throw TokenizerError.invalid("expected at most 4 GiB of tokens, found more", at: place())
        }
        while lengths.count <= id {
            lengths.append(-1)
            starts.append(0)
        }
        guard lengths[id] < 0, find(spelling) < 0 else {
            throw TokenizerError.duplicate(token: String(decoding: spelling, as: UTF8.self), id: id, at: place())
        }
        starts[id] = UInt32(bytes.count)
        lengths[id] = Int32(spelling.count)
        bytes.append(contentsOf: spelling)
        count += 1
        if count * 2 > slots.count { grow() } else { insert(id) }
    }

    /// The id of the token spelled by these bytes, or -1.
    private func find(_ spelling: UnsafeBufferPointer<UInt8>) -> Int32 {
        var empty: UInt8 = 0
        return withUnsafePointer(to: &empty) { placeholder in
            bytes.withUnsafeBufferPointer { bytes in
                starts.withUnsafeBufferPointer { starts in
                    lengths.withUnsafeBufferPointer { lengths in
                        Vocabulary.find(
                            spelling.baseAddress ?? placeholder, spelling.count, slots: slots,
                            bytes: bytes.baseAddress ?? placeholder, starts: starts.baseAddress!,
                            lengths: lengths.baseAddress!)
                    }
                }
            }
        }
    }

    private mutating func grow() {
        slots = FixedBuffer(repeating: -1, count: slots.count * 2)
        for id in lengths.indices where lengths[id] >= 0 { insert(id) }
    }

    private func insert(_ id: Int) {
        let mask = slots.count - 1
        let hash = bytes.withUnsafeBufferPointer { bytes in
            // An empty array has no base address, but then the token is empty too and nothing is read.
            ByteHash.hash((bytes.baseAddress ?? UnsafePointer(bitPattern: 1)!) + Int(starts[id]), Int(lengths[id]))
        }
        var slot = Int(truncatingIfNeeded: hash) & mask
        while slots[slot] >= 0 { slot = (slot + 1) & mask }
        slots[slot] = Int32(id)
    }

    /// The vocabulary; the builder must not be used afterwards.
    func build() -> Vocabulary { Vocabulary(self) }
}
