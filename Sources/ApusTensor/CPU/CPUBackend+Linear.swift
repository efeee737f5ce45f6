import CApusKernels

/// A weight prepared by `apus_weight_create_copy` or `apus_weight_create`. Unchecked Sendable: the handle is immutable once
/// made.
final class CPUPreparedWeight: PreparedWeight, @unchecked Sendable {
    let handle: OpaquePointer
    let outputs: Int
    let inputs: Int
    let dtype: DType
    /// Where the weight lies, unless it was copied.
    private let borrowed: Storage?

    init(handle: OpaquePointer, weight: Tensor, borrowed: Storage? = nil) {
        self.handle = handle
        self.borrowed = borrowed
        outputs = weight.shape[0]
        inputs = weight.shape[1]
        dtype = weight.dtype
    }

    deinit { apus_weight_destroy(handle) }

    var ownedBytes: Int { apus_weight_owned_bytes(handle) }
}

extension CPUBackend {
    /// See ``Backend/prepare(_:)``.
    public func prepare(_ weight: Tensor) throws -> any PreparedWeight {
        let handle = try handle(of: weight, apus_weight_create_copy)
        // The prepared copy is what products read: the file's own pages would only double the memory.
        weight.storage.dropResidentPages(offset: weight.byteOffset, byteCount: weight.byteCount)
        return CPUPreparedWeight(handle: handle, weight: weight)
    }

    /// See ``Backend/prepareInPlace(_:)``.
    public func prepareInPlace(_ weight: Tensor) throws -> any PreparedWeight {
        CPUPreparedWeight(
            handle: try handle(of: weight, apus_weight_create), weight: weight, borrowed: weight.storage)
    }

    private func handle(
        of weight: Tensor,
        _ create: (OpaquePointer?, apus_dtype, UnsafeRawPointer?, Int64, Int64) -> OpaquePointer?
    ) throws -> OpaquePointer {
        guard weight.shape.rank == 2, weight.isContiguous else {
            throw TensorError.shape(
                operation: "prepare", expected: "a contiguous [outputs, inputs]", found: "\(weight.shape)")
        }
        guard let type = weight.dtype.kernelType else {
            throw TensorError.dtype(
                operation: "product", expected: "f32, bf16, f16 or packed blocks", found: weight.dtype)
        }
        guard
            let handle = create(pool, type, weight.rawPointer, Int64(weight.shape[0]), Int64(weight.shape[1]))
        else { throw TensorError.outOfMemory(bytes: weight.byteCount, device: "cpu") }
        return handle
    }

    /// See ``Backend/exactRows(weights:)``.
    public func exactRows(weights: DType) -> Int {
        weights.kernelType.map { Int(apus_linear_exact_tokens(kernelPrecision, $0)) } ?? Int.max
    }

    /// See ``Backend/linear(_:_:)``.
    public func linear(_ x: Tensor, _ terms: [LinearTerm]) -> [Tensor] {
        let outputs = terms.map { Tensor(uninitialized: Self.shape(x, width: $0.weight.outputs)) }
        product(x, terms, into: outputs, accumulate: false)
        return outputs
    }

    /// See ``Backend/linear(_:_:addingTo:)``.
    public func linear(_ x: Tensor, _ term: LinearTerm, addingTo sum: Tensor) {
        precondition(sum.isContiguous && sum.shape[-1] == term.weight.outputs, "linear: sum \(sum.shape)")
        product(x, [term], into: [sum], accumulate: true)
    }

    /// See ``Backend/linearPerHead(_:_:into:)``.
    ///
    /// Heads run side by side where there are enough for all threads: a product of one head is too small to share.
    public func linearPerHead(_ x: Tensor, _ terms: [LinearTerm], into out: Tensor) {
        let (tokens, heads) = (x.shape[0], terms.count)
        precondition(
            x.dtype == .f32 && out.dtype == .f32 && x.hasContiguousRows && out.hasContiguousRows
                && x.shape == [tokens, heads, terms[0].weight.inputs]
                && out.shape == [tokens, heads, terms[0].weight.outputs], "linearPerHead: \(x.shape) to \(out.shape)")
        if heads >= threads && heads > 1 {
            concurrently(heads) { self.product(ofHead: $0, x, terms[$0], into: out) }
        } else {
            for head in 0..<heads { product(ofHead: head, x, terms[head], into: out) }
        }
    }

    private func product(ofHead head: Int, _ x: Tensor, _ term: LinearTerm, into out: Tensor) {
        let request = apus_linear_output(
            weight: handle(term.weight), out: out.pointer(as: Float.self) + head * out.strides[1],
            out_stride: Int64(out.strides[0]), bias: term.bias.map { UnsafePointer($0.pointer(as: Float.self)) },
            accumulate: 0)
        let status = withUnsafePointer(to: request) { request in
            apus_linear(
                pool, kernelPrecision, x.pointer(as: Float.self) + head * x.strides[1], Int64(x.shape[0]),
                Int64(x.strides[0]), request, 1)
        }
        Self.check(status)
        withExtendedLifetime((x, term, out)) {}
    }

    /// See ``Backend/linearSwiGLU(_:gate:up:)``.
    public func linearSwiGLU(_ x: Tensor, gate: any PreparedWeight, up: any PreparedWeight) -> Tensor {
        let (rows, width) = Self.matrix(x, "linearSwiGLU")
        precondition(gate.inputs == width && up.inputs == width && gate.outputs == up.outputs, "linearSwiGLU: widths")
        let out = Tensor(uninitialized: Self.shape(x, width: gate.outputs))
        let status = apus_linear_swiglu(
            pool, kernelPrecision, x.pointer(as: Float.self), Int64(rows), Int64(width), handle(gate), handle(up),
            out.pointer(as: Float.self), Int64(gate.outputs))
        Self.check(status)
        return out
    }

    private func product(_ x: Tensor, _ terms: [LinearTerm], into outputs: [Tensor], accumulate: Bool) {
        let (rows, width) = Self.matrix(x, "linear")
        let requests = zip(terms, outputs).map { term, out in
            precondition(term.weight.inputs == width, "linear: \(width) features for \(term.weight.inputs) inputs")
            return apus_linear_output(
                weight: handle(term.weight), out: out.pointer(as: Float.self), out_stride: Int64(term.weight.outputs),
                bias: term.bias.map { UnsafePointer($0.pointer(as: Float.self)) }, accumulate: accumulate ? 1 : 0)
        }
        let status = apus_linear(
            pool, kernelPrecision, x.pointer(as: Float.self), Int64(rows), Int64(width), requests, Int32(requests.count)
        )
        Self.check(status)
        withExtendedLifetime((x, terms, outputs)) {}
    }

    private func handle(_ weight: any PreparedWeight) -> OpaquePointer {
        guard let weight = weight as? CPUPreparedWeight else { preconditionFailure("weight of another backend") }
        return weight.handle
    }

    /// The widths are checked before, so only scratch memory (kilobytes) can be missing.
    private static func check(_ status: Int32) {
        if status != 0 { fatalError("out of memory in a product's scratch space") }
    }

    /// See ``Backend/embedding(_:table:)``.
    public func embedding(_ tokens: [Int32], table: Tensor) -> Tensor {
        precondition(table.shape.rank == 2 && table.isContiguous, "embedding table \(table.shape)")
        guard let type = table.dtype.kernelType else { preconditionFailure("embedding table of \(table.dtype)") }
        let width = table.shape[1]
        let out = Tensor(uninitialized: [tokens.count, width])
        let rowBytes = table.dtype.byteCount(elements: width)!
        for (row, token) in tokens.enumerated() {
            precondition(token >= -1 && Int(token) < table.shape[0], "token \(token) of \(table.shape[0])")
            guard token >= 0 else {
                (out.pointer(as: Float.self) + row * width).update(repeating: 0, count: width)
                continue
            }
            apus_dequantize(
                type, table.rawPointer + Int(token) * rowBytes, Int64(width), out.pointer(as: Float.self) + row * width)
        }
        withExtendedLifetime(table) {}
        return out
    }
}
