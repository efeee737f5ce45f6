import ApusSynchronization
import ApusTensor
import ApusText

/// Tokenises blocks on all cores and writes them as shards. While a batch of blocks is tokenised, one of the workers
/// reads the next.
struct PreparationWriter {
    private let preparation: DataPreparation
    private let tokenizer: Tokenizer
    private var manifest: TokenManifest
    private let backend = CPUBackend.shared

    init(preparation: DataPreparation, tokenizer: Tokenizer, manifest: TokenManifest) {
        self.preparation = preparation
        self.tokenizer = tokenizer
        self.manifest = manifest
    }

    mutating func run(_ progress: (DataPreparation.Progress) -> Void) throws -> TokenManifest {
        let start = ContinuousClock.now
        let reader = BatchReader(
            PreparationStream(manifest.sources, preparation.layout), skipping: manifest.blocks,
            count: 4 * backend.threads)
        var shards = ShardPair(manifest)
        var blocks = 0
        var done: (textBytes: Int, tokens: Int) = (0, 0)
        var batch = try reader.read()
        let skipped = reader.sourceBytes.read
        while !batch.isEmpty {
            let bytes = reader.sourceBytes
            let work = PreparationBatch(batch.count)
            // A copy of the values, so that the workers do not share this one.
            let (preparation, tokenizer, manifest, current) = (preparation, tokenizer, manifest, batch)
            backend.concurrently(batch.count + 1) { index in
                if index == 0 {
                    work.setNext(Result { try reader.read() })
                } else {
                    let (source, block) = current[index - 1]
                    work.set(
                        index - 1, Result { try EncodedBlock(block, source, preparation, tokenizer, manifest) })
                }
            }
            for index in batch.indices {
                let block = try work.result(index)
                shards.append(block)
                blocks += 1
                done.textBytes += block.textByteCount
                done.tokens += block.bytes.count / shards.tokenWidth
                if shards.textByteCount >= preparation.shardByteCount {
                    try flush(&shards, blocks)
                    blocks = 0
                }
            }
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            let rest = Double(bytes.total - bytes.read) / Double(max(bytes.read - skipped, 1))
            progress(
                DataPreparation.Progress(
                    phase: .tokens, sourceBytes: bytes, textBytes: done.textBytes, tokens: done.tokens,
                    seconds: seconds,
                    secondsLeft: bytes.read > skipped ? seconds * rest : nil))
            batch = try work.next()
        }
        manifest.isComplete = true
        try flush(&shards, blocks)
        return manifest
    }

    /// Writes the shards gathered and then the manifest that names them: a kill between the two costs the shards' work
    /// again, no more.
    private mutating func flush(_ shards: inout ShardPair, _ blocks: Int) throws {
        let number = String(manifest.shards.count + 100_000).dropFirst()
        for split in TokenSplit.allCases {
            let writer = shards[split]
            guard writer.tokenCount > 0 else { continue }
            let name = "\(split.rawValue)-\(number).tokens"
            try writer.write(to: preparation.folder + "/" + name)
            manifest.shards.append(
                TokenManifest.Shard(
                    file: name, split: split, tokens: writer.tokenCount, documents: writer.documentCount))
        }
        manifest.blocks += blocks
        manifest.textByteCount += shards.textByteCount
        try manifest.write(to: preparation.folder)
        shards = ShardPair(manifest)
    }
}

/// The shards that are being filled.
private struct ShardPair {
    private var writers: [TokenSplit: TokenShardWriter] = [:]
    private(set) var textByteCount = 0
    let tokenWidth: Int

    init(_ manifest: TokenManifest) {
        tokenWidth = TokenShardWriter.tokenWidth(manifest.vocabularySize)
        for split in TokenSplit.allCases {
            writers[split] = TokenShardWriter(
                vocabularySize: manifest.vocabularySize, hash: manifest.vocabularyHash)
        }
    }

    subscript(split: TokenSplit) -> TokenShardWriter { writers[split]! }

    mutating func append(_ block: EncodedBlock) {
        for piece in block.pieces {
            if piece.startsDocument { writers[piece.split]!.startDocument() }
            writers[piece.split]!.append(block.bytes[piece.range])
        }
        textByteCount += block.textByteCount
    }
}

/// A block's tokens as they stand in shards.
private struct EncodedBlock: Sendable {
    struct Piece: Sendable {
        var split: TokenSplit
        var startsDocument: Bool
        var range: Range<Int>
    }

    private(set) var pieces: [Piece] = []
    private(set) var bytes: [UInt8] = []
    private(set) var textByteCount = 0

    init(
        _ block: TextBlock, _ source: Int, _ preparation: DataPreparation, _ tokenizer: Tokenizer,
        _ manifest: TokenManifest
    ) throws {
        let width = TokenShardWriter.tokenWidth(manifest.vocabularySize)
        try block.forEachText { piece, text in
            if text.isEmpty, piece.startsDocument { return }
            var ids = try tokenizer.encode(utf8: text, parseSpecialTokens: false)
            if piece.endsDocument, let end = manifest.endToken { ids.append(end) }
            let begin = bytes.count
            bytes += TokenShardWriter.pack(ids, width)
            textByteCount += text.count
            pieces.append(
                Piece(
                    split: preparation.split(source, piece.document, manifest.sources),
                    startsDocument: piece.startsDocument, range: begin..<bytes.count))
        }
    }
}

/// Reads batches of blocks; one thread at a time.
private final class BatchReader: Sendable {
    private let stream: Locked<PreparationStream>
    private let skipped: Locked<Int>
    private let count: Int

    init(_ stream: sending PreparationStream, skipping blocks: Int, count: Int) {
        self.stream = Locked(stream)
        skipped = Locked(blocks)
        self.count = count
    }

    var sourceBytes: (read: Int, total: Int) { stream.withLock { $0.sourceBytes } }

    func read() throws -> [(source: Int, block: TextBlock)] {
        try stream.withLock { stream in
            let skip = skipped.withLock { count in
                defer { count = 0 }
                return count
            }
            for _ in 0..<skip where try stream.next() == nil { return [] }
            var result: [(source: Int, block: TextBlock)] = []
            while result.count < count, let next = try stream.next() { result.append(next) }
            return result
        }
    }
}

/// What the workers make of a batch.
private final class PreparationBatch: Sendable {
    private let results: Locked<[Result<EncodedBlock, any Error>?]>
    private let following = Locked<Result<[(source: Int, block: TextBlock)], any Error>?>(nil)

    init(_ count: Int) { results = Locked(Array(repeating: nil, count: count)) }

    func set(_ index: Int, _ result: Result<EncodedBlock, any Error>) { results.withLock { $0[index] = result } }
    func setNext(_ result: Result<[(source: Int, block: TextBlock)], any Error>) { following.withLock { $0 = result } }
    func result(_ index: Int) throws -> EncodedBlock { try results.withLock { $0[index]! }.get() }
    func next() throws -> [(source: Int, block: TextBlock)] { try following.withLock { $0! }.get() }
}
