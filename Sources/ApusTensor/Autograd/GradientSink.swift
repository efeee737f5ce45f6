/// Where an operation's pullback puts the gradients of its inputs.
///
/// Gradients are contiguous tensors of the input's shape, float32, or bf16 where the operation that made the input reads
/// them so anyway.
struct GradientSink {
    let node: GradientNode
    let backend: any DifferentiableBackend

    /// Whether anybody asks for the gradient of an input.
    func wants(_ input: Int) -> Bool { node.inputs[input] != nil }

    /// Adds a gradient that nobody else holds.
    func give(_ gradient: Tensor, to input: Int) { add(gradient, isOwned: true, to: input) }

    /// Adds a gradient that others may hold, so that it is never written to.
    func pass(_ gradient: Tensor, to input: Int) { add(gradient, isOwned: false, to: input) }

    /// Has `body` write the gradient of an input, or add to what is there.
    func accumulate(into input: Int, shape: Shape, _ body: (_ target: Tensor, _ accumulate: Bool) -> Void) {
        guard let edge = node.inputs[input] else { return }
        guard let slot = edge.node.slots[edge.output] else {
            let target = Tensor(uninitialized: shape)
            if edge.node.isLeaf { target.fillWithZeros() }
            body(target, edge.node.isLeaf)
            edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
            return
        }
        let target = slot.isOwned && slot.tensor.dtype == .f32 ? slot.tensor : copied(slot.tensor)
        body(target, true)
        edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
    }

    /// Has `body` write the sum of `base`, where there is one, and the gradient of an input; base and target may be one.
    func combine(into input: Int, shape: Shape, _ body: (_ target: Tensor, _ base: Tensor?) -> Void) {
        guard let edge = node.inputs[input] else { return }
        var base = edge.node.slots[edge.output]
        if let slot = base, slot.tensor.dtype != .f32 { base = .init(tensor: copied(slot.tensor), isOwned: true) }
        let target = base.flatMap { $0.isOwned ? $0.tensor : nil } ?? Tensor(uninitialized: shape)
        body(target, base?.tensor)
        edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
    }

    private func add(_ gradient: Tensor, isOwned: Bool, to input: Int) {
        guard let edge = node.inputs[input] else { return }
        guard let slot = edge.node.slots[edge.output] else {
            let copies = edge.node.isLeaf && !isOwned
            edge.node.slots[edge.output] = .init(
                tensor: copies ? copied(gradient) : gradient, isOwned: isOwned || copies)
            return
        }
        let target = slot.isOwned && slot.tensor.dtype == .f32 ? slot.tensor : copied(slot.tensor)
        backend.add(gradient.dtype == .f32 ? gradient : copied(gradient), to: target)
        edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
    }

    private func copied(_ gradient: Tensor) -> Tensor { backend.converted(gradient, to: .f32) }
}

extension Tensor {
    /// Sets every bit to zero. Precondition: contiguous, not lent.
    package func fillWithZeros() {
        rawPointer.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }
}
