/// Conversations packed into rows, with loss on the answers only.
///
/// Conversations are put into rows of at most `length` tokens once, longest first; rows are served in an order that follows
/// from the seed and the epoch. Attention and positions do not cross from one conversation to the next.
public struct ChatBatches: BatchSource {
    /// Conversations that were longer than a row, and are left out.
    public let omitted: Int
    /// Conversations to train on, and held out.
    public let counts: (train: Int, validation: Int)
    /// Tokens to train on, and held out.
    public let tokenCounts: (train: Int, validation: Int)
    private let train: [[ChatExample]]
    private let validation: [[ChatExample]]
    private let rows: Int
    private let accumulation: Int
    private let seed: Int

    /// Packs conversations.
    /// - Parameters:
    ///   - length: tokens of a row, at most.
    ///   - rows: rows of a micro-batch.
    ///   - files: for messages.
    /// - Throws: ``ChatDataError/empty(files:longest:)``.
    public init(
        train: [ChatExample], validation: [ChatExample], length: Int, rows: Int, accumulation: Int, seed: Int,
        files: [String]
    ) throws {
        let fitting = train.filter { $0.tokens.count <= length + 1 }
        let held = validation.filter { $0.tokens.count <= length + 1 }
        guard !fitting.isEmpty else { throw ChatDataError.empty(files: files, longest: length) }
        omitted = train.count - fitting.count + validation.count - held.count
        counts = (fitting.count, held.count)
        func tokens(_ examples: [ChatExample]) -> Int { examples.reduce(0) { $0 + $1.tokens.count } }
        tokenCounts = (tokens(fitting), tokens(held))
        self.train = Self.packed(fitting, length: length)
        self.validation = Self.packed(held, length: length)
        self.rows = rows
        self.accumulation = accumulation
        self.seed = seed
    }

    /// First fit, longest first: a row takes the first conversations that still fit.
    private static func packed(_ examples: [ChatExample], length: Int) -> [[ChatExample]] {
        var bins: [(room: Int, examples: [ChatExample])] = []
        // Bins before this one have no room for anything as long as what is being placed.
        let order = examples.indices.sorted {
            (examples[$1].tokens.count, $0) < (examples[$0].tokens.count, $1)
        }
        var open: [Int] = []
        for index in order {
            let needed = examples[index].tokens.count - 1
            if let place = open.firstIndex(where: { bins[$0].room >= needed }) {
                let bin = open[place]
                bins[bin].room -= needed
                bins[bin].examples.append(examples[index])
                if bins[bin].room < 2 { open.remove(at: place) }
            } else {
                bins.append((length - needed, [examples[index]]))
                open.append(bins.count - 1)
                // The search stays short: rows that are nearly full wait for short conversations no longer.
                if open.count > 512 { open.removeFirst() }
            }
        }
        return bins.map(\.examples)
    }

    /// See ``BatchSource/batch(step:part:)``.
    public func batch(step: Int, part: Int) -> PackedBatch {
        let first = (step * accumulation + part) * rows
        return Self.batch(
            (first..<first + rows).flatMap { number -> [ChatExample] in
                let mixed = WindowOrder.mix(UInt64(bitPattern: Int64(seed))) ^ UInt64(number / train.count)
                let order = WindowOrder(count: train.count, seed: WindowOrder.mix(mixed))
                return train[order[number % train.count]]
            })
    }

    /// See ``BatchSource/evaluationBatches``.
    public var evaluationBatches: Int { (validation.count + rows - 1) / rows }

    /// See ``BatchSource/evaluationBatch(_:)``.
    public func evaluationBatch(_ index: Int) -> PackedBatch {
        Self.batch(validation[index * rows..<min((index + 1) * rows, validation.count)].flatMap { $0 })
    }

    private static func batch(_ examples: [ChatExample]) -> PackedBatch {
        var batch = PackedBatch(tokens: [], targets: [], starts: [0])
        for example in examples {
            batch.tokens += example.tokens.dropLast()
            batch.targets += zip(example.tokens, example.isAnswer).dropFirst().map { $1 ? $0 : -1 }
            batch.starts.append(batch.tokens.count)
        }
        return batch
    }
}
