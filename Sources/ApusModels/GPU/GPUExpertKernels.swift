import ApusSynchronization
import ApusTensor

/// The kernels of `experts.cu`, found once.
final class GPUExpertKernels: Sendable {
    private let modules: CUDAModuleCache
    private let choose: CUDAKernel, group: CUDAKernel, gather: CUDAKernel, combine: CUDAKernel
    private let routers = Locked<[Int: CUDAKernel]>([:])

    init(_ device: CUDADevice) throws {
        modules = device.modules
        let module = try device.modules.module(for: KernelSources.source("experts.cu"))
        choose = try module.kernel("choose_experts")
        group = try module.kernel("group_pairs")
        gather = try module.kernel("gather_pairs")
        combine = try module.kernel("combine_experts")
    }

    /// Rows up to which one launch chooses and groups.
    private static let rowsOfOneBlock = 64

    /// Rows of a block of the router.
    private static func routerRows(_ rows: Int) -> Int { [1, 2, 4].first { $0 >= rows } ?? 8 }

    /// The kernel of the router for a number of rows.
    func router(rows: Int) throws -> CUDAKernel {
        let rows = Self.routerRows(rows)
        return try routers.withLock { routers in
            if let known = routers[rows] { return known }
            let kernel = try modules.kernel(
                "router_logits", in: KernelSources.source("experts.cu", defines: ["ROWS": "\(rows)"]))
            routers[rows] = kernel
            return kernel
        }
    }

    /// `struct Routing` of `experts.cu`.
    private struct Routing: BitwiseCopyable {
        var logits: UInt64, correction: UInt64, lengths: UInt64, picks: UInt64, weights: UInt64, positions: UInt64
        var tokens: UInt64, chunks: UInt64
        var rows: Int32, experts: Int32, count: Int32, groups: Int32, kept: Int32, best: Int32, height: Int32
        var chunkCount: Int32
        var isLogistic: Int32, isNormalised: Int32, excludes: Int32
        var scale: Float
    }

    /// Queues the router's logits of rows of the residual stream, the choice of their experts, and chunks of at most
    /// `height` pairs.
    /// - Parameter lengths: rows of length 0 visit no expert; or 0.
    func route(
        _ experts: GPUDecoderWeights.Experts, _ configuration: ExpertConfiguration, residual: CUDABuffer, width: Int,
        rows: Int, lengths: UInt64, height: Int, epsilon: Float, memory: GPUExpertMemory, on stream: CUDAStream
    ) throws {
        let perBlock = Self.routerRows(rows)
        try router(rows: rows).launch(
            grid: CUDAExtent((configuration.count + 7) / 8, (rows + perBlock - 1) / perBlock), block: 256,
            attributes: [.overlapsPredecessor], on: stream, .buffer(residual), .buffer(experts.router),
            .buffer(memory.logits), .value(Int32(rows)), .value(Int32(configuration.count)), .value(Int32(width)),
            .value(epsilon))
        var (groups, kept, best, excludes) = (1, 1, 1, false)
        switch configuration.selection {
        case .greedy: break
        case .groupLimited(let all, let some): (groups, kept) = (all, some)
        case .corrected(let all, let some): (groups, kept, best, excludes) = (all, some, 2, true)
        }
        let routing = Routing(
            logits: memory.logits.address, correction: experts.correction?.address ?? 0, lengths: lengths,
            picks: memory.picks.address, weights: memory.weights.address, positions: memory.positions.address,
            tokens: memory.tokens.address, chunks: memory.chunks.address, rows: Int32(rows),
            experts: Int32(configuration.count), count: Int32(configuration.expertsPerToken), groups: Int32(groups),
            kept: Int32(kept), best: Int32(best), height: Int32(height),
            chunkCount: Int32(configuration.chunks(rows: rows, height: height)),
            isLogistic: configuration.scoring == .sigmoid ? 1 : 0,
            isNormalised: configuration.normalisesWeights ? 1 : 0,
            excludes: excludes ? 1 : 0, scale: Float(configuration.weightScale))
        let isOne = rows <= Self.rowsOfOneBlock
        if !isOne {
            try choose.launch(
                grid: CUDAExtent((rows + 7) / 8), block: 256, attributes: [.overlapsPredecessor], on: stream,
                .value(routing))
        }
        try group.launch(
            grid: 1, block: 1024, attributes: [.overlapsPredecessor], on: stream, .value(routing),
            .value(Int32(isOne ? 1 : 0)))
    }

    /// Queues the rows of all pairs, in the order of their experts.
    func gather(_ x: CUDABuffer, pairs: Int, width: Int, memory: GPUExpertMemory, on stream: CUDAStream) throws {
        let blocks = min((pairs * width / 8 + 255) / 256, 16 * stream.device.multiprocessorCount)
        try gather.launch(
            grid: CUDAExtent(blocks), block: 256, attributes: [.overlapsPredecessor], on: stream, .buffer(x),
            .buffer(memory.tokens), .buffer(memory.gathered), .value(Int32(pairs)), .value(Int32(width)))
    }

    /// Queues what the experts gave into the residual stream, and begins the next norm.
    func combine(
        count: Int, rows: Int, width: Int, lengths: UInt64, nextNorm: CUDABuffer, squareParts: Int,
        decoder: GPUDecoderMemory, memory: GPUExpertMemory, on stream: CUDAStream
    ) throws {
        try combine.launch(
            grid: CUDAExtent(rows), block: 256, attributes: [.overlapsPredecessor], on: stream,
            .buffer(decoder.residual), .buffer(memory.outputs), .buffer(memory.weights), .buffer(memory.positions),
            .value(lengths), .value(Int32(count)), .buffer(nextNorm), .buffer(decoder.normed),
            .buffer(decoder.squares), .value(Int32(squareParts)), .value(Int32(width)))
    }
}

/// Memory of a mixture of experts: of a step or a chunk of prompts.
final class GPUExpertMemory: Sendable {
    /// `[row][expert]` float32.
    let logits: CUDABuffer
    /// Of each row's picks: experts, weights, and the numbers of the pairs.
    let picks: CUDABuffer, weights: CUDABuffer, positions: CUDABuffer
    /// Each pair's row, and chunks of pairs.
    let tokens: CUDABuffer, chunks: CUDABuffer
    /// `[pair]`: rows that experts read in chunks of prompts, what is between their projections, and what they give; in bf16.
    let gathered: CUDABuffer, inner: CUDABuffer, outputs: CUDABuffer

    /// Memory for rows of steps, and of chunks of prompts.
    init(_ experts: ExpertConfiguration, width: Int, rows: Int, chunk: Int, stream: CUDAStream) throws {
        let pairs = rows * experts.expertsPerToken
        func memory(_ count: Int, _ bytes: Int) throws -> CUDABuffer {
            try CUDABuffer(byteCount: max(count * bytes, 16), stream: stream)
        }
        logits = try memory(rows, experts.count * 4)
        picks = try memory(pairs, 4)
        weights = try memory(pairs, 4)
        positions = try memory(pairs, 4)
        tokens = try memory(pairs, 4)
        chunks = try memory(experts.chunks(rows: rows, height: 8), 16)
        gathered = try memory(chunk * experts.expertsPerToken, width * 2)
        inner = try memory(pairs, experts.width * 2)
        outputs = try memory(pairs, width * 2)
        // Rows that visit no expert leave places that are read.
        try stream.fill(tokens, with: 0)
    }
}

extension ExpertConfiguration {
    /// The most chunks of at most `height` pairs that rows make.
    package func chunks(rows: Int, height: Int) -> Int {
        let pairs = rows * expertsPerToken
        return min(pairs, count + pairs / height)
    }

    /// Pairs of a chunk in a step: as many as an expert has on average, or some more.
    package func stepHeight(rows: Int) -> Int {
        let most = min(rows, (rows * expertsPerToken * 5 / 4 + count - 1) / count)
        return [8, 16, 32].first { $0 >= most } ?? 64
    }

    /// Pairs of a chunk of prompts: rows of a warpgroup's products.
    static let promptHeight = 64
}
