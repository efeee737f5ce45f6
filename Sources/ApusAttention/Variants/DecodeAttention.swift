import ApusLayers
import ApusTensor

/// A variant's layer in its decode form, up to the output projection: queries, what goes into the cache, attention over it.
public protocol DecodeAttention: Sendable {
    /// The heads' outputs for `x` [tokens, hidden], float32 [tokens, query heads · value width]; appends the tokens'
    /// states to the cache.
    func callAsFunction(_ x: Tensor, _ step: AttentionStep) -> Tensor
}

/// The two ways in which latent attention reads its cache; see ``LatentAttention``.
public enum LatentReading: Sendable, Hashable {
    /// The latents are key and value at once.
    case absorbed
    /// Keys and values are up-projected first.
    case explicit
}

/// What the layers of one step share.
public struct AttentionStep {
    /// The sequences and their new tokens.
    public let batch: CacheBatch
    /// Where their states go.
    public let cache: PagedCache
    /// Cosines and sines of the new tokens' positions.
    public let rotary: RotaryRows
    /// The same for layers with a sliding window, where these have their own.
    public let slidingRotary: RotaryRows?
    /// Where latent attention up-projects; nil where no layer does.
    public let latentWorkspace: LatentWorkspace?
    /// How latent attention reads; nil for what takes less time.
    public let latentReading: LatentReading?

    /// A step over `batch`, whose pages `cache` has found.
    public init(
        batch: CacheBatch, cache: PagedCache, rotary: RotaryRows, slidingRotary: RotaryRows? = nil,
        latentWorkspace: LatentWorkspace? = nil, latentReading: LatentReading? = nil
    ) {
        self.batch = batch
        self.cache = cache
        self.rotary = rotary
        self.slidingRotary = slidingRotary
        self.latentWorkspace = latentWorkspace
        self.latentReading = latentReading
    }
}

/// Cosines and sines of a step's positions, [tokens, rotary width / 2] each, and how to apply them.
public struct RotaryRows: Sendable {
    /// Cosine of each angle, times the embedding's magnitude.
    public let cosine: Tensor
    /// Sine of each angle, times the embedding's magnitude.
    public let sine: Tensor
    /// Which elements form pairs.
    public let style: RotaryStyle

    /// The rows of `positions`.
    public init(_ embedding: RotaryEmbedding, positions: [Int32]) {
        (cosine, sine) = embedding.rows(positions)
        style = embedding.style
    }

    /// Takes some tokens' rows from `other`. Precondition: nobody else reads these tables meanwhile.
    package func replaceRows(_ range: Range<Int>, by other: RotaryRows) {
        for (mine, theirs) in [(cosine, other.cosine), (sine, other.sine)] {
            mine.withMutableElements(of: Float.self) { target in
                theirs.withElements(of: Float.self) { source in
                    let width = mine.shape[1]
                    for index in range.lowerBound * width..<range.upperBound * width { target[index] = source[index] }
                }
            }
        }
    }

    /// Rotates the first elements of each head of `x` [tokens, heads, width], in place.
    func rotate(_ x: Tensor, _ backend: any Backend) {
        backend.rope(
            x, rotaryWidth: 2 * cosine.shape[1], interleaved: style == .interleaved, cosine: cosine, sine: sine)
    }
}
