import ApusText

/// The tokens of one part of prepared data, served as sequences. Keeps no state: what a step reads follows from the
/// seed and the step alone, so a run resumes anywhere.
///
/// ```swift
/// let data = try TokenDataset(folder: "books", split: .train)
/// let batch = try data.batch(step: 17, seed: 0, rows: 16, length: 256)
/// ```
///
/// The documents stand one after another in one stream, which is cut into windows of `length` tokens; an epoch serves
/// each window once, in an order of its own. The last tokens, too few for a window, are left out.
public struct TokenDataset: Sendable {
    /// The folder, for messages.
    public let folder: String
    /// The part of the data.
    public let split: TokenSplit
    /// What is in the folder.
    public let manifest: TokenManifest
    /// Tokens in all.
    public let tokenCount: Int

    private let shards: [TokenShard]
    /// The token of the stream at which each shard starts.
    private let starts: [Int]

    /// Opens the shards of a folder that `apus data prepare` wrote, and checks them.
    /// - Throws: ``TokenDataError``, `ModelFileError`, `JSONError`.
    public init(folder: String, split: TokenSplit) throws {
        self.folder = folder
        self.split = split
        manifest = try TokenManifest(folder: folder)
        guard manifest.isComplete else {
            throw TokenDataError.malformed(
                file: folder, place: "manifest.json", expected: "a finished preparation",
                found: "one that was broken off")
        }
        var shards: [TokenShard] = []
        var starts: [Int] = []
        var count = 0
        for entry in manifest.shards where entry.split == split {
            let shard = try TokenShard(path: folder + "/" + entry.file)
            guard shard.vocabularyHash == manifest.vocabularyHash, shard.vocabularySize == manifest.vocabularySize
            else {
                throw TokenDataError.vocabulary(
                    file: shard.name, expected: "\(manifest.vocabularyHash)", found: "\(shard.vocabularyHash)")
            }
            guard shard.tokenCount == entry.tokens, shard.documentCount == entry.documents else {
                throw TokenDataError.malformed(
                    file: shard.name, place: "header", expected: "\(entry.tokens) tokens, \(entry.documents) documents",
                    found: "\(shard.tokenCount) tokens, \(shard.documentCount) documents")
            }
            starts.append(count)
            shards.append(shard)
            count += shard.tokenCount
        }
        guard count > 0 else { throw TokenDataError.noSplit(folder: folder, split: split.rawValue) }
        self.shards = shards
        self.starts = starts
        tokenCount = count
    }

    /// The tokenizer that the data was made with.
    /// - Throws: ``TokenDataError/vocabulary(file:expected:found:)`` where the file has changed since;
    ///   `TokenizerError`, `ModelFileError`.
    public func loadTokenizer() throws -> Tokenizer {
        let path = manifest.tokenizerPath(in: folder)
        let tokenizer = try Tokenizer(model: path)
        let hash = VocabularyHash(tokenizer)
        guard hash == manifest.vocabularyHash else {
            throw TokenDataError.vocabulary(file: path, expected: "\(manifest.vocabularyHash)", found: "\(hash)")
        }
        return tokenizer
    }

    // MARK: Windows

    /// Windows of `length` tokens; each has the token after it.
    /// - Throws: ``TokenDataError/tooShort(folder:split:expected:found:)`` where there is none.
    public func windowCount(length: Int) throws(TokenDataError) -> Int {
        precondition(length > 0)
        guard tokenCount > length else {
            throw .tooShort(folder: folder, split: split.rawValue, expected: length + 1, found: tokenCount)
        }
        return (tokenCount - 1) / length
    }

    /// Windows in the order of the stream, for evaluation.
    /// - Throws: ``TokenDataError``.
    public func windows(_ range: Range<Int>, length: Int) throws(TokenDataError) -> TokenBatch {
        let count = try windowCount(length: length)
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "windows \(range) of \(count)")
        return try batch(of: Array(range), length: length)
    }

    /// The sequences of a step: those with the numbers `step * rows ..< (step + 1) * rows` in the shuffled stream of all
    /// epochs.
    /// - Parameters:
    ///   - step: from 0; with accumulation, micro-batches count as steps.
    ///   - seed: of the order.
    /// - Throws: ``TokenDataError``.
    public func batch(step: Int, seed: Int, rows: Int, length: Int) throws(TokenDataError) -> TokenBatch {
        try sequences(step * rows..<(step + 1) * rows, seed: seed, length: length)
    }

    /// Sequences by their numbers in the shuffled stream of all epochs, as for a rank's share of a step.
    /// - Throws: ``TokenDataError``.
    public func sequences(_ numbers: Range<Int>, seed: Int, length: Int) throws(TokenDataError) -> TokenBatch {
        let count = try windowCount(length: length)
        var order: (epoch: Int, windows: WindowOrder)?
        var windows: [Int] = []
        for number in numbers {
            let epoch = number / count
            if order?.epoch != epoch {
                let mixed = WindowOrder.mix(UInt64(bitPattern: Int64(seed))) ^ UInt64(epoch)
                order = (epoch, WindowOrder(count: count, seed: WindowOrder.mix(mixed)))
            }
            windows.append(order!.windows[number % count])
        }
        return try batch(of: windows, length: length)
    }

    private func batch(of windows: [Int], length: Int) throws(TokenDataError) -> TokenBatch {
        var tokens: [Int32] = []
        tokens.reserveCapacity(windows.count * (length + 1))
        var documentStarts: [[Int]] = []
        for window in windows {
            let first = window * length
            var starts: [Int] = []
            try forEachPart(first..<first + length + 1) { shard, range, place throws(TokenDataError) in
                try shard.append(range, to: &tokens)
                starts += shard.documentStarts(in: range).map { $0 - range.lowerBound + place }
            }
            documentStarts.append(starts)
        }
        return TokenBatch(rows: windows.count, length: length, tokens: tokens, documentStarts: documentStarts)
    }

    /// Calls `body` with the shards that a range of the stream lies in, the range within each, and the place of its
    /// first token in the whole range.
    private func forEachPart(
        _ range: Range<Int>, _ body: (TokenShard, Range<Int>, Int) throws(TokenDataError) -> Void
    ) throws(TokenDataError) {
        var low = 0
        var high = starts.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if starts[middle] <= range.lowerBound { low = middle } else { high = middle }
        }
        var place = range.lowerBound
        while place < range.upperBound {
            let shard = shards[low]
            let first = place - starts[low]
            let last = min(range.upperBound - starts[low], shard.tokenCount)
            if first < last { try body(shard, first..<last, place - range.lowerBound) }
            place = max(place, starts[low] + last)
            low += 1
        }
    }
}

extension TokenManifest {
    func tokenizerPath(in folder: String) -> String {
        tokenizer == Self.tokenizerFileName ? folder + "/" + tokenizer : tokenizer
    }

    static let tokenizerFileName = "tokenizer.json"
}
