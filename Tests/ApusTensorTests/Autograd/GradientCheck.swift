import ApusTensor
import Testing

extension SplitMix {
    /// Uniform in -scale ... scale.
    mutating func tensor(_ shape: Shape, scale: Float = 1) -> Tensor {
        Tensor(floats(shape.count, in: -scale...scale), shape: shape)
    }
}

/// Values of the inputs in float64, one array each.
typealias Inputs = [[Double]]

/// The derivative of `function` by every input, from central differences in float64.
func finiteDifferences(_ inputs: Inputs, _ function: (Inputs) -> Double) -> Inputs {
    var point = inputs
    return inputs.indices.map { input in
        inputs[input].indices.map { index in
            let value = inputs[input][index]
            let step = 1e-5 * max(1, abs(value))
            point[input][index] = value + step
            let above = function(point)
            point[input][index] = value - step
            let below = function(point)
            point[input][index] = value
            return (above - below) / (2 * step)
        }
    }
}

/// ||a - b|| / ||b||.
func relativeError(_ a: [Float], _ b: [Double]) -> Double {
    #expect(a.count == b.count)
    let difference = zip(a, b).reduce(0.0) { $0 + (Double($1.0) - $1.1) * (Double($1.0) - $1.1) }
    let norm = b.reduce(0.0) { $0 + $1 * $1 }
    return (difference / max(norm, 1e-300)).squareRoot()
}

/// Compares an operation's outputs and gradients with a float64 function and its finite differences.
///
/// - Parameters:
///   - inputs: values of the operation's tracked inputs and parameters, in the order of `operation` and `reference`.
///   - operation: builds the outputs from tracked copies of the inputs; returns also where gradients are read.
///   - reference: the same outputs, concatenated, in float64.
func checkGradients(
    _ inputs: [Tensor], tolerance: Double,
    operation: ([Tensor]) -> (outputs: [Tensor], gradients: () -> [Tensor?]),
    reference: @escaping (Inputs) -> [Double], sourceLocation: SourceLocation = #_sourceLocation
) {
    let exact = inputs.map { $0.floats.map(Double.init) }
    let copies = inputs.map { Tensor($0.floats, shape: $0.shape) }
    let (outputs, gradients) = operation(copies)
    let values = outputs.flatMap { (try? $0.float32().floats) ?? [] }
    let expected = reference(exact)
    #expect(relativeError(values, expected) < tolerance, "outputs", sourceLocation: sourceLocation)

    var numbers = SplitMix(state: 77)
    let seeds = outputs.map { numbers.tensor($0.shape) }
    let weights = seeds.flatMap { $0.floats.map(Double.init) }
    backward(from: zip(outputs, seeds).map { ($0, gradient: $1) }, on: CPUBackend.shared)
    let derivatives = finiteDifferences(exact) { point in
        zip(reference(point), weights).reduce(0) { $0 + $1.0 * $1.1 }
    }
    for (index, (gradient, derivative)) in zip(gradients(), derivatives).enumerated() {
        guard let gradient else {
            #expect(Bool(false), "no gradient came for input \(index)", sourceLocation: sourceLocation)
            continue
        }
        let error = relativeError(gradient.floats, derivative)
        #expect(error < tolerance, "gradient of input \(index): \(error)", sourceLocation: sourceLocation)
    }
}
