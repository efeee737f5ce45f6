import ApusSynchronization

/// Rows [tokens][heads][width] in a GPU's memory; strides in elements.
package struct CUDAHeads: Sendable {
    /// The first element.
    package var array: CUDAArray
    /// Heads.
    package var heads: Int
    /// Elements of a head.
    package var width: Int
    /// From token to token, and from head to head.
    package var tokenStride: Int, headStride: Int

    /// Heads at an address.
    package init(_ array: CUDAArray, heads: Int, width: Int, tokenStride: Int, headStride: Int) {
        self.array = array
        self.heads = heads
        self.width = width
        self.tokenStride = tokenStride
        self.headStride = headStride
    }
}

/// Queries, keys and values as ``AttentionOperands`` has them, in a GPU's memory; or their gradients.
package struct CUDAAttentionOperands: Sendable {
    package var query: CUDAHeads
    package var key: CUDAHeads
    package var keyOnce: CUDAHeads?
    package var value: CUDAHeads

    /// Operands of one layer.
    package init(query: CUDAHeads, key: CUDAHeads, keyOnce: CUDAHeads?, value: CUDAHeads) {
        self.query = query
        self.key = key
        self.keyOnce = keyOnce
        self.value = value
    }
}

/// Launches training attention and its gradient (docs/kernels/gpu-training-attention.md) on one stream.
///
/// The order of work of a batch is made when the batch is first met, and kept for its other layers.
package final class CUDATrainingAttention: Sendable {
    private let stream: CUDAStream
    /// Who takes which item; zero between launches.
    private let counters: CUDABuffer
    private let state = Locked(State())

    private struct State: Sendable {
        var lists: [(key: ItemsKey, items: Items)] = []
        var kernels: [KernelKey: Kernels] = [:]
    }

    private struct ItemsKey: Equatable, Sendable {
        var starts: [Int]
        var window: Int?
        var heads: Int
        var isOfKeys: Bool
        var bytesPerRow: Int
    }

    private struct Items: Sendable {
        var buffer: CUDABuffer
        var count: Int
        var paddedRows: Int
    }

    private struct KernelKey: Hashable, Sendable {
        var key: Int, once: Int, value: Int
        var output: DType, gradients: DType
        var adds: Bool
    }

    private struct Kernels: Sendable {
        var settings: TrainingAttentionSettings
        var forward: CUDAKernel
        /// Of queries, of keys, and of the key kept once.
        var backward: (queries: CUDAKernel, keys: CUDAKernel, once: CUDAKernel)?
    }

    /// Batches whose order of work is kept.
    private static let keptLists = 16

    /// Attention on a stream.
    package init(stream: CUDAStream) throws {
        self.stream = stream
        counters = try stream.upload([UInt32](repeating: 0, count: 2))
    }

    // MARK: What kernels are given, as attention_items.cuh and attention_backward.cuh declare it

    private struct Work: BitwiseCopyable {
        var items: UInt64
        var counters: UInt64
        var count: Int32
        var heads: Int32
        var group: Int32
        var window: Int32
        var scale: Float
    }

    private struct Forward: BitwiseCopyable {
        var work: Work
        var output: UInt64
        var logSumExp: UInt64
    }

    private struct Target: BitwiseCopyable {
        var base: UInt64
        var tokenStride: Int64
        var headStride: Int64

        init(_ heads: CUDAHeads) {
            base = heads.array.address
            tokenStride = Int64(heads.tokenStride)
            headStride = Int64(heads.headStride)
        }
    }

    private struct Backward: BitwiseCopyable {
        var work: Work
        var output: UInt64
        var gradient: UInt64
        var logSumExp: UInt64
        var rows: UInt64
        var once: UInt64
        var query: Target
        var key: Target
        var value: Target
        var padded: Int32
        var tokens: Int32
    }

    // MARK: Launches

    /// Output [tokens, heads, value width], float32 or bf16, and log-sum-exp [tokens, heads] of bf16 operands.
    package func forward(
        _ operands: CUDAAttentionOperands, _ parameters: SequenceAttention, output: CUDAArray, logSumExp: UInt64
    ) throws {
        let kernels = try kernels(operands, output: output.dtype, gradients: .bf16, adds: false)
        let items = try items(parameters, operands, ofKeys: false)
        guard items.count > 0 else { return }
        let tokens = parameters.starts.last ?? 0
        let maps = try maps(
            operands, tokens: tokens, queryRows: TrainingAttentionSettings.copiedRows,
            keyRows: kernels.settings.forward.blockRows)
        try kernels.forward.launch(
            grid: grid(items), block: CUDAExtent(TrainingAttentionSettings.threads),
            sharedMemory: kernels.settings.forward.sharedMemory, attributes: [.overlapsPredecessor], on: stream,
            arguments: maps
                + [
                    .value(
                        Forward(
                            work: work(items, operands, parameters), output: output.address, logSumExp: logSumExp))
                ])
    }

    /// Gradients of the operands, all float32 or all bf16, written or (`adds`) added.
    /// - Parameters:
    ///   - output: what ``forward(_:_:output:logSumExp:)`` gave.
    ///   - gradient: the output's, bf16 [tokens, heads, value width].
    package func backward(
        _ operands: CUDAAttentionOperands, _ parameters: SequenceAttention, output: CUDAArray, logSumExp: UInt64,
        gradient: UInt64, into targets: CUDAAttentionOperands, adds: Bool
    ) throws {
        let dtype = targets.query.array.dtype
        let kernels = try kernels(operands, output: output.dtype, gradients: dtype, adds: adds)
        let settings = kernels.settings
        guard let backward = kernels.backward, let queriesKernel = settings.backwardQueries,
            let keysKernel = settings.backwardKeys
        else {
            throw CUDAError.launch(
                kernel: "training attention backward",
                problem: "key \(operands.key.width) + \(operands.keyOnce?.width ?? 0), value \(operands.value.width): "
                    + "expected at most 320 elements together")
        }
        let rowItems = try items(parameters, operands, ofKeys: false)
        let keyItems = try items(parameters, operands, ofKeys: true)
        guard rowItems.count > 0 else { return }
        let tokens = parameters.starts.last ?? 0
        let (heads, width) = (operands.query.heads, operands.value.width)
        let rows = try CUDABuffer(byteCount: 8 * heads * rowItems.paddedRows, stream: stream)
        let once = try operands.keyOnce.map {
            try CUDABuffer(byteCount: 4 * operands.key.heads * tokens * $0.width, stream: stream)
        }
        let gradientRows = CUDAHeads(
            CUDAArray(gradient, .bf16), heads: heads, width: width, tokenStride: heads * width, headStride: width)
        for isOfKeys in [false, true] {
            let kernel = isOfKeys ? keysKernel : queriesKernel
            let items = isOfKeys ? keyItems : rowItems
            let copied = TrainingAttentionSettings.copiedRows
            let queryRows = isOfKeys ? kernel.blockRows : copied
            var arguments = try maps(
                operands, tokens: tokens, queryRows: queryRows, keyRows: isOfKeys ? copied : kernel.blockRows)
            arguments.append(.value(try map(gradientRows, tokens: tokens, rows: queryRows)))
            arguments.append(
                .value(
                    Backward(
                        work: work(items, operands, parameters), output: output.address, gradient: gradient,
                        logSumExp: logSumExp, rows: rows.address, once: once?.address ?? 0,
                        query: Target(targets.query), key: Target(targets.key), value: Target(targets.value),
                        padded: Int32(rowItems.paddedRows), tokens: Int32(tokens))))
            try (isOfKeys ? backward.keys : backward.queries).launch(
                grid: grid(items), block: CUDAExtent(TrainingAttentionSettings.threads),
                sharedMemory: kernel.sharedMemory, attributes: [.overlapsPredecessor], on: stream,
                arguments: arguments)
        }
        if let once, let target = targets.keyOnce {
            try backward.once.launch(
                grid: CUDAExtent((tokens * target.width + 1023) / 1024), block: 256, on: stream, .buffer(once),
                .value(target.array.address), .value(Int32(operands.key.heads)), .value(Int32(tokens)),
                .value(Int32(target.width)), .value(Int64(target.tokenStride)))
        }
    }

    private func grid(_ items: Items) -> CUDAExtent {
        CUDAExtent(min(stream.device.multiprocessorCount, items.count))
    }

    private func work(
        _ items: Items, _ operands: CUDAAttentionOperands, _ parameters: SequenceAttention
    ) -> Work {
        Work(
            items: items.buffer.address, counters: counters.address, count: Int32(items.count),
            heads: Int32(operands.query.heads), group: Int32(operands.query.heads / operands.key.heads),
            window: Int32(clamping: min(parameters.window ?? 1 << 30, 1 << 30)), scale: parameters.scale)
    }

    private func maps(
        _ operands: CUDAAttentionOperands, tokens: Int, queryRows: Int, keyRows: Int
    ) throws -> [CUDAArgument] {
        let key = try map(operands.key, tokens: tokens, rows: keyRows)
        return [
            .value(try map(operands.query, tokens: tokens, rows: queryRows)), .value(key),
            .value(try operands.keyOnce.map { try map($0, tokens: tokens, rows: keyRows) } ?? key),
            .value(try map(operands.value, tokens: tokens, rows: keyRows)),
        ]
    }

    /// Boxes of 64 columns of `rows` rows of a head.
    private func map(_ heads: CUDAHeads, tokens: Int, rows: Int) throws -> CUDATensorMap {
        precondition(heads.array.dtype == .bf16, "attention of \(heads.array.dtype)")
        guard heads.array.address % 16 == 0, heads.headStride % 8 == 0, heads.tokenStride % 8 == 0 else {
            throw CUDAError.launch(
                kernel: "training attention",
                problem:
                    "heads \(heads.headStride) and tokens \(heads.tokenStride) elements apart: expected multiples of 8")
        }
        return try CUDATensorMap(
            .bf16, address: heads.array.address, extents: [heads.width, heads.heads, tokens],
            strides: [heads.headStride * 2, heads.tokenStride * 2], box: [64, 1, rows])
    }

    // MARK: What is kept

    private func items(
        _ parameters: SequenceAttention, _ operands: CUDAAttentionOperands, ofKeys isOfKeys: Bool
    ) throws -> Items {
        let (queryHeads, kvHeads) = (operands.query.heads, operands.key.heads)
        // Queries of one KV head read the same keys.
        let row = 2 * (operands.query.width + operands.value.width)
        let key = ItemsKey(
            starts: parameters.starts, window: parameters.window, heads: isOfKeys ? kvHeads : queryHeads,
            isOfKeys: isOfKeys, bytesPerRow: isOfKeys ? row : max(1, row * kvHeads / queryHeads))
        if let known = state.withLock({ $0.lists.first { $0.key == key }?.items }) { return known }
        let list = TrainingAttentionItems(
            parameters, heads: key.heads, of: isOfKeys ? .keys : .queries, bytesPerRow: key.bytesPerRow)
        let made = Items(
            buffer: try stream.upload(list.items), count: list.items.count, paddedRows: list.paddedRows)
        state.withLock { state in
            if state.lists.count >= Self.keptLists { state.lists.removeFirst() }
            state.lists.append((key, made))
        }
        return made
    }

    private func kernels(
        _ operands: CUDAAttentionOperands, output: DType, gradients: DType, adds: Bool
    ) throws -> Kernels {
        let key = KernelKey(
            key: operands.key.width, once: operands.keyOnce?.width ?? 0, value: operands.value.width, output: output,
            gradients: gradients, adds: adds)
        if let known = state.withLock({ $0.kernels[key] }) { return known }
        let settings = try TrainingAttentionSettings(
            key: key.key, once: key.once, value: key.value, output: output, gradients: gradients, addsGradients: adds)
        let modules = stream.device.modules
        func kernel(_ kernel: TrainingAttentionSettings.Kernel) throws -> CUDAKernel {
            try modules.kernel(kernel.name, in: kernel.source)
        }
        var made = Kernels(settings: settings, forward: try kernel(settings.forward))
        if let queries = settings.backwardQueries, let keys = settings.backwardKeys {
            let once = KernelSources.source(
                "attention_once.cu",
                defines: ["FLOAT32": gradients == .f32 ? "1" : "0", "ADDS": adds ? "1" : "0"])
            made.backward = (
                try kernel(queries), try kernel(keys), try modules.kernel("attention_once", in: once)
            )
        }
        state.withLock { $0.kernels[key] = made }
        return made
    }
}
