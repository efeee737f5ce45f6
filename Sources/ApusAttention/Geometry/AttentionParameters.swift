/// What attention needs beyond the geometry, per layer.
public struct AttentionParameters: Sendable, Hashable {
    /// Factor on the scores. Not derivable from the geometry: absorbed latents keep the scale of the explicit form, and
    /// YaRN changes it.
    public var scale: Float
    /// Whether a query token sees only itself and earlier tokens.
    public var causal: Bool
    /// Tokens a query sees, itself included; nil for all.
    public var window: Int?
    /// Scores become `softcap * tanh(score / softcap)` after scaling; nil for none.
    public var softcap: Float?
    /// One logit per query head that joins the softmax's denominator and carries no value; nil for none.
    public var sinks: [Float]?

    /// Parameters; causal and without window, cap and sinks by default.
    public init(
        scale: Float, causal: Bool = true, window: Int? = nil, softcap: Float? = nil, sinks: [Float]? = nil
    ) {
        self.scale = scale
        self.causal = causal
        self.window = window
        self.softcap = softcap
        self.sinks = sinks
    }
}
