import ApusLayers
import ApusTensor

/// Memory for the keys and values of one block of tokens, up-projected from their latents: what latent attention reads when
/// many tokens are new. One block serves all layers of a step; its size is bounded, whatever the prefix.
public final class LatentWorkspace {
    /// Tokens of a block.
    public let blockTokens: Int
    private let widths: LatentConfiguration
    private let cache: PagedCache
    private let sequence: CacheSequence
    private let backend: CPUBackend
    private var filled: CacheBatch?

    /// Most bytes of a block's keys and values.
    static let byteLimit = 32 << 20
    /// Most tokens of a block: more make products no faster.
    static let tokenLimit = 512
    private static let pageSize = 64
    /// Most queries at a time, which bounds what merging needs.
    private static let queryLimit = 1024

    /// A workspace for layers of these widths.
    /// - Parameter blockTokens: tokens of a block, rounded up to whole pages of 64; nil for what the limits allow.
    /// - Throws: cache errors when the memory cannot be had.
    public init(
        queryHeads: Int, widths: LatentConfiguration, backend: any Backend, blockTokens: Int? = nil
    ) throws {
        let bytesPerToken = 4 * queryHeads * (widths.queryWidth + widths.valueWidth)
        let fitting = blockTokens ?? min(Self.byteLimit / bytesPerToken, Self.tokenLimit)
        let pages = max((fitting + (blockTokens == nil ? 0 : Self.pageSize - 1)) / Self.pageSize, 1)
        self.blockTokens = pages * Self.pageSize
        self.widths = widths
        cache = try PagedCache(
            geometries: [
                try .gqa(
                    queryHeads: queryHeads, kvHeads: queryHeads, headWidth: widths.queryWidth,
                    valueWidth: widths.valueWidth)
            ], layout: try CacheLayout(dtype: .f32), pageSize: Self.pageSize, pages: pages, backend: backend)
        self.backend = cache.backend
        sequence = cache.makeSequence()
    }

    /// Makes the block hold these tokens.
    /// - Parameters:
    ///   - expanded: [tokens, heads, content + value], at most ``blockTokens``.
    ///   - rotaryKey: [tokens, RoPE width], the same for all heads.
    func fill(_ expanded: Tensor, rotaryKey: Tensor) {
        let (tokens, heads) = (expanded.shape[0], expanded.shape[1])
        let keys = Tensor(uninitialized: [tokens, heads, widths.queryWidth])
        let (content, width, expandedWidth) = (widths.contentWidth, widths.queryWidth, expanded.shape[2])
        backend.concurrently(tokens) { token in
            let rotary = rotaryKey.pointer(as: Float.self) + token * (width - content)
            for row in token * heads..<(token + 1) * heads {
                let key = keys.pointer(as: Float.self) + row * width
                key.update(from: expanded.pointer(as: Float.self) + row * expandedWidth, count: content)
                (key + content).update(from: rotary, count: width - content)
            }
        }
        guard let batch = try? cache.begin([(sequence, tokens)]) else {
            preconditionFailure("\(tokens) tokens in a block of \(blockTokens)")
        }
        cache.append(
            layer: 0, batch: batch, shared: nil, key: keys, value: expanded.columns(content..<expandedWidth))
        filled = batch
    }

    /// Merges the attention of some rows of `q` [tokens, heads, content + RoPE] over the block into `output` and
    /// `logSumExp`. Causal: the rows are the block's last tokens; otherwise they see all of it.
    func attend(
        _ q: Tensor, rows: Range<Int>, causal: Bool, _ parameters: AttentionParameters, into output: Tensor,
        _ logSumExp: Tensor
    ) {
        guard let length = filled?.lengths[0] else { preconditionFailure("an empty block") }
        guard !rows.isEmpty else { return }
        var parameters = parameters
        parameters.causal = causal
        for start in stride(from: rows.lowerBound, to: rows.upperBound, by: causal ? rows.count : Self.queryLimit) {
            let part = start..<(causal ? rows.upperBound : min(start + Self.queryLimit, rows.upperBound))
            let batch = CacheBatch(pages: sequence.pages, length: length, queries: part.count)
            cache.attend(q.rows(part), layer: 0, batch: batch, parameters: parameters).merge(
                into: output.rows(part), logSumExp.rows(part), backend: backend)
        }
    }
}
