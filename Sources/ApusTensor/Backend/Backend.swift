/// The operations of a device. A decoder step is tens of them a layer, each as fused as its neighbours allow.
///
/// Activations are contiguous float32 tensors whose last axis is the feature axis; every leading axis counts as rows.
/// Shapes that do not fit are programming errors of the caller (preconditions): files are checked when they are loaded.
public protocol Backend: AnyObject, Sendable {
    /// Where the tensors of this backend lie.
    var device: Device { get }

    /// Calls `body` with 0 ..< `count`, several at a time and in no order, and returns when all are done.
    func concurrently(_ count: Int, _ body: @Sendable (Int) -> Void)

    /// Prepares a weight for products: copies it into the layout and memory that products read fastest, at its own width.
    /// - Parameter weight: [outputs, inputs], float32, bf16, f16 or packed blocks.
    /// - Throws: ``TensorError`` when the dtype has no product or memory runs out.
    func prepare(_ weight: Tensor) throws -> any PreparedWeight

    /// Prepares a weight as ``prepare(_:)`` does, but reads float weights where they lie: what changes there later is what
    /// later products read. The weight is kept alive. Packed blocks are copied all the same.
    func prepareInPlace(_ weight: Tensor) throws -> any PreparedWeight

    /// The most rows of a product with weights of this dtype whose activations are not rounded; 0 when they always are.
    func exactRows(weights: DType) -> Int

    /// Several products of one input: `x` [.., inputs] times each weight's transpose, plus its bias.
    /// - Returns: one tensor [.., outputs] per term.
    func linear(_ x: Tensor, _ terms: [LinearTerm]) -> [Tensor]

    /// `sum += x W^T + bias`, in place. Precondition: nobody else reads `sum` meanwhile.
    func linear(_ x: Tensor, _ term: LinearTerm, addingTo sum: Tensor)

    /// Products of each head with a weight of its own: `out[t, h] = x[t, h] W_h^T + bias_h`.
    /// - Parameters:
    ///   - x: float32 [tokens, heads, inputs], a view whose last axis is contiguous.
    ///   - terms: one per head, all of the same shape.
    ///   - out: [tokens, heads, outputs], written; a view whose last axis is contiguous.
    func linearPerHead(_ x: Tensor, _ terms: [LinearTerm], into out: Tensor)

    /// `silu(x gate^T) * (x up^T)`: the gated feed-forward of Shazeer 2020, biases not supported.
    func linearSwiGLU(_ x: Tensor, gate: any PreparedWeight, up: any PreparedWeight) -> Tensor

    /// Rows of `table` [vocabulary, width] (any dtype) as float32 [tokens.count, width]; zeros for token -1. Precondition:
    /// the other tokens are inside.
    func embedding(_ tokens: [Int32], table: Tensor) -> Tensor

    /// `x / sqrt(mean(x^2) + epsilon) * weight` over the last axis (Zhang, Sennrich 2019). `weight`: float32 [width], or
    /// [groups, width] where each group of `x` [rows, groups, width], a view whose last axis is contiguous, has its own.
    func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Float) -> Tensor

    /// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last axis. `weight`, `bias`: float32.
    func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor?, epsilon: Float) -> Tensor

    /// `x = activation(x)`, times `factor` of the same shape where one is given; in place.
    func activateInPlace(_ x: Tensor, _ activation: ActivationFunction, times factor: Tensor?)

    /// `x *= factor`, in place.
    func scale(_ x: Tensor, by factor: Float)

    /// `sum += x`, in place; `x` float32 or bf16.
    func add(_ x: Tensor, to sum: Tensor)

    /// Rotates the first `rotaryWidth` elements of each head of `x` [tokens, heads, width], in place; `x` may be a view whose
    /// last axis is contiguous.
    /// - Parameters:
    ///   - interleaved: pairs are neighbours instead of the two halves.
    ///   - cosine: [tokens, rotaryWidth / 2], of each token's position.
    ///   - sine: as `cosine`.
    func rope(_ x: Tensor, rotaryWidth: Int, interleaved: Bool, cosine: Tensor, sine: Tensor)

    /// Log-probability of `targets[i]` under the logits in row i (natural logarithm), computed in float32.
    func logProbabilities(_ logits: Tensor, of targets: [Int32]) -> [Float]
}

/// A weight ready for products on one backend.
public protocol PreparedWeight: AnyObject, Sendable {
    /// Rows of the weight.
    var outputs: Int { get }
    /// Columns of the weight.
    var inputs: Int { get }
    /// Element type the weight was given in.
    var dtype: DType { get }
    /// Bytes held.
    var ownedBytes: Int { get }
}

/// One product of ``Backend/linear(_:_:)``.
public struct LinearTerm: Sendable {
    /// [outputs, inputs].
    public let weight: any PreparedWeight
    /// Float32 [outputs], added to every row.
    public let bias: Tensor?

    /// A product with an optional bias.
    public init(_ weight: any PreparedWeight, bias: Tensor? = nil) {
        self.weight = weight
        self.bias = bias
    }
}

/// Non-linearities of feed-forward layers.
public enum ActivationFunction: String, Sendable, CaseIterable {
    /// x times the logistic function of x.
    case silu
    /// x times the normal distribution function of x (Hendrycks, Gimpel 2016), exact.
    case gelu
    /// The same by its tanh approximation.
    case geluTanh
}

/// How exact products are.
public enum Precision: String, Sendable, CaseIterable {
    /// Follows the file: float32 weights compute in float32; with bf16 and quantised weights activations may be rounded.
    case automatic
    /// Float32 activations with every weight.
    case float32
}
