import ApusAttention
import ApusModels
import ApusTensor

/// The one sequence of a ``DecodeSession``, where it is computed.
protocol SessionSequence: AnyObject {
    var configuration: DecoderConfiguration { get }

    /// Forgets all but the first `count` tokens.
    func truncate(to count: Int) throws

    /// How many of `count` new tokens run at a time.
    func steps(_ count: Int) -> [Int]

    /// Appends tokens after the `cached` ones that are there.
    /// - Returns: the logits after the last, [1, vocabulary], where they are wanted.
    func run(_ new: [Int32], after cached: Int, givesLogits: Bool) throws -> Tensor?
}

/// On the CPU, or what a decoder's backend is.
final class DecoderSequence: SessionSequence {
    private let decoder: Decoder
    private let cache: PagedCache
    private let sequence: CacheSequence

    init(_ decoder: Decoder, context: Int, cacheType: DType?) throws {
        self.decoder = decoder
        cache = try decoder.makeCache(tokens: context, type: cacheType)
        sequence = cache.makeSequence()
    }

    var configuration: DecoderConfiguration { decoder.configuration }

    func truncate(to count: Int) throws { try cache.truncate(sequence, to: count) }

    func steps(_ count: Int) -> [Int] { decoder.prefillSteps(count) }

    func run(_ new: [Int32], after cached: Int, givesLogits: Bool) throws -> Tensor? {
        let input = DecoderInput(tokens: new, sequence: sequence, logits: givesLogits ? .last : .none)
        let logits = try decoder.forward([input], cache: cache)
        return givesLogits ? logits : nil
    }
}

/// On a GPU.
final class GPUSequence: SessionSequence {
    private let decoder: GPUDecoder
    private let pages: [Int32]

    /// - Parameter path: the model's, whose weights the GPU takes.
    init(
        path: String, device: Int, context: Int?, ranks: TensorParallel? = nil, progress: (Double) -> Void = { _ in }
    ) throws {
        let checkpoint = try Checkpoints.open(path)
        let context = context ?? DecodeSession.defaultContext(checkpoint.configuration)
        let count = (context + GPUDecoder.pageSize - 1) / GPUDecoder.pageSize
        decoder = try GPUDecoder(
            checkpoint: checkpoint,
            limits: GPUDecoder.Limits(sequences: 1, tokens: context, pages: count, chunk: min(context, 8192)),
            device: CUDADevice.device(device), ranks: ranks, progress: progress)
        pages = (0..<count).map { Int32($0) }
    }

    var configuration: DecoderConfiguration { decoder.configuration }

    // Tokens beyond those that a step is told of are not read, and written over.
    func truncate(to count: Int) {}

    func steps(_ count: Int) -> [Int] {
        stride(from: 0, to: count, by: decoder.limits.chunk).map { min(decoder.limits.chunk, count - $0) }
    }

    func run(_ new: [Int32], after cached: Int, givesLogits: Bool) throws -> Tensor? {
        let rows = [GPUDecoder.Row(tokens: new, cached: cached, pages: pages)]
        let logits: [Float]
        if new.count == 1 {
            try decoder.load(rows)
            try decoder.advance(logits: givesLogits)
            guard givesLogits else { return nil }
            logits = try decoder.logits()
        } else {
            try decoder.runLayers(rows)
            guard givesLogits else { return nil }
            logits = try decoder.logits(ofRows: [new.count - 1])
        }
        return Tensor(logits, shape: [1, logits.count])
    }
}
