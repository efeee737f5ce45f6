import ApusAttention

/// A rotary position embedding, as a model's configuration states it.
public struct RotaryConfiguration: Sendable, Hashable {
    /// Elements of a head that are rotated, even: the first ones in grouped attention, a part of their own otherwise.
    public var width: Int
    /// Base of the geometric series of frequencies.
    public var theta: Double
    /// How frequencies are stretched for long contexts.
    public var scaling: RotaryScaling
    /// Which elements form pairs.
    public var style: RotaryStyle

    /// A rotary embedding; by default unscaled and in Hugging Face's pairs.
    public init(width: Int, theta: Double = 10000, scaling: RotaryScaling = .none, style: RotaryStyle = .halfSplit) {
        self.width = width
        self.theta = theta
        self.scaling = scaling
        self.style = style
    }

    /// The embedding that computes it, of LongRoPE the one for short sequences.
    public var embedding: RotaryEmbedding { embedding(length: 0) }

    /// The embedding that computes it for a sequence of `length` tokens: only LongRoPE depends on the length.
    public func embedding(length: Int) -> RotaryEmbedding {
        RotaryEmbedding(width: width, theta: theta, scaling: scaling, style: style, length: length)
    }
}
