extension DifferentiableOperations {
    /// Records an operation whose work is done elsewhere: what ranks exchange in the middle of a model.
    ///
    /// - Parameters:
    ///   - inputs: what it read.
    ///   - outputs: what it gave.
    ///   - pullback: the gradients of the inputs from those of the outputs (nil: none came); called once, when all have come.
    ///     A gradient it is given may be held by others and is not written to.
    /// - Returns: the outputs, recorded.
    package func recorded(
        _ outputs: [Tensor], from inputs: [Tensor], pullback: @escaping (_ gradients: [Tensor?]) -> [Tensor?]
    ) -> [Tensor] {
        record(outputs.map { $0.detached() }, from: inputs.map(\.edge)) { gradients, sink in
            for (index, gradient) in pullback(gradients).enumerated() {
                if let gradient, sink.wants(index) { sink.pass(gradient, to: index) }
            }
        }
    }
}
