/// A tensor that training changes: float32 master values, its gradient, and a bf16 copy for products.
///
/// Unchecked Sendable: one task at a time trains a model.
public final class Parameter: @unchecked Sendable {
    /// The values, float32. Changed in place by ``update(_:)``.
    public let value: Tensor
    /// Whether AdamW's decoupled decay applies: matrices, not norms and biases.
    public let decays: Bool
    /// Whether gradients are recorded.
    public var isTrainable: Bool
    private let node = GradientNode()
    private var narrow: Tensor?
    private var makeNarrow: ((any DifferentiableBackend, DType) -> Tensor)?
    private var isNarrowStale = true

    /// A parameter over float32 values that nobody else writes.
    /// - Parameter decays: nil takes what rank tells: matrices decay, vectors do not.
    public init(_ value: Tensor, decays: Bool? = nil, isTrainable: Bool = true) {
        precondition(value.dtype == .f32 && value.isContiguous, "a parameter of \(value.dtype)")
        self.value = value
        self.decays = decays ?? (value.shape.rank > 1)
        self.isTrainable = isTrainable
    }

    /// The extents.
    public var shape: Shape { value.shape }

    /// Where its gradient gathers; nil when frozen.
    var edge: GradientEdge? { isTrainable ? GradientEdge(node: node, output: 0) : nil }

    /// The gradient that backward passes have added up since it was last cleared; nil when none came.
    public var gradient: Tensor? {
        guard let slot = node.slots[0] else { return nil }
        if slot.isCleared {
            slot.tensor.fillWithZeros()
            node.slots[0]?.isCleared = false
        }
        return slot.tensor
    }

    /// Forgets the gradient.
    public func clearGradient() { node.slots[0] = nil }

    /// Sets the gradient to zero where there is one, keeping its memory.
    public func zeroGradient() { node.slots[0]?.isCleared = true }

    /// Lays matrices of one width side by side: their bf16 copies and their gradients, so that products take those that
    /// follow each other as one matrix. Precondition: neither copy nor gradient has been made.
    package static func join(_ parameters: [Parameter]) {
        guard let width = parameters.first?.shape[-1], parameters.count > 1,
            parameters.allSatisfy({ $0.shape.rank == 2 && $0.shape[1] == width })
        else { return }
        let run = ParameterRun(rows: parameters.map { $0.shape[0] }, width: width)
        for (index, parameter) in parameters.enumerated() {
            precondition(parameter.narrow == nil && parameter.node.slots[0] == nil, "joined too late")
            parameter.makeNarrow = { run.narrow(index, $1, on: $0) }
            parameter.node.makeGradient = { run.gradient(index, on: $0) }
        }
    }

    /// The values in the precision of products. The bf16 copy is made when it is first asked for after a change.
    func values(as dtype: DType, on backend: any DifferentiableBackend) -> Tensor {
        guard dtype != .f32 else { return value }
        if isNarrowStale || narrow == nil {
            let copy = narrow ?? makeNarrow?(backend, dtype) ?? backend.makeTensor(shape, dtype)
            backend.convert(value, into: copy)
            narrow = copy
            isNarrowStale = false
        }
        return narrow!
    }

    /// Calls `body` to change the values in place; it also gets the bf16 copy, where there is one, to keep in step.
    /// - Parameter body: returns whether it has written the copy.
    package func update(_ body: (_ value: Tensor, _ narrow: Tensor?) -> Bool) {
        isNarrowStale = !body(value, narrow)
    }

    /// Replaces the values by others of the same shape, from anywhere.
    package func assign(_ values: Tensor, on backend: any DifferentiableBackend) {
        backend.convert(values, into: value)
        isNarrowStale = true
    }
}

/// Memory that the copies and gradients of several parameters share.
private final class ParameterRun: @unchecked Sendable {
    private let starts: [Int]
    private let width: Int
    private var narrow: Tensor?
    /// The gradients' memory, as long as a gradient lies in it, and whose have been there.
    private weak var gradients: Storage?
    private var taken: Set<Int> = []

    init(rows: [Int], width: Int) {
        starts = rows.reduce(into: [0]) { $0.append($0.last! + $1) }
        self.width = width
    }

    func narrow(_ index: Int, _ dtype: DType, on backend: any DifferentiableBackend) -> Tensor {
        let all = narrow ?? backend.makeTensor([starts.last!, width], dtype)
        narrow = all
        return all.rows(starts[index]..<starts[index + 1])
    }

    func gradient(_ index: Int, on backend: any DifferentiableBackend) -> Tensor {
        let shape: Shape = [starts.last!, width]
        let all: Tensor
        if let gradients, taken.insert(index).inserted {
            all = Tensor(storage: gradients, shape: shape, dtype: .f32)
        } else {
            all = backend.makeTensor(shape, .f32)
            gradients = all.storage
            taken = [index]
        }
        return all.rows(starts[index]..<starts[index + 1])
    }
}

/// Something with parameters: a layer, a block, a model.
public protocol Module: AnyObject {
    /// Calls `visit` with each parameter and its name, submodules' names in front, joined by dots. The order is fixed.
    func visitParameters(_ visit: (_ name: String, _ parameter: Parameter) -> Void)
}

extension Module {
    /// All parameters by name, in their fixed order.
    public func parameters() -> [(name: String, parameter: Parameter)] {
        var result: [(name: String, parameter: Parameter)] = []
        visitParameters { result.append(($0, $1)) }
        return result
    }

    /// Number of elements of all parameters.
    public var parameterCount: Int { parameters().reduce(0) { $0 + $1.parameter.shape.count } }
}

/// The value of a scalar computed by `body`, and its gradient for every trainable parameter of `module`, by name.
///
/// Gradients that parameters held before are dropped; those returned are the parameters' own no longer.
/// - Parameter body: computes a tensor with one element from the module's parameters.
public func valueAndGrad(
    _ module: some Module, on backend: any DifferentiableBackend = CPUBackend.shared, _ body: () throws -> Tensor
) rethrows -> (value: Float, gradients: [String: Tensor]) {
    let parameters = module.parameters()
    for (_, parameter) in parameters { parameter.clearGradient() }
    let loss = try withGradients(body)
    loss.backward(on: backend)
    var gradients: [String: Tensor] = [:]
    for (name, parameter) in parameters where parameter.isTrainable {
        gradients[name] = parameter.gradient ?? zeros(parameter.shape, on: backend)
        parameter.clearGradient()
    }
    return (loss.floats[0], gradients)
}

private func zeros(_ shape: Shape, on backend: any DifferentiableBackend) -> Tensor {
    let result = backend.makeTensor(shape, .f32)
    result.fillWithZeros()
    return result
}

extension Tensor {
    /// Adds the gradients of this scalar to every parameter and tracked tensor it depends on, and releases the record.
    /// - Parameter scale: the gradient of this scalar itself.
    public func backward(scale: Float = 1, on backend: any DifferentiableBackend = CPUBackend.shared) {
        precondition(count == 1, "backward from a tensor of shape \(shape): a scalar expected")
        ApusTensor.backward(from: [(self, gradient: Tensor([scale], shape: shape))], on: backend)
    }
}
