import ApusText

/// The blocks of all sources, one source after another.
final class PreparationStream {
    private let sources: [TokenManifest.Source]
    private let layout: TextLayout
    private var index = 0
    private var reader: TextReader?
    private var finishedBytes = 0

    init(_ sources: [TokenManifest.Source], _ layout: TextLayout) {
        self.sources = sources
        self.layout = layout
    }

    /// Bytes of the source files, and those that have been read.
    var sourceBytes: (read: Int, total: Int) {
        (finishedBytes + (reader?.fileOffset ?? 0), sources.reduce(0) { $0 + $1.byteCount })
    }

    /// The next block and its source, or nil at the end of the last.
    func next() throws(TextDataError) -> (source: Int, block: TextBlock)? {
        while index < sources.count {
            let reader: TextReader
            if let current = self.reader {
                reader = current
            } else {
                reader = try TextReader(path: sources[index].path, layout: layout)
            }
            self.reader = reader
            if let block = try reader.next() { return (index, block) }
            finishedBytes += sources[index].byteCount
            index += 1
            self.reader = nil
        }
        return nil
    }
}

/// The training text, for a vocabulary: until its end, its first GiB, or what is no text.
final class TrainingTexts: Sequence, IteratorProtocol {
    /// What ended the sequence before its time.
    private(set) var failure: (any Error)?

    private let stream: PreparationStream
    private let isTraining: (Int, Int) -> Bool
    private let progress: (DataPreparation.Progress) -> Void
    private let start = ContinuousClock.now
    private var pending: [[UInt8]] = []
    private var byteCount = 0

    private static let limit = 1 << 30

    init(
        _ stream: PreparationStream, isTraining: @escaping (Int, Int) -> Bool,
        _ progress: @escaping (DataPreparation.Progress) -> Void
    ) {
        self.stream = stream
        self.isTraining = isTraining
        self.progress = progress
    }

    func next() -> [UInt8]? {
        do {
            while pending.isEmpty {
                guard byteCount < Self.limit, let (source, block) = try stream.next() else { return nil }
                try block.forEachText { piece, text in
                    if isTraining(source, piece.document) { pending.append(Array(text)) }
                }
                pending.reverse()
                byteCount += block.bytes.count
                let seconds = (ContinuousClock.now - start) / .seconds(1)
                let bytes = stream.sourceBytes
                progress(
                    DataPreparation.Progress(
                        phase: .vocabulary, sourceBytes: bytes, textBytes: byteCount, tokens: 0, seconds: seconds,
                        secondsLeft: seconds * Double(bytes.total - bytes.read) / Double(Swift.max(bytes.read, 1))))
            }
            return pending.removeLast()
        } catch {
            failure = error
            return nil
        }
    }
}
