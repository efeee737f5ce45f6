import Synchronization

/// One recorded operation, or a leaf: where gradients of its outputs gather until all of them have come.
///
/// Unchecked Sendable: a graph belongs to the task that records it; only the numbering is shared between tasks.
package final class GradientNode: @unchecked Sendable {
    /// Hands the gradients of the outputs (nil: none came) on to the inputs.
    typealias Pullback = (_ gradients: [Tensor?], _ sink: GradientSink) -> Void

    /// A gradient that gathers: an owned one is held by nobody else and may be added to in place.
    struct Slot {
        var tensor: Tensor
        var isOwned: Bool
        /// Whether it is zero whatever lies there: what comes first is written rather than added.
        var isCleared = false
    }

    private static let created = Atomic<UInt64>(0)

    /// Position in the order of creation: an operation comes after those it reads.
    let order: UInt64
    /// Whether the gradient stays (a parameter, a tracked tensor) rather than being handed on.
    let isLeaf: Bool
    var inputs: [GradientEdge?]
    var pullback: Pullback?
    var slots: [Slot?]
    var isQueued = false
    /// Makes the memory that a leaf's gradient gathers in, where it has a place of its own.
    var makeGradient: ((any DifferentiableBackend) -> Tensor)?

    /// A leaf.
    init() {
        order = Self.created.add(1, ordering: .relaxed).newValue
        isLeaf = true
        inputs = []
        slots = [nil]
    }

    /// An operation.
    init(inputs: [GradientEdge?], outputs: Int, pullback: @escaping Pullback) {
        order = Self.created.add(1, ordering: .relaxed).newValue
        isLeaf = false
        self.inputs = inputs
        self.pullback = pullback
        slots = Array(repeating: nil, count: outputs)
    }
}

/// An output of a recorded operation.
package struct GradientEdge: Sendable {
    let node: GradientNode
    let output: Int
}

extension Tensor {
    /// The same elements, not recorded: gradients stop here.
    public func detached() -> Tensor {
        var result = self
        result.edge = nil
        return result
    }

    /// The same elements as a leaf whose gradient can be asked for by ``gradient`` after a backward pass.
    public func tracked() -> Tensor {
        var result = self
        result.edge = GradientEdge(node: GradientNode(), output: 0)
        return result
    }

    /// What the backward pass left for a ``tracked()`` tensor; nil where nothing came.
    public var gradient: Tensor? {
        guard let edge, edge.node.isLeaf else { return nil }
        return edge.node.slots[edge.output]?.tensor
    }
}
