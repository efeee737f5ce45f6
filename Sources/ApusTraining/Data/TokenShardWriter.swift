import ApusModels
import ApusTensor
import ApusText

/// Gathers the tokens of a shard and writes them beside the final file, renamed when complete.
struct TokenShardWriter {
    private let vocabularySize: Int
    private let hash: VocabularyHash
    private var tokens: [UInt8] = []
    private var starts: [Int] = []

    /// Bytes of a token: 2 where every id fits.
    let tokenWidth: Int

    init(vocabularySize: Int, hash: VocabularyHash) {
        self.vocabularySize = vocabularySize
        self.hash = hash
        tokenWidth = Self.tokenWidth(vocabularySize)
    }

    static func tokenWidth(_ vocabularySize: Int) -> Int { vocabularySize <= 1 << 16 ? 2 : 4 }

    var tokenCount: Int { tokens.count / tokenWidth }
    var documentCount: Int { starts.count }

    /// Notes that a document starts with the next token.
    mutating func startDocument() {
        // A document without tokens is none.
        if starts.last != tokenCount { starts.append(tokenCount) }
    }

    /// Appends tokens that ``pack(_:_:)`` made.
    mutating func append(_ packed: some Collection<UInt8>) { tokens += packed }

    /// Ids as they stand in the file. Precondition: they fit the width.
    static func pack(_ ids: [Int32], _ width: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: ids.count * width) { memory, count in
            let raw = UnsafeMutableRawBufferPointer(memory)
            if width == 2 {
                for (index, id) in ids.enumerated() {
                    raw.storeBytes(of: UInt16(id).littleEndian, toByteOffset: 2 * index, as: UInt16.self)
                }
            } else {
                for (index, id) in ids.enumerated() {
                    raw.storeBytes(of: UInt32(id).littleEndian, toByteOffset: 4 * index, as: UInt32.self)
                }
            }
            count = ids.count * width
        }
    }

    func write(to path: String) throws {
        let file = try AtomicFile(path: path)
        func number(_ value: some FixedWidthInteger) throws {
            try withUnsafeBytes(of: value.littleEndian) { try file.write($0) }
        }
        // A document that starts where the tokens end has none of them here.
        let kept = starts.filter { $0 < tokenCount }
        try file.write(TokenShard.magic)
        try number(UInt32(1))
        try number(UInt32(tokenWidth))
        try number(UInt64(vocabularySize))
        try file.write(hash.bytes)
        try number(UInt64(tokenCount))
        try number(UInt64(kept.count))
        try number(UInt64((TokenShard.headerSize + tokens.count + 7) / 8 * 8))
        try file.write(tokens)
        try file.pad(to: 8)
        try kept.map { UInt64($0).littleEndian }.withUnsafeBytes { try file.write($0) }
        try file.publish()
    }
}

extension VocabularyHash {
    /// The hash of a tokenizer's vocabulary.
    public init(_ tokenizer: Tokenizer) {
        var hash = SHA256()
        for id in 0..<Int32(tokenizer.idBound) { hash.update(field: tokenizer.spelling(id) ?? []) }
        self.init(bytes: Array(hash.digest().prefix(16)))
    }
}
