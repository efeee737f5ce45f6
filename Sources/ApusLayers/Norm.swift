import ApusTensor

/// Root-mean-square or layer normalisation over the last axis.
public enum Norm: Sendable {
    /// Zhang, Sennrich 2019.
    case rms(weight: Tensor, epsilon: Float, backend: any Backend)
    /// Ba, Kiros, Hinton 2016.
    case layer(weight: Tensor, bias: Tensor?, epsilon: Float, backend: any Backend)

    /// The normalised input.
    public func callAsFunction(_ x: Tensor) -> Tensor {
        switch self {
        case .rms(let weight, let epsilon, let backend): backend.rmsNorm(x, weight: weight, epsilon: epsilon)
        case .layer(let weight, let bias, let epsilon, let backend):
            backend.layerNorm(x, weight: weight, bias: bias, epsilon: epsilon)
        }
    }
}
