extension DifferentiableOperations {
    /// Runs `body` without keeping what its gradients need, and runs it again when they are asked for (Chen et al. 2016).
    ///
    /// - Parameters:
    ///   - inputs: everything recorded that `body` reads, but for parameters.
    ///   - body: a pure function of the inputs and of parameters, which must not change in between.
    /// - Returns: its outputs.
    public func checkpoint(_ inputs: [Tensor], _ body: @escaping ([Tensor]) -> [Tensor]) -> [Tensor] {
        guard GradientRecording.isEnabled else { return body(inputs) }
        let outputs = withoutGradients { body(inputs) }
        return record(outputs.map { $0.detached() }, from: inputs.map(\.edge), always: true) { gradients, sink in
            let leaves = inputs.map { $0.edge == nil ? $0 : $0.tracked() }
            let again = withGradients { body(leaves) }
            let seeds = zip(again, gradients).compactMap { output, gradient in gradient.map { (output, gradient: $0) } }
            backward(from: seeds, on: backend)
            for (index, leaf) in leaves.enumerated() {
                if let gradient = leaf.gradient { sink.give(gradient, to: index) }
            }
        }
    }
}
