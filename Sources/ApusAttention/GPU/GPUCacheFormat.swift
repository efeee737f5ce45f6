/// How a geometry's elements lie in the pages that the GPU's kernels read.
///
/// A page holds `pageSize` tokens of one layer: `[group][token][shared | value | own key]`, then `[token][once key]`,
/// then, with FP8, `[group][token]` float32 scales. Without FP8 all elements are bf16. With FP8 the rows are e4m3, each
/// times its scale, and the key kept once is bf16. Pages follow each other without gaps.
public struct GPUCacheFormat: Sendable, Hashable {
    /// What an element of a row is.
    public enum Element: String, Sendable, Hashable, CaseIterable {
        /// All in bf16.
        case bf16
        /// Rows in e4m3 with a float32 scale per token and group.
        case f8e4m3
    }

    /// What a token leaves in the cache.
    public let geometry: CacheGeometry
    /// Tokens of a page.
    public let pageSize: Int
    /// The type of rows.
    public let element: Element

    /// A format. Throws ``GPUAttentionError`` when the kernels do not read it: widths are multiples of 16, outputs at most
    /// 512 wide, a key kept once at most 64; FP8 only with a key kept once and pages of 8, 16, 32 or a multiple of 64
    /// tokens.
    public init(
        geometry: CacheGeometry, pageSize: Int, element: Element = .bf16
    ) throws(GPUAttentionError) {
        for (name, width) in [
            ("shared width", geometry.shared), ("value width", geometry.value), ("key width", geometry.key),
        ] {
            try GPUAttentionError.require(width % 16 == 0, name, width, "a multiple of 16")
        }
        try GPUAttentionError.require(geometry.key > 0, "key width", geometry.key, "at least 16")
        let once = geometry.keyKept == .once
        let latent = once && geometry.value == 0
        let limit = latent ? 512 : 256
        try GPUAttentionError.require(
            geometry.outputWidth <= limit, "output width", geometry.outputWidth, "at most \(limit)")
        let wide = geometry.outputWidth > 256
        try GPUAttentionError.require(
            !wide || geometry.outputWidth % 128 == 0, "output width", geometry.outputWidth,
            "a multiple of 128 beyond 256")
        let keyLimit = once ? 64 : 256
        try GPUAttentionError.require(geometry.key <= keyLimit, "key width", geometry.key, "at most \(keyLimit)")
        try GPUAttentionError.require((1...4096).contains(pageSize), "page size", pageSize, "between 1 and 4096 tokens")
        if element == .f8e4m3 {
            try GPUAttentionError.require(
                once, "groups with their own key", geometry.groups, "a key kept once with FP8")
            try GPUAttentionError.require(
                [8, 16, 32].contains(pageSize) || pageSize % 64 == 0, "page size", pageSize,
                "8, 16, 32 or a multiple of 64 with FP8")
        }
        self.geometry = geometry
        self.pageSize = pageSize
        self.element = element
    }

    /// Elements of a row: what a token leaves in one group.
    public var rowWidth: Int { geometry.outputWidth + (keyIsOnce ? 0 : geometry.key) }
    /// Bytes of the rows of a page.
    public var rowsBytes: Int { geometry.groups * pageSize * rowWidth * (element == .bf16 ? 2 : 1) }
    /// Bytes of the keys kept once of a page.
    public var keysBytes: Int { keyIsOnce ? pageSize * geometry.key * 2 : 0 }
    /// Bytes of a page.
    public var pageBytes: Int { rowsBytes + keysBytes + (element == .bf16 ? 0 : geometry.groups * pageSize * 4) }

    var keyIsOnce: Bool { geometry.keyKept == .once }
    /// Whether the copy engine can read blocks of it; otherwise rows are gathered one by one.
    var isTiled: Bool { [8, 16, 32].contains(pageSize) || pageSize % 64 == 0 }
}
