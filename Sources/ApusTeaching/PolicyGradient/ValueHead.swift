import ApusModels
import ApusTensor

/// What return is to be expected before each token, from the policy's hidden states: PPO's critic on a shared trunk.
public final class ValueHead: Module {
    private let weight: Parameter
    private let bias: Parameter

    /// A head that expects 0 everywhere.
    public init(width: Int, on backend: any DifferentiableBackend = CPUBackend.shared) {
        func zeros(_ shape: Shape) -> Parameter {
            Parameter(backend.onDevice(Tensor([Float](repeating: 0, count: shape.count), shape: shape)))
        }
        weight = zeros([1, width])
        bias = zeros([1])
    }

    /// Values [rows, 1] of hidden states [rows, width].
    public func callAsFunction(_ hidden: Tensor, on operations: DifferentiableOperations) -> Tensor {
        operations.linear(hidden, weight, bias: bias, output: .f32)
    }

    /// See `Module`.
    public func visitParameters(_ visit: (_ name: String, _ parameter: Parameter) -> Void) {
        visit("value.weight", weight)
        visit("value.bias", bias)
    }

    /// PPO's value loss, half the squared error, or that of the clipped value where it is larger (Schulman et al.'s code, TRL);
    /// with its derivative by each value.
    public static func loss(
        values: [Float], old: [Float], returns: [Float], clip: Double, weight: Double
    ) -> (value: Double, derivatives: [Float]) {
        var (total, derivatives) = (0.0, [Float](repeating: 0, count: values.count))
        for index in values.indices {
            let (value, before, goal) = (Double(values[index]), Double(old[index]), Double(returns[index]))
            let bounded = min(max(value, before - clip), before + clip)
            let (plain, clipped) = ((value - goal) * (value - goal), (bounded - goal) * (bounded - goal))
            total += 0.5 * weight * max(plain, clipped)
            // Where the clipped error is larger, it does not change with the value unless the clip is not at work.
            let slope = plain >= clipped ? value - goal : bounded == value ? bounded - goal : 0
            derivatives[index] = Float(weight * slope)
        }
        return (total, derivatives)
    }
}
