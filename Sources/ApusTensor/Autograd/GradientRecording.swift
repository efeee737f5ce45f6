/// Whether operations are recorded for gradients, in the running task.
enum GradientRecording {
    @TaskLocal static var isEnabled = true
}

/// Runs `body` without recording: its results carry no gradients, and nothing is kept for a backward pass.
public func withoutGradients<R>(_ body: () throws -> R) rethrows -> R {
    try GradientRecording.$isEnabled.withValue(false, operation: body)
}

/// Runs `body` with recording on, inside ``withoutGradients(_:)`` too.
func withGradients<R>(_ body: () throws -> R) rethrows -> R {
    try GradientRecording.$isEnabled.withValue(true, operation: body)
}

/// Connects the outputs of an operation to its inputs, if gradients are recorded and an input carries some.
/// - Parameter pullback: called at most once, with one gradient (or nil) per output.
func record(
    _ outputs: [Tensor], from inputs: [GradientEdge?], always: Bool = false, pullback: @escaping GradientNode.Pullback
) -> [Tensor] {
    guard records(inputs) || always && GradientRecording.isEnabled else { return outputs }
    let node = GradientNode(inputs: inputs, outputs: outputs.count, pullback: pullback)
    return outputs.enumerated().map { index, output in
        var result = output
        result.edge = GradientEdge(node: node, output: index)
        return result
    }
}

/// Whether an operation on these inputs has to keep what its pullback needs.
func records(_ inputs: [GradientEdge?]) -> Bool {
    GradientRecording.isEnabled && inputs.contains { $0 != nil }
}

/// Hands gradients back from `outputs` to every leaf they depend on. Newest operations first, so that an operation runs
/// when all its gradients have come; what it kept is released at once. Gradients in leaves add up over calls.
///
/// Does nothing where an output carries no gradients.
package func backward(from outputs: [(Tensor, gradient: Tensor)], on backend: any DifferentiableBackend) {
    var queue = NodeQueue()
    for (output, gradient) in outputs {
        guard let edge = output.edge else { continue }
        let seed = GradientNode(inputs: [edge], outputs: 0) { _, _ in }
        GradientSink(node: seed, backend: backend).pass(gradient, to: 0)
        queue.insert(edge.node)
    }
    while let node = queue.popNewest() {
        guard let pullback = node.pullback else { continue }
        let gradients = node.slots.map { $0?.tensor }
        node.pullback = nil
        node.slots = Array(repeating: nil, count: gradients.count)
        pullback(gradients, GradientSink(node: node, backend: backend))
        for case let edge? in node.inputs { queue.insert(edge.node) }
        node.inputs = []
    }
}

/// Operations waiting for their turn: a heap whose top is the newest. Leaves are passed over.
private struct NodeQueue {
    private var heap: [GradientNode] = []

    mutating func insert(_ node: GradientNode) {
        guard !node.isLeaf, !node.isQueued else { return }
        node.isQueued = true
        heap.append(node)
        var child = heap.count - 1
        while child > 0, heap[child].order > heap[(child - 1) / 2].order {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func popNewest() -> GradientNode? {
        guard let top = heap.first else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var parent = 0
            while true {
                var newest = parent
                for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count {
                    if heap[child].order > heap[newest].order { newest = child }
                }
                if newest == parent { break }
                heap.swapAt(parent, newest)
                parent = newest
            }
        }
        return top
    }
}
