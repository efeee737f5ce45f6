import ApusAttention
import ApusTensor

extension Decoder {
    /// Tokens of a cache page.
    static let pageSize = 64

    /// A cache for this model.
    /// - Parameters:
    ///   - tokens: tokens of the longest sequence.
    ///   - sequences: how many sequences of that length fit.
    ///   - type: f32, bf16 or q8_0; by default f32 for float32 weights and bf16 otherwise.
    /// - Throws: cache errors when memory does not suffice.
    public func makeCache(tokens: Int, sequences: Int = 1, type: DType? = nil) throws -> PagedCache {
        let pages = (tokens + Self.pageSize - 1) / Self.pageSize * sequences
        return try makeCache(pages: pages, pageSize: Self.pageSize, type: type)
    }

    /// A cache for this model by its pages.
    package func makeCache(pages: Int, pageSize: Int, type: DType? = nil) throws -> PagedCache {
        try PagedCache(
            geometries: try geometries(), layout: try CacheLayout(dtype: type ?? defaultCacheType), pageSize: pageSize,
            pages: pages, backend: backend)
    }

    /// Bytes of a page over all layers.
    package func cacheBytesPerPage(pageSize: Int, type: DType? = nil) throws -> Int {
        let layout = try CacheLayout(dtype: type ?? defaultCacheType)
        return try geometries().reduce(0) { $0 + layout.pageBytes(of: $1, pageSize: pageSize) }
    }

    private func geometries() throws -> [CacheGeometry] {
        try (0..<local.layerCount).map { try local.geometry(layer: $0) }
    }

    /// The cache type that follows the file.
    public var defaultCacheType: DType { weightType == .f32 ? .f32 : .bf16 }

    /// Logits after each token of a sequence, run in one step from an empty cache; a score head's scores after the last
    /// token only.
    public func logits(of tokens: [Int32], cacheType: DType? = nil) throws -> [[Float]] {
        try check(tokens)
        let cache = try makeCache(tokens: tokens.count, type: cacheType)
        var wanted = DecoderInput.Logits.all
        if case .score = configuration.head { wanted = .last }
        let rows = try forward(
            [DecoderInput(tokens: tokens, sequence: cache.makeSequence(), logits: wanted)], cache: cache)
        let values = rows.floats
        return (0..<rows.shape[0]).map { Array(values[($0 * outputWidth)..<(($0 + 1) * outputWidth)]) }
    }

    /// Checks token ids that come from outside.
    /// - Throws: ``DecoderError``.
    public func check(_ tokens: [Int32]) throws {
        guard !tokens.isEmpty else { throw DecoderError.noTokens }
        guard tokens.count <= configuration.maxPositions else {
            throw DecoderError.tooManyTokens(count: tokens.count, limit: configuration.maxPositions)
        }
        for (index, token) in tokens.enumerated() where token < 0 || Int(token) >= configuration.vocabularySize {
            throw DecoderError.unknownToken(Int(token), index: index, vocabulary: configuration.vocabularySize)
        }
    }
}

/// What can be wrong with tokens given to a decoder.
public enum DecoderError: Error, Equatable, CustomStringConvertible {
    /// An empty sequence.
    case noTokens
    /// A token id outside the vocabulary.
    case unknownToken(Int, index: Int, vocabulary: Int)
    /// More tokens than the model has positions.
    case tooManyTokens(count: Int, limit: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .noTokens: "expected at least one token, found none"
        case .unknownToken(let token, let index, let vocabulary):
            "token \(index) is \(token); expected an id below the vocabulary of \(vocabulary)"
        case .tooManyTokens(let count, let limit): "expected at most \(limit) tokens, found \(count)"
        }
    }
}
