/// What training asks of a device beyond ``Backend``: forward passes that keep what gradients need, and backward passes.
///
/// Shapes that do not fit are programming errors of the caller. Results do not depend on the number of threads. What
/// operations make lies in the device's memory; what they read may lie in main memory, from where it is copied.
///
/// A device works behind the caller: operations that fail (its memory does not suffice, a launch is refused) give tensors
/// without meaning, and so do all after them; the first error is thrown by ``check()``.
public protocol DifferentiableBackend: Backend {
    /// The dtype of activations, and of the gradients between operations, where products multiply operands of `compute`.
    func activationType(compute: DType) -> DType

    /// Rows of logits, of so many tokens each, that pass through a language-model head at a time.
    func headRows(vocabulary: Int) -> Int

    /// Uninitialised memory of the device.
    func makeTensor(_ shape: Shape, _ dtype: DType) -> Tensor

    /// A copy in the device's memory, which nobody else holds.
    func copyToDevice(_ x: Tensor) -> Tensor

    /// The tensors in main memory, themselves where they lie there. Waits for the device, once for all of them.
    /// - Throws: as ``check()``.
    func toHost(_ tensors: [Tensor]) throws -> [Tensor]

    /// Waits for the device, and throws the first error since the last call.
    func check() throws

    /// `c = a b`, or `c += a b`: a [m, k], b [k, n], both float32 or both bf16; c [m, n] float32 (on a GPU also bf16).
    func multiply(_ a: MatrixView, _ b: MatrixView, into c: MatrixView, accumulate: Bool)

    /// Writes the elements of `x` in the other's dtype (float32 or bf16, to nearest even). Precondition: same shape.
    func convert(_ x: Tensor, into result: Tensor)

    /// RMSNorm over the last axis, of `x` or of `x + addend`.
    /// - Returns: the sum (`x` itself without an addend), the normalised rows in `output`'s dtype, and each row's
    ///   1 / sqrt(mean square + epsilon).
    func rmsNormForward(
        _ x: Tensor, adding addend: Tensor?, weight: Tensor, epsilon: Float, output: DType
    ) -> (sum: Tensor, normalized: Tensor, inverse: Tensor)

    /// `result = base + dx` and `weightGradient = dw` (or `+= dw`) of
    /// ``rmsNormForward(_:adding:weight:epsilon:output:)``, x being the sum.
    /// - Parameters:
    ///   - narrow: receives the result in bf16 too.
    ///   - weightGradient: nil where nobody asks.
    func rmsNormBackward(
        _ x: Tensor, weight: Tensor, inverse: Tensor, gradient: Tensor, base: Tensor?, into result: Tensor,
        narrow: Tensor?, weightGradient: Tensor?, adds: Bool)

    /// `silu(gate) * up`, contiguous, in `output`'s dtype. Rows of gate and up have the same stride.
    func swigluForward(gate: MatrixView, up: MatrixView, output: DType) -> Tensor

    /// Gradients of gate and up, written to views of the same stride.
    func swigluBackward(
        gate: MatrixView, up: MatrixView, gradient: Tensor, gateGradient: MatrixView, upGradient: MatrixView)

    /// Rows of a [rows, width] tensor in the order asked for, in its dtype.
    func gatherRows(_ x: Tensor, _ rows: [Int32]) -> Tensor

    /// `tableGradient[tokens[i]] += gradient[i]`, in order; token -1 adds nothing.
    func embeddingBackward(_ tokens: [Int32], gradient: Tensor, tableGradient: Tensor)

    /// For each row of logits its target's log-probability (0 where the target is negative), and where `gradient` is given
    /// the gradient of -scale[row] x log-probability (`gradient` may be `logits`).
    /// - Parameters:
    ///   - targets: int32 [rows].
    ///   - scale: float32 [rows].
    ///   - logProbabilities: float32 [rows], written.
    func crossEntropy(
        _ logits: Tensor, targets: Tensor, scale: Tensor, gradient: Tensor?, logProbabilities: Tensor)

    /// As ``crossEntropy(_:targets:scale:gradient:logProbabilities:)``, where ranks share the vocabulary: three numbers a row
    /// are reduced over them.
    /// - Parameters:
    ///   - logits: this rank's columns.
    ///   - targets: among these; -1 where another rank has it, less where the row does not count.
    ///   - reduce: reduces float32 elements over the ranks, in place: to their sum or their largest.
    func crossEntropy(
        ofShard logits: Tensor, targets: Tensor, scale: Tensor, gradient: Tensor?, logProbabilities: Tensor,
        reduce: (_ values: Tensor, _ isMaximum: Bool) -> Void)

    /// `factor x` the sum of a[i] b[i] over float32 tensors, summed in float64: float32 [1].
    func weightedSum(_ a: Tensor, _ b: Tensor, factor: Float) -> Tensor

    /// Copies a row, float32, into every row of `result`.
    func fill(_ result: MatrixView, withRow row: Tensor)

    /// `sums = `, or `+= `, the sums of the columns of `x` (float32 or bf16).
    func columnSums(_ x: MatrixView, to sums: Tensor, adds: Bool)

    /// Sum of the squares of all elements, float64 [1]; NaN or infinite if an element is.
    func sumOfSquares(_ tensors: [Tensor]) -> Tensor

    /// One step of AdamW on tensors, in place.
    /// - Parameters:
    ///   - clip: the largest norm of all gradients together; 0 for any.
    ///   - squares: that norm's square, float64 [1]; where it is not finite nothing changes.
    func adamW(_ step: AdamWStep, _ updates: [AdamWUpdate], clip: Float, squares: Tensor)

    /// Rotates pairs of each head of a view (its whole width), in place, by the angles of each token's row.
    func rotate(_ view: HeadsView, cosine: Tensor, sine: Tensor, isInterleaved: Bool)

    /// Causal attention over packed sequences, explicit keys and values.
    /// - Returns: [tokens, heads, value width] in `output`'s dtype, and the log-sum-exp of each row.
    func attentionForward(
        _ operands: AttentionOperands, _ parameters: SequenceAttention, output: DType
    ) -> (output: Tensor, logSumExp: Tensor)

    /// Gradients of the operands, written to views of the same shapes (added, where `adds` says so).
    func attentionBackward(
        _ operands: AttentionOperands, _ parameters: SequenceAttention, output: Tensor, logSumExp: Tensor,
        gradient: Tensor, into gradients: AttentionOperands, adds: Bool)
}

extension DifferentiableBackend {
    /// The tensor itself where it lies in the device's memory, or else a copy there.
    public func onDevice(_ x: Tensor) -> Tensor { x.device == device ? x : copyToDevice(x) }

    /// A copy of `x` in another dtype (float32 or bf16).
    func converted(_ x: Tensor, to dtype: DType) -> Tensor {
        let result = makeTensor(x.shape, dtype)
        convert(x, into: result)
        return result
    }
}

/// A matrix inside a tensor: rows at a fixed distance, elements of a row side by side.
public struct MatrixView: Sendable {
    /// What it lies in: float32 or bf16.
    public let tensor: Tensor
    /// Elements before the first one.
    public let offset: Int
    /// Rows as stored.
    public let rows: Int
    /// Columns as stored.
    public let columns: Int
    /// Elements from row to row.
    public let stride: Int
    /// Whether products read it transposed.
    public let isTransposed: Bool

    /// Columns of a tensor whose leading axes count as rows.
    public init(_ tensor: Tensor, columns range: Range<Int>? = nil, transposed: Bool = false) {
        precondition(tensor.isContiguous && tensor.shape.rank >= 1, "matrix of \(tensor.shape)")
        let width = tensor.shape[-1]
        let range = range ?? 0..<width
        precondition(range.lowerBound >= 0 && range.upperBound <= width, "columns \(range) of \(tensor.shape)")
        self.tensor = tensor
        offset = range.lowerBound
        rows = width == 0 ? 0 : tensor.count / width
        columns = range.count
        stride = width
        isTransposed = transposed
    }

    /// The same elements, read the other way round.
    public var transposed: MatrixView { MatrixView(self, transposed: !isTransposed) }

    private init(_ view: MatrixView, transposed: Bool) {
        tensor = view.tensor
        offset = view.offset
        rows = view.rows
        columns = view.columns
        stride = view.stride
        isTransposed = transposed
    }
}

/// Hyperparameters of one step of AdamW (Loshchilov, Hutter 2019).
public struct AdamWStep: Sendable {
    /// Learning rate of this step.
    public var learningRate: Float
    /// Decay of the first moment.
    public var beta1: Float
    /// Decay of the second moment.
    public var beta2: Float
    /// Added to the root of the second moment.
    public var epsilon: Float
    /// Factor on the gradient, before clipping.
    public var gradientScale: Float
    /// Which step it is, from 1.
    public var step: Int

    /// A step's hyperparameters.
    public init(
        learningRate: Float, beta1: Float, beta2: Float, epsilon: Float, gradientScale: Float = 1, step: Int
    ) {
        self.learningRate = learningRate
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.gradientScale = gradientScale
        self.step = step
    }

    /// `1 - beta^step`, in float64.
    func correction(_ beta: Float) -> Float {
        var (power, base, exponent) = (1.0, Double(beta), step)
        while exponent > 0 {
            if exponent & 1 == 1 { power *= base }
            base *= base
            exponent >>= 1
        }
        return Float(1 - power)
    }
}

/// What a step of AdamW changes together.
public struct AdamWUpdate: Sendable {
    /// Of the values, float32.
    public var gradient: Tensor
    /// Float32.
    public var values: Tensor
    /// Running mean of the gradient, float32.
    public var firstMoment: Tensor
    /// Running mean of its square, float32.
    public var secondMoment: Tensor
    /// The values in bf16, kept in step where given.
    public var narrow: Tensor?
    /// Decoupled weight decay.
    public var weightDecay: Float

    /// Values with what belongs to them.
    public init(
        gradient: Tensor, values: Tensor, firstMoment: Tensor, secondMoment: Tensor, narrow: Tensor?,
        weightDecay: Float
    ) {
        self.gradient = gradient
        self.values = values
        self.firstMoment = firstMoment
        self.secondMoment = secondMoment
        self.narrow = narrow
        self.weightDecay = weightDecay
    }
}

/// What every row of a packed batch sees in the training form of attention.
public struct SequenceAttention: Sendable, Equatable {
    /// First row of each sequence, and the number of rows at the end: rows see earlier rows of their own sequence.
    public var starts: [Int]
    /// Factor on scores.
    public var scale: Float
    /// Tokens a row sees, itself included; nil for all.
    public var window: Int?
    /// Whether products run on bf16 operands.
    public var usesBFloat16: Bool

    /// Attention over sequences that begin at `starts`.
    public init(starts: [Int], scale: Float, window: Int? = nil, usesBFloat16: Bool = false) {
        self.starts = starts
        self.scale = scale
        self.window = window
        self.usesBFloat16 = usesBFloat16
    }
}

/// Rows [tokens][heads][width] inside a tensor.
public struct HeadsView: Sendable {
    /// What they lie in.
    public var tensor: Tensor
    /// Elements before the first one.
    public var offset: Int
    /// Heads.
    public var heads: Int
    /// Elements of a head.
    public var width: Int
    /// Elements from token to token.
    public var tokenStride: Int
    /// Elements from head to head.
    public var headStride: Int

    /// Elements `range` of each head, where heads are the columns of a [tokens, .] tensor (all unless given), cut evenly.
    public init(_ tensor: Tensor, columns: Range<Int>? = nil, heads: Int, elements range: Range<Int>) {
        let columns = columns ?? 0..<tensor.shape[-1]
        precondition(columns.upperBound <= tensor.shape[-1], "columns \(columns) of \(tensor.shape)")
        precondition(heads > 0 && columns.count % heads == 0, "\(heads) heads in rows of \(columns.count)")
        let width = columns.count / heads
        precondition(range.lowerBound >= 0 && range.upperBound <= width, "elements \(range) of \(width)")
        self.tensor = tensor
        offset = columns.lowerBound + range.lowerBound
        self.heads = heads
        self.width = range.count
        tokenStride = tensor.shape[-1]
        headStride = width
    }

    /// Heads that follow these in the same rows, as one view with them; nil where others do not.
    func followed(by other: HeadsView) -> HeadsView? {
        guard tensor.beginsWhere(other.tensor), width == other.width, tokenStride == other.tokenStride,
            headStride == other.headStride, other.offset == offset + heads * headStride
        else { return nil }
        var result = self
        result.heads += other.heads
        return result
    }

    /// The same place in another tensor of that shape.
    func inside(_ other: Tensor) -> HeadsView {
        var result = self
        result.tensor = other
        return result
    }
}

/// Queries, keys and values of the training form. A key is its head's own part, then the part kept once for all heads;
/// the query's last elements meet the latter.
public struct AttentionOperands: Sendable {
    /// [tokens][query heads][own width + once width].
    public var query: HeadsView
    /// [tokens][KV heads][own width].
    public var key: HeadsView
    /// [tokens][1][once width], or nil.
    public var keyOnce: HeadsView?
    /// [tokens][KV heads][value width].
    public var value: HeadsView

    /// Operands of one layer.
    public init(query: HeadsView, key: HeadsView, keyOnce: HeadsView? = nil, value: HeadsView) {
        precondition(query.width == key.width + (keyOnce?.width ?? 0), "query and key widths differ")
        precondition(key.heads == value.heads && query.heads % key.heads == 0, "heads do not divide")
        self.query = query
        self.key = key
        self.keyOnce = keyOnce
        self.value = value
    }
}
