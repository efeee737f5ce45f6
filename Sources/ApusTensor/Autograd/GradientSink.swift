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
    /// - Parameters:
    ///   - dtype: float32, or bf16 where nothing is there yet and the gradient is complete with this.
    ///   - coversAll: whether `body` writes every element where it does not add; otherwise it always adds.
    func accumulate(
        into input: Int, shape: Shape, dtype: DType = .f32, coversAll: Bool = true,
        _ body: (_ target: Tensor, _ accumulate: Bool) -> Void
    ) {
        if let (target, adds) = target(of: input, shape: shape, dtype: dtype, coversAll: coversAll) {
            body(target, adds)
        }
    }

    /// Where the gradient of an input is to be written, or added to what is there; nil where nobody asks for it.
    func target(
        of input: Int, shape: Shape, dtype: DType = .f32, coversAll: Bool = true
    ) -> (tensor: Tensor, accumulates: Bool)? {
        guard let edge = node.inputs[input] else { return nil }
        let target: Tensor
        var accumulates = true
        if let slot = edge.node.slots[edge.output] {
            if slot.isCleared {
                target = slot.tensor
                accumulates = false
            } else {
                let isInPlace = slot.isOwned && (slot.tensor.dtype == .f32 || slot.tensor.dtype == dtype)
                target = isInPlace ? slot.tensor : copied(slot.tensor)
            }
        } else {
            target = edge.node.makeGradient?(backend) ?? backend.makeTensor(shape, dtype)
            accumulates = false
        }
        if !accumulates, !coversAll {
            target.fillWithZeros()
            accumulates = true
        }
        edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
        return (target, accumulates)
    }

    /// Has `body` write the sum of `base`, where there is one, and the gradient of an input; base and target may be one.
    func combine(into input: Int, shape: Shape, _ body: (_ target: Tensor, _ base: Tensor?) -> Void) {
        guard let edge = node.inputs[input] else { return }
        var base = edge.node.slots[edge.output]
        let cleared = base.flatMap { $0.isCleared ? $0.tensor : nil }
        if cleared != nil { base = nil }
        if let slot = base, slot.tensor.dtype != .f32 { base = .init(tensor: copied(slot.tensor), isOwned: true) }
        let target = cleared ?? base.flatMap { $0.isOwned ? $0.tensor : nil } ?? backend.makeTensor(shape, .f32)
        body(target, base?.tensor)
        edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
    }

    private func add(_ gradient: Tensor, isOwned: Bool, to input: Int) {
        guard let edge = node.inputs[input] else { return }
        let slot = edge.node.slots[edge.output]
        guard let slot, !slot.isCleared else {
            if let slot, !isOwned || gradient.dtype != slot.tensor.dtype {
                backend.convert(gradient, into: slot.tensor)
                edge.node.slots[edge.output] = .init(tensor: slot.tensor, isOwned: true)
                return
            }
            let copies = edge.node.isLeaf && !isOwned
            edge.node.slots[edge.output] = .init(
                tensor: copies ? copied(gradient) : gradient, isOwned: isOwned || copies)
            return
        }
        let target = slot.isOwned && slot.tensor.dtype == .f32 ? slot.tensor : copied(slot.tensor)
        backend.add(gradient, to: target)
        edge.node.slots[edge.output] = .init(tensor: target, isOwned: true)
    }

    private func copied(_ gradient: Tensor) -> Tensor { backend.converted(gradient, to: .f32) }
}

extension Tensor {
    /// Sets every bit to zero, on a GPU in the order of its stream. Precondition: contiguous, not lent.
    package func fillWithZeros() {
        guard device == .cpu else {
            // A failure is of the GPU itself: whatever is queued next fails too.
            if let memory = storage.deviceMemory {
                try? memory.stream.fill(memory, at: byteOffset, count: byteCount, with: 0)
            }
            return
        }
        rawPointer.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }
}
