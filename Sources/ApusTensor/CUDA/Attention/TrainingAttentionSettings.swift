/// How the kernels of training attention are compiled for the widths of a head, and what they take. The reasons stand in
/// `docs/kernels/gpu-training-attention.md`.
public struct TrainingAttentionSettings: Sendable, Hashable {
    /// One kernel: a file of ``KernelSources`` of the same name.
    public struct Kernel: Sendable, Hashable {
        /// Its name.
        public let name: String
        /// Macros.
        public let defines: [String: Int]
        /// Dynamic shared memory in bytes.
        public let sharedMemory: Int
        /// Rows of the blocks that a tile walks through, those of a copy: keys and values, or queries.
        public let blockRows: Int

        /// What is compiled.
        public var source: CUDASource {
            KernelSources.source(name + ".cu", defines: defines.mapValues(String.init))
        }
    }

    /// Rows of an item's tile.
    public static let tileRows = 128
    /// Rows of a tile that one copy brings: a warpgroup's.
    public static let copiedRows = 64
    /// Threads of a block.
    public static let threads = 384

    /// Output and log-sum-exp.
    public let forward: Kernel
    /// The gradient of the queries, and what the next kernel needs of each row. Nil for heads whose gradients registers do
    /// not hold: key + once + value above 320.
    public let backwardQueries: Kernel?
    /// The gradients of keys and values.
    public let backwardKeys: Kernel?

    /// Widths that a product of the tensor cores has here, as columns.
    private static let columns: Set = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256]
    /// A block's shared memory, less what the kernels declare themselves.
    private static let capacity = 226 << 10

    /// The settings of a key of `key` elements of its own and `once` kept once for all heads, and a value of `value`. Throws
    /// ``CUDAError/launch(kernel:problem:)`` for widths that there are no tiles for.
    public init(
        key: Int, once: Int, value: Int, output: DType, gradients: DType, addsGradients: Bool
    ) throws(CUDAError) {
        func refuse(_ problem: String) -> CUDAError {
            .launch(kernel: "training attention", problem: "key \(key) + \(once), value \(value): \(problem)")
        }
        guard key > 0, key % 16 == 0, once >= 0, once % 16 == 0, key + once <= 256 else {
            throw refuse("expected keys of a multiple of 16 elements, at most 256")
        }
        guard Self.columns.contains(value) else {
            throw refuse("expected one of \(Self.columns.sorted()) for the value")
        }
        precondition([.f32, .bf16].contains(output) && [.f32, .bf16].contains(gradients), "output \(output)")
        let widths = ["KEY": key, "ONCE": once, "VALUE": value]
        let panels = (
            key: Self.panels(key) + Self.panels(once), value: Self.panels(value), query: Self.panels(key + once)
        )
        func kernel(_ name: String, block: Int, tile: Int, stage: Int, _ defines: [String: Int]) throws(CUDAError)
            -> Kernel
        {
            let stages = min(4, (Self.capacity - tile) / stage)
            guard stages >= 2 else { throw refuse("shared memory does not hold two blocks") }
            let all = widths.merging(defines) { $1 }.merging(["STAGES": stages]) { $1 }
            return Kernel(name: name, defines: all, sharedMemory: tile + stages * stage, blockRows: block)
        }
        let row = 128  // bytes of a row of a panel
        let wide = output == .f32 ? 1 : 0
        let block = value <= 128 && key + once <= 192 ? 128 : 64
        forward = try kernel(
            "attention_forward", block: block, tile: 2 * panels.query * 64 * row,
            stage: (panels.key + panels.value) * block * row, ["BLOCK_N": block, "OUTPUT_FLOAT32": wide])

        guard key + once + value <= 320, [key, key + once].allSatisfy(Self.columns.contains),
            once == 0 || Self.columns.contains(once)
        else {
            backwardQueries = nil
            backwardKeys = nil
            return
        }
        let common = [
            "OUTPUT_FLOAT32": wide, "FLOAT32": gradients == .f32 ? 1 : 0, "ADDS": addsGradients ? 1 : 0,
        ]
        backwardQueries = try kernel(
            "attention_backward_queries", block: 64, tile: 2 * (panels.query + panels.value) * 64 * row,
            stage: (panels.key + panels.value) * 64 * row, common.merging(["BLOCK_N": 64]) { $1 })
        // As registers allow.
        let queries = key + once + value <= 256 ? 64 : 32
        backwardKeys = try kernel(
            "attention_backward_keys", block: queries, tile: 2 * (panels.key + panels.value) * 64 * row,
            stage: (panels.query + panels.value) * queries * row + queries * 8,
            common.merging(["BLOCK_M": queries]) { $1 })
    }

    /// The narrowest widths that there are tiles for, forward and backward, and that hold these; nil where there are none.
    package static func padded(key: Int, once: Int, value: Int) -> (key: Int, once: Int, value: Int)? {
        let widths = columns.sorted()
        guard let value = widths.first(where: { $0 >= value }) else { return nil }
        let onces = once == 0 ? [0] : widths.filter { $0 >= once }
        let pairs = onces.flatMap { once in
            widths.filter { $0 >= key && columns.contains($0 + once) }.map { (key: $0, once: once) }
        }
        guard let best = pairs.min(by: { ($0.key + $0.once, $0.once) < ($1.key + $1.once, $1.once) }),
            best.key + best.once + value <= 320
        else { return nil }
        return (best.key, best.once, value)
    }

    /// Panels of 64 columns of a row in shared memory.
    private static func panels(_ width: Int) -> Int { (width + 63) / 64 }
}
