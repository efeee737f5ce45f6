import ApusModels

/// A memory-mapped file of tokens, as `apus data prepare` writes it. All numbers are little-endian.
///
/// | offset | bytes | content |
/// |---|---|---|
/// | 0 | 8 | `APUSTOKN` |
/// | 8 | 4 | version: 1 |
/// | 12 | 4 | bytes of a token: 2 or 4 |
/// | 16 | 8 | size of the vocabulary: ids are below it |
/// | 24 | 16 | the vocabulary's hash |
/// | 40 | 8 | tokens: n |
/// | 48 | 8 | documents that start here: d |
/// | 56 | 8 | offset of the documents' starts |
/// | 64 | 2n or 4n | tokens, filled up with zeros to a multiple of 8 |
/// | | 8d | the token at which each document starts, ascending |
///
/// The first document starts at token 0 unless its start is in the file before.
public struct TokenShard: Sendable {
    /// The path, for messages.
    public var name: String { file.name }
    /// Tokens in the file.
    public let tokenCount: Int
    /// Documents that start in the file.
    public let documentCount: Int
    /// Ids are below this.
    public let vocabularySize: Int
    /// The hash of the vocabulary.
    public let vocabularyHash: VocabularyHash

    private let file: MappedFile
    private let isWide: Bool
    private let startsOffset: Int

    static let magic = Array("APUSTOKN".utf8)
    static let headerSize = 64

    /// Maps and checks a file: its header against its size, and the documents' starts.
    /// - Throws: `ModelFileError.system`, ``TokenDataError/malformed(file:place:expected:found:)``.
    public init(path: String) throws {
        try self.init(MappedFile(path: path))
    }

    init(_ file: MappedFile) throws {
        self.file = file
        func malformed(_ place: String, _ expected: String, _ found: String) -> TokenDataError {
            .malformed(file: file.name, place: place, expected: expected, found: found)
        }
        func number(_ offset: Int, _ place: String, in range: ClosedRange<Int>) throws -> Int {
            let value: UInt64 = file.number(at: offset)!
            guard let result = Int(exactly: value), range.contains(result) else {
                throw malformed(place, "\(range.lowerBound) to \(range.upperBound)", "\(value)")
            }
            return result
        }
        guard file.byteCount >= Self.headerSize else {
            throw malformed("header", "\(Self.headerSize) bytes", "a file of \(file.byteCount)")
        }
        let head = file.bytes(0..<8)
        guard head == Self.magic else { throw malformed("header", "APUSTOKN", "\(head)") }
        let version: UInt32 = file.number(at: 8)!
        guard version == 1 else { throw malformed("version", "1", "\(version)") }
        let width: UInt32 = file.number(at: 12)!
        guard width == 2 || width == 4 else { throw malformed("bytes of a token", "2 or 4", "\(width)") }
        isWide = width == 4
        vocabularySize = try number(16, "size of the vocabulary", in: 1...(isWide ? 1 << 31 : 1 << 16))
        vocabularyHash = VocabularyHash(bytes: file.bytes(24..<40))
        let largest = file.byteCount
        tokenCount = try number(40, "tokens", in: 0...largest)
        documentCount = try number(48, "documents", in: 0...tokenCount)
        startsOffset = try number(56, "offset of the documents' starts", in: Self.headerSize...largest)
        let tokensEnd = (Self.headerSize + tokenCount * Int(width) + 7) / 8 * 8
        guard startsOffset == tokensEnd, file.byteCount == tokensEnd + documentCount * 8 else {
            throw malformed(
                "size",
                "\(tokensEnd + documentCount * 8) bytes for \(tokenCount) tokens and \(documentCount) documents",
                "\(file.byteCount)")
        }
        var previous = -1
        for document in 0..<documentCount {
            let start: UInt64 = file.number(at: startsOffset + 8 * document)!
            guard start < UInt64(tokenCount), Int(start) > previous else {
                throw malformed(
                    "start of document \(document)", "above \(previous) and below \(tokenCount)", "\(start)")
            }
            previous = Int(start)
        }
    }

    /// Appends tokens of a range. Precondition: it lies inside the file.
    /// - Throws: ``TokenDataError/tokenOutOfRange(file:index:vocabulary:found:)``.
    func append(_ range: Range<Int>, to tokens: inout [Int32]) throws(TokenDataError) {
        let first = tokens.count
        let bound = vocabularySize
        let width = isWide ? 4 : 2
        let bytes = Self.headerSize + range.lowerBound * width..<Self.headerSize + range.upperBound * width
        file.withBytes(bytes) { bytes in
            if isWide {
                for index in 0..<range.count {
                    let token = bytes.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self)
                    tokens.append(Int32(bitPattern: UInt32(littleEndian: token)))
                }
            } else {
                for index in 0..<range.count {
                    let token = bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
                    tokens.append(Int32(UInt16(littleEndian: token)))
                }
            }
        }
        for index in first..<tokens.count where tokens[index] < 0 || Int(tokens[index]) >= bound {
            throw .tokenOutOfRange(
                file: name, index: range.lowerBound + index - first, vocabulary: bound,
                found: Int(UInt32(bitPattern: tokens[index])))
        }
    }

    /// Where documents start within a range of tokens, in order.
    func documentStarts(in range: Range<Int>) -> [Int] {
        var low = 0
        var high = documentCount
        while low < high {
            let middle = (low + high) / 2
            if start(middle) < range.lowerBound { low = middle + 1 } else { high = middle }
        }
        var result: [Int] = []
        while low < documentCount, start(low) < range.upperBound {
            result.append(start(low))
            low += 1
        }
        return result
    }

    private func start(_ document: Int) -> Int { Int(file.number(at: startsOffset + 8 * document, as: UInt64.self)!) }
}

/// The first half of the SHA-256 of a vocabulary: of each token's spelling in the order of the ids.
public struct VocabularyHash: Sendable, Hashable, CustomStringConvertible {
    let bytes: [UInt8]

    init(bytes: [UInt8]) { self.bytes = bytes }

    /// Thirty-two hexadecimal digits.
    public var description: String { bytes.hexadecimal }

    init?(hexadecimal text: String) {
        let digits = text.compactMap(\.hexDigitValue)
        guard digits.count == 32, text.count == 32 else { return nil }
        bytes = (0..<16).map { UInt8(digits[2 * $0] << 4 | digits[2 * $0 + 1]) }
    }
}

extension Sequence<UInt8> {
    var hexadecimal: String {
        map { (byte: UInt8) -> String in
            let digits = String(byte, radix: 16)
            return digits.count == 1 ? "0" + digits : digits
        }.joined()
    }
}
