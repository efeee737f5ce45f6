import ApusAttention
import ApusSynchronization
import ApusTensor

/// A decoder's memory on the GPU beside weights and cache: the state of a step, its activations, and those of a chunk of
/// prompts.
final class GPUDecoderMemory: Sendable {
    /// Sequences, and the entries of the page table of each.
    let sequences: Int, pageStride: Int
    /// What the host writes in one copy: seeds, tokens, lengths, temperatures, page table.
    let control: CUDABuffer
    /// `[sequence][position]`: chosen tokens.
    let history: CUDABuffer
    /// Of a step, or of a chunk: the residual stream in float32, and what products read and write in bf16.
    let residual: CUDABuffer, normed: CUDABuffer, projected: CUDABuffer, attended: CUDABuffer, inner: CUDABuffer
    /// Parts of sums of squares, `[row][parts]`.
    let squares: CUDABuffer
    /// Queries beside their projections, and log-sum-exps.
    let queries: CUDABuffer, logSumExp: CUDABuffer
    /// Of latent attention: normalised query latents, queries that have not met the up-projections of keys, and what heads give
    /// once attention's outputs have met those of values.
    let queryLatents: CUDABuffer, latentQueries: CUDABuffer, headValues: CUDABuffer
    /// Of a chunk: gate and up by turns.
    let gateUp: CUDABuffer
    /// A quantised matrix in bf16, while a chunk is multiplied with it.
    let expanded: CUDABuffer
    /// Nil without experts.
    let experts: GPUExpertMemory?
    /// The last rows of prompts, as the head reads them.
    let lastRows: CUDABuffer, lastSquares: CUDABuffer
    /// The head's candidates.
    let best: CUDABuffer, bestIndex: CUDABuffer
    private let vocabulary: Int
    private let stream: CUDAStream
    private let keptLogits = Locked<CUDABuffer?>(nil)
    private let keptLogProbabilities = Locked<CUDABuffer?>(nil)
    private let tokensKept: Int

    /// The most candidates of a row that blocks of the head leave.
    static let candidates = 1024

    /// - Parameter expandedBytes: of the largest matrix that is expanded.
    init(_ shape: GPUDecoderShape, limits: GPUDecoder.Limits, expandedBytes: Int, stream: CUDAStream) throws {
        sequences = limits.sequences
        pageStride = (limits.tokens + GPUDecoder.pageSize - 1) / GPUDecoder.pageSize
        vocabulary = shape.vocabulary
        tokensKept = limits.tokens
        self.stream = stream
        // Rows: a step's are rounded up to a number that a graph is recorded for.
        let most = GPUDecoder.bucket(limits.sequences)
        let rows = max(most, limits.chunk)
        func memory(_ rows: Int, _ bytes: Int) throws -> CUDABuffer {
            try CUDABuffer(byteCount: max(rows * bytes, 16), stream: stream)
        }
        control = try memory(most, Self.rowBytes + pageStride * 4)
        history = try memory(most, limits.tokens * 4)
        residual = try memory(rows, shape.width * 4)
        normed = try memory(rows, shape.width * 2)
        projected = try memory(rows, shape.projected * 2)
        attended = try memory(rows, shape.attentionOutputs * 2)
        inner = try memory(rows, shape.widestInner * 2)
        squares = try memory(rows, (shape.width + 15) / 16 * 4)
        queries = try memory(rows, shape.attentionQueries * 2)
        let hasQueryLatents = shape.latent?.queryRank != nil
        queryLatents = try memory(hasQueryLatents ? rows : 0, (shape.latent?.queryRank ?? 0) * 2)
        latentQueries = try memory(hasQueryLatents ? rows : 0, shape.latentQueries * 2)
        headValues = try memory(shape.latent == nil ? 0 : rows, shape.attended * 2)
        logSumExp = try memory(rows, shape.heads * 4)
        gateUp = try memory(limits.chunk, 2 * shape.widestInner * 2)
        expanded = try memory(1, expandedBytes)
        experts = try shape.experts.map {
            try GPUExpertMemory($0, width: shape.width, rows: rows, chunk: limits.chunk, stream: stream)
        }
        lastRows = try memory(most, shape.width * 2)
        lastSquares = try memory(most, (shape.width + 15) / 16 * 4)
        best = try memory(most, Self.candidates * 4)
        bestIndex = try memory(most, Self.candidates * 4)
        rowCount = most
        for buffer in [control, history, residual, normed] { try stream.fill(buffer, with: 0) }
    }

    private let rowCount: Int
    /// A seed, a token, a length, a temperature.
    private static let rowBytes = 8 + 3 * 4

    /// Places in ``control``.
    var tokensOffset: Int { rowCount * 8 }
    private var lengthsOffset: Int { rowCount * 12 }
    private var temperaturesOffset: Int { rowCount * 16 }
    private var tableOffset: Int { rowCount * 20 }

    var seeds: UInt64 { control.address }
    var tokens: UInt64 { control.address + UInt64(tokensOffset) }
    var lengths: UInt64 { control.address + UInt64(lengthsOffset) }
    var temperatures: UInt64 { control.address + UInt64(temperaturesOffset) }
    var pageTable: UInt64 { control.address + UInt64(tableOffset) }

    /// Writes the state: `lengths` and `tokens` of each row, and what the rows say; the others become no sequences.
    func write(_ rows: [GPUDecoder.Row], tokens: [Int32], lengths: [Int32]) throws {
        var words = [UInt32](repeating: 0, count: rowCount * (Self.rowBytes / 4 + pageStride))
        for (index, row) in rows.enumerated() {
            words[2 * index] = UInt32(truncatingIfNeeded: row.choice.seed)
            words[2 * index + 1] = UInt32(truncatingIfNeeded: row.choice.seed >> 32)
            words[tokensOffset / 4 + index] = UInt32(bitPattern: tokens[index])
            words[lengthsOffset / 4 + index] = UInt32(bitPattern: lengths[index])
            words[temperaturesOffset / 4 + index] = row.choice.temperature.bitPattern
            let table = tableOffset / 4 + index * pageStride
            for (place, page) in row.pages.enumerated() { words[table + place] = UInt32(bitPattern: page) }
        }
        let staged = try stream.upload(words)
        try stream.copy(words.count * 4, from: staged, to: control)
    }

    /// Memory of logits, taken when they are first asked for.
    func logits() throws -> CUDABuffer { try taken(keptLogits, floats: rowCount * vocabulary) }

    /// `[sequence][position]`: log-probabilities of chosen tokens, taken when they are first asked for.
    func logProbabilities() throws -> CUDABuffer { try taken(keptLogProbabilities, floats: rowCount * tokensKept) }

    private func taken(_ place: Locked<CUDABuffer?>, floats: Int) throws -> CUDABuffer {
        try place.withLock { kept in
            if let kept { return kept }
            let made = try CUDABuffer(byteCount: floats * 4, stream: stream)
            kept = made
            return made
        }
    }
}

/// The kernels of `decoder_step.cu` and `quantised_weights.cu`, found once: looking one up hashes its source.
struct GPUDecoderKernels: Sendable {
    let embed: CUDAKernel, pick: CUDAKernel, choose: CUDAKernel, rate: CUDAKernel, swiglu: CUDAKernel
    let addBias: CUDAKernel
    let quantised: CUDAQuantisedKernels
    /// Nil without experts.
    let experts: GPUExpertKernels?
    /// Of models that are cut over ranks.
    let addSums: CUDAKernel, chooseOfRank: CUDAKernel, chooseOfRanks: CUDAKernel, joinLogits: CUDAKernel

    init(_ device: CUDADevice, hasExperts: Bool) throws {
        let module = try device.modules.module(for: KernelSources.source("decoder_step.cu"))
        embed = try module.kernel("embed_rows")
        pick = try module.kernel("pick_rows")
        choose = try module.kernel("choose_tokens")
        rate = try module.kernel("token_log_probabilities")
        swiglu = try module.kernel("swiglu_turns")
        addBias = try module.kernel("add_bias")
        quantised = CUDAQuantisedKernels(device)
        experts = hasExperts ? try GPUExpertKernels(device) : nil
        addSums = try device.modules.kernel("add_sums", in: KernelSources.source("rank_sums.cu"))
        chooseOfRank = try module.kernel("choose_of_rank")
        chooseOfRanks = try module.kernel("choose_of_ranks")
        joinLogits = try module.kernel("join_logits")
    }
}

/// Products, each found once: looking a kernel up hashes its source.
final class GPUDecoderProducts: Sendable {
    private let modules: CUDAModuleCache
    private let kernels = Locked<[CUDARowProduct: CUDAKernel]>([:])
    private let headKernels = Locked<[GPUHeadProduct: CUDAKernel]>([:])
    private let rowBiasKernel = Locked<CUDAKernel?>(nil)

    init(_ modules: CUDAModuleCache) { self.modules = modules }

    func kernel(_ product: CUDARowProduct) throws -> CUDAKernel {
        if let known = kernels.withLock({ $0[product] }) { return known }
        let kernel = try product.load(modules)
        kernels.withLock { $0[product] = kernel }
        return kernel
    }
    /// The kernel that adds a bias to rows.
    func rowBias() throws -> CUDAKernel {
        try rowBiasKernel.withLock { kept in
            if let kept { return kept }
            let kernel = try GPUHeadProduct.loadBias(modules)
            kept = kernel
            return kernel
        }
    }

    func kernel(_ product: GPUHeadProduct) throws -> CUDAKernel {
        if let known = headKernels.withLock({ $0[product] }) { return known }
        let kernel = try product.load(modules)
        headKernels.withLock { $0[product] = kernel }
        return kernel
    }
}
