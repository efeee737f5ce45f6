import ApusAttention
import ApusSynchronization
import ApusTensor

/// A decoder on a Hopper GPU, for models with grouped (MHA, GQA, MQA), tied (GTA) or latent attention (MLA, GLA), RMSNorm and
/// SwiGLU or mixtures of experts: weights in bf16 or in the blocks of GGUF's quantised types, sums and the residual stream in float32, a paged cache in
/// bf16.
///
/// The state of a step (tokens, lengths, page tables) is in the GPU's memory, and so is the choice of the next token: steps
/// are recorded as a CUDA graph for each number of sequences and follow each other without the host. The caller owns the
/// pages: sequences name theirs by number, below ``pageCount``.
///
/// Calls only queue work, except those that give something back. One at a time: a call waits for the others'.
///
/// A model can be cut over ranks, a GPU each (``init(checkpoint:limits:device:ranks:progress:)``): then all of them make the
/// same calls in the same order, but for ``tokens()``, ``history(_:)`` and ``normalizedStates(_:)``, and get the same results.
public final class GPUDecoder: Sendable {
    /// Whether the ranks that the model is cut over read each other's parts of a step's sums from the memory of their GPUs,
    /// instead of summing by NCCL.
    public var readsPeers: Bool { ranks?.peers != nil }

    /// What a decoder is made for.
    public struct Limits: Sendable, Hashable {
        /// Sequences of a step.
        public var sequences: Int
        /// Tokens of a sequence.
        public var tokens: Int
        /// Pages of the cache; nil for what fits into nine tenths of the memory that is free once the weights are there.
        public var pages: Int?
        /// Tokens of prompts that run at a time.
        public var chunk: Int

        /// Limits.
        public init(sequences: Int, tokens: Int, pages: Int? = nil, chunk: Int = 8192) {
            self.sequences = sequences
            self.tokens = tokens
            self.pages = pages
            self.chunk = chunk
        }
    }

    /// How a sequence's tokens are chosen.
    public struct Choice: Sendable, Hashable {
        /// 0 takes the likeliest token; otherwise logits are divided by it and a token is drawn.
        public var temperature: Float
        /// With the position, what a draw depends on.
        public var seed: UInt64

        /// A choice; by default the likeliest token.
        public init(temperature: Float = 0, seed: UInt64 = 0) {
            self.temperature = temperature
            self.seed = seed
        }
    }

    /// A sequence of a batch: its new tokens, after those that its pages hold.
    public struct Row: Sendable {
        /// The new tokens.
        public var tokens: [Int32]
        /// Tokens in the cache before them.
        public var cached: Int
        /// Pages, enough for all tokens and for those that steps will add.
        public var pages: [Int32]
        /// How the token after them is chosen.
        public var choice: Choice

        /// A sequence.
        public init(tokens: [Int32], cached: Int = 0, pages: [Int32], choice: Choice = Choice()) {
            self.tokens = tokens
            self.cached = cached
            self.pages = pages
            self.choice = choice
        }
    }

    /// Tokens of a page.
    public static let pageSize = 64

    /// What the model is.
    public let configuration: DecoderConfiguration
    /// What it was made for.
    public let limits: Limits
    /// What everything is queued on.
    public let stream: CUDAStream
    /// Pages of the cache; a number stands for the same page in every layer.
    public let pageCount: Int
    let shape: GPUDecoderShape
    let weights: GPUDecoderWeights
    let attention: Attention
    /// Nil where latents are too wide for it.
    let prefill: GPUPrefillAttention?
    let splitAttention: GPUDecodeAttention
    let rotary: GPURotaryTable
    let slidingRotary: GPURotaryTable
    let operations: CUDAOperations
    let kernels: GPUDecoderKernels
    let loadedProducts: GPUDecoderProducts
    let cache: CUDABuffer
    let memory: GPUDecoderMemory
    /// Nil where this process has all of the model.
    let ranks: GPUDecoderRanks?
    let batch = Locked(Batch())

    /// What the state in the GPU's memory is, as far as the host has to know.
    struct Batch {
        /// Tokens of each sequence after the last call, the chosen one included.
        var lengths: [Int] = []
        /// Of each sequence, how many its pages hold.
        var rooms: [Int] = []
        var graphs: [GraphKey: CUDAGraph] = [:]
    }

    /// What writes new tokens into the pages.
    enum Attention: Sendable {
        /// Keys and values for each group.
        case grouped(GPUGroupedAttention)
        /// A key kept once, of GTA, MLA and GLA.
        case shared(GPUSharedAppend)
    }

    struct GraphKey: Hashable {
        let sequences: Int
        let isSplit: Bool
        let givesLogits: Bool
        let ratesTokens: Bool
    }

    private init(
        _ configuration: DecoderConfiguration, limits: Limits, stream: CUDAStream, ranks: TensorParallel? = nil,
        weights: (GPUDecoderShape) throws -> GPUDecoderWeights
    ) throws {
        let shape = try GPUDecoderShape(configuration, part: ranks?.sharding)
        for (name, value, most) in [
            ("sequences", limits.sequences, 4096), ("tokens", limits.tokens, 1 << 24),
            ("tokens a chunk", limits.chunk, 1 << 20),
        ] where !(1...most).contains(value) {
            throw GPUDecoderError.limit(name: name, found: value, limit: most)
        }
        let format = shape.format
        let scale = Float(configuration.attentionScale)
        self.configuration = configuration
        self.limits = limits
        self.stream = stream
        self.shape = shape
        self.weights = try weights(shape)
        operations = try CUDAOperations(stream: stream)
        let kernels = try GPUDecoderKernels(stream.device, hasExperts: shape.experts != nil)
        self.kernels = kernels
        loadedProducts = GPUDecoderProducts(stream.device.modules)
        let (rotated, style) = (configuration.rotary.width, configuration.rotary.style)
        attention =
            shape.attention == .grouped
            ? .grouped(
                try GPUGroupedAttention(
                    format: format, scale: scale, rotated: rotated, style: style, norm: configuration.queryKeyNorm,
                    device: stream.device))
            : .shared(
                try GPUSharedAppend(
                    format: format, queries: shape.queries, rotated: rotated, style: style, device: stream.device))
        prefill =
            shape.readsPromptsByToken ? nil : try GPUPrefillAttention(format: format, scale: scale, stream: stream)
        splitAttention = try GPUDecodeAttention(
            format: format, queryTokens: 1, scale: scale,
            maximumBatch: max(Self.bucket(limits.sequences), shape.readsPromptsByToken ? limits.chunk : 0),
            stream: stream)
        let rotary = try GPURotaryTable(configuration.rotary.embedding, count: limits.tokens + 1, stream: stream)
        self.rotary = rotary
        slidingRotary =
            try configuration.slidingRotary.map {
                try GPURotaryTable($0.embedding, count: limits.tokens + 1, stream: stream)
            } ?? rotary
        let memory = try GPUDecoderMemory(
            shape, limits: limits, expandedBytes: self.weights.expandedBytes, stream: stream)
        self.memory = memory
        let sequences = Self.bucket(limits.sequences)
        let shared = try ranks.map {
            try GPUDecoderRanks(
                $0, shape, rows: max(sequences, limits.chunk), sequences: sequences, kernels: kernels, stream: stream)
        }
        self.ranks = shared
        try stream.synchronize()

        let bytes = shape.layers * format.pageBytes
        var pages = limits.pages ?? limits.sequences * memory.pageStride
        if limits.pages == nil {
            let free = try stream.device.memory().free
            pages = min(pages, free / 10 * 9 / bytes)
            if let shared { pages = try shared.least(pages) }
            guard pages > 0 else { throw GPUDecoderError.noRoom(free: free, pageBytes: bytes) }
        }
        pageCount = pages
        cache = try CUDABuffer(byteCount: pageCount * bytes, stream: stream)
        // What no token fills is multiplied by zero.
        try stream.fill(cache, with: 0)
    }

    /// Whether the kernels serve a model, or a rank's part of it.
    /// - Throws: ``GPUDecoderError/unsupported(name:found:expected:)`` where they do not.
    public static func require(
        _ configuration: DecoderConfiguration, part: ModelSharding? = nil
    ) throws(GPUDecoderError) {
        _ = try GPUDecoderShape(configuration, part: part)
    }

    /// A decoder with the weights of a checkpoint.
    /// - Parameters:
    ///   - limits: what it is made for.
    ///   - device: the GPU; of a rank that which its job was joined with.
    ///   - ranks: those that the model is cut over, a GPU each; nil for all of it on one.
    ///   - progress: called with the share of the layers loaded.
    /// - Throws: ``GPUDecoderError`` for models that the kernels do not serve, file errors, `CUDAError`.
    public convenience init(
        checkpoint: any Checkpoint, limits: Limits, device: CUDADevice, ranks: TensorParallel? = nil,
        progress: (Double) -> Void = { _ in }
    ) throws {
        let stream = try Self.stream(device, ranks)
        try self.init(checkpoint.configuration, limits: limits, stream: stream, ranks: ranks) { _ in
            try GPUDecoderWeights(checkpoint, part: ranks?.sharding, stream: stream, progress: progress)
        }
    }

    /// The stream to work on: of ranks the one that their collectives follow.
    private static func stream(_ device: CUDADevice, _ ranks: TensorParallel?) throws -> CUDAStream {
        guard let ranks else { return try CUDAStream(device: device) }
        guard let stream = ranks.communicator.stream, stream.device === device else {
            throw GPUDecoderError.unsupported(
                name: "ranks",
                found: ranks.communicator.stream.map { "some on GPU \($0.device.ordinal)" } ?? "some on CPUs",
                expected: "one on GPU \(device.ordinal), over NCCL")
        }
        return stream
    }

    /// A decoder of a shape with random weights, to measure.
    /// - Parameter weights: the type of matrices whose rows are whole blocks of it, one that GGUF packs or bf16.
    public convenience init(
        random configuration: DecoderConfiguration, seed: UInt64 = 1, weights: DType = .bf16, limits: Limits,
        device: CUDADevice, ranks: TensorParallel? = nil
    ) throws {
        let stream = try Self.stream(device, ranks)
        try self.init(configuration, limits: limits, stream: stream, ranks: ranks) { _ in
            try GPUDecoderWeights(
                random: configuration, part: ranks?.sharding, seed: seed, format: CUDAWeightFormat(weights),
                stream: stream)
        }
    }

    /// A decoder of a model that is trained on a GPU, with its weights as they are now; ``takeWeights(of:)`` takes later ones.
    ///
    /// Both queue their work on one stream, so that each sees what the other has queued before it.
    /// - Throws: ``GPUDecoderError`` for models that the kernels do not serve or that are trained elsewhere, `CUDAError`.
    public convenience init(training model: TrainableDecoder, limits: Limits) throws {
        guard let backend = model.operations.backend as? CUDABackend, model.ranks == nil else {
            throw GPUDecoderError.unsupported(
                name: "a model that is being trained", found: model.ranks == nil ? "one on the CPU" : "a part of one",
                expected: "a whole one on a GPU")
        }
        try Self.require(model.configuration)
        try self.init(model.configuration, limits: limits, stream: backend.stream) { _ in
            let weights = try GPUDecoderWeights(uninitialized: model.configuration, stream: backend.stream)
            try weights.take(model, by: backend.operations)
            return weights
        }
    }

    /// Goes on with the weights of the model that it was made of, as they are now: matrices rounded to bf16, as the trainer
    /// rounds them for its products. What the pages hold was computed with the old ones.
    ///
    /// Precondition: it was made by ``init(training:limits:)`` of this model.
    public func takeWeights(of model: TrainableDecoder) throws {
        let backend = model.operations.backend as? CUDABackend
        precondition(
            backend?.stream === stream && model.configuration == configuration, "weights of a model of its own stream")
        try batch.withLock { batch in
            try weights.take(model, by: operations)
            (batch.lengths, batch.rooms) = ([], [])
        }
    }

    /// Bytes of the weights that a step of so many sequences reads; of experts those that are visited, where each is as likely
    /// as the others.
    public func stepWeightBytes(sequences: Int) -> Int { weights.stepBytes(shape.experts, sequences: sequences) }

    /// The first page of a layer.
    func cacheAddress(layer: Int) -> UInt64 {
        cache.address + UInt64(layer * pageCount * shape.format.pageBytes)
    }

    func heads(layer index: Int, withBias: Bool) -> GPUGroupedAttention.Heads {
        let layer = weights.layers[index]
        return GPUGroupedAttention.Heads(
            rotary: configuration.windows[index] == nil ? rotary : slidingRotary,
            queryNorm: layer.queryNorm?.address ?? 0, keyNorm: layer.keyNorm?.address ?? 0,
            bias: withBias ? layer.projectionBias?.address ?? 0 : 0, epsilon: Float(configuration.normEpsilon))
    }

    func pages(layer: Int, firstSequence: Int = 0) -> GPUGroupedAttention.Pages {
        GPUGroupedAttention.Pages(
            cache: cacheAddress(layer: layer),
            table: memory.pageTable + UInt64(firstSequence * memory.pageStride * 4), stride: memory.pageStride)
    }

    // MARK: What a step gave

    /// The tokens that the last call has chosen, one for each sequence; -1 where the logits are nothing but NaN. Waits for them.
    public func tokens() throws -> [Int32] {
        let count = batch.withLock { $0.lengths.count }
        return try stream.download(memory.control, at: memory.tokensOffset, count: count)
    }

    /// Float32 logits `[sequence][vocabulary]` of which the last call has chosen tokens, where it was asked to keep them. Waits.
    /// - Parameter keeps: false for a rank that only gives the others its part of them: nothing is given.
    public func logits(keeps: Bool = true) throws -> [Float] {
        let count = try batch.withLock { batch in
            try joinLogits(rows: batch.lengths.count)
            return batch.lengths.count
        }
        guard keeps else { return [] }
        return try stream.download(try memory.logits(), count: count * shape.vocabulary)
    }

    /// Puts the logits of all ranks side by side in ``GPUDecoderMemory/logits()``; without ranks they lie there.
    func joinLogits(rows: Int) throws {
        guard let ranks, rows > 0 else { return }
        try ranks.joinLogits(rows: rows, into: try memory.logits())
    }

    /// The tokens chosen at positions `range` of each sequence, since it began. Waits.
    public func history(_ range: Range<Int>) throws -> [[Int32]] {
        let count = batch.withLock { $0.lengths.count }
        let all: [Int32] = try stream.download(memory.history, count: count * limits.tokens)
        return (0..<count).map {
            Array(all[($0 * limits.tokens + range.lowerBound)..<($0 * limits.tokens + range.upperBound)])
        }
    }

    /// The tokens chosen at positions `ranges[i]` of sequence i, and their natural log-probabilities where steps were asked
    /// to keep them. Waits.
    public func chosen(_ ranges: [Range<Int>]) throws -> [(tokens: [Int32], logProbabilities: [Float])] {
        let count = ranges.count * limits.tokens
        let tokens: [Int32] = try stream.download(memory.history, count: count)
        let rated: [Float] = try stream.download(try memory.logProbabilities(), count: count)
        return ranges.enumerated().map { index, range in
            let places = index * limits.tokens + range.lowerBound..<index * limits.tokens + range.upperBound
            return (Array(tokens[places]), Array(rated[places]))
        }
    }

    /// Waits for all queued work.
    public func synchronize() throws { try stream.synchronize() }

    // MARK: Bounds

    /// Holds rows against the limits.
    func check(_ rows: [Row]) throws {
        guard rows.count <= limits.sequences else {
            throw GPUDecoderError.limit(name: "sequences", found: rows.count, limit: limits.sequences)
        }
        for row in rows {
            guard !row.tokens.isEmpty else { throw DecoderError.noTokens }
            let length = row.cached + row.tokens.count
            let room = min(limits.tokens, row.pages.count * Self.pageSize)
            guard length <= room else {
                throw GPUDecoderError.limit(name: "tokens in the pages of a sequence", found: length, limit: room)
            }
            guard row.pages.count <= memory.pageStride else {
                throw GPUDecoderError.limit(
                    name: "pages of a sequence", found: row.pages.count, limit: memory.pageStride)
            }
            if let page = row.pages.first(where: { $0 < 0 || Int($0) >= pageCount }) {
                throw GPUDecoderError.limit(name: "as a page's number", found: Int(page), limit: pageCount - 1)
            }
            for (index, token) in row.tokens.enumerated() where token < 0 || Int(token) >= shape.vocabulary {
                throw DecoderError.unknownToken(Int(token), index: index, vocabulary: shape.vocabulary)
            }
        }
    }
}
