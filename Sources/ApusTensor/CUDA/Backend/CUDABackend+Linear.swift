/// A weight in a GPU's memory: float32 or bf16.
final class CUDAPreparedWeight: PreparedWeight {
    let values: Tensor
    let dtype: DType
    private let isOwned: Bool

    init(_ values: Tensor, dtype: DType, isOwned: Bool) {
        self.values = values
        self.dtype = dtype
        self.isOwned = isOwned
    }

    var outputs: Int { values.shape[0] }
    var inputs: Int { values.shape[1] }
    var ownedBytes: Int { isOwned ? values.byteCount : 0 }
}

extension CUDABackend {
    /// See ``Backend/prepare(_:)``: float32 and bf16 as they are, other dtypes in float32.
    public func prepare(_ weight: Tensor) throws -> any PreparedWeight {
        guard weight.shape.rank == 2, weight.isContiguous else {
            throw TensorError.shape(
                operation: "prepare", expected: "a contiguous [outputs, inputs]", found: "\(weight.shape)")
        }
        let values = weight.dtype == .bf16 || weight.device != .cpu ? weight : try weight.float32()
        let copy = copyToDevice(values)
        try check()
        return CUDAPreparedWeight(copy, dtype: weight.dtype, isOwned: true)
    }

    /// See ``Backend/prepareInPlace(_:)``: a weight in main memory is copied.
    public func prepareInPlace(_ weight: Tensor) throws -> any PreparedWeight {
        guard weight.device == device, weight.shape.rank == 2, weight.isContiguous,
            weight.dtype == .f32 || weight.dtype == .bf16
        else { return try prepare(weight) }
        return CUDAPreparedWeight(weight, dtype: weight.dtype, isOwned: false)
    }

    /// See ``Backend/exactRows(weights:)``.
    public func exactRows(weights: DType) -> Int { weights == .bf16 ? 0 : Int.max }

    private func values(_ weight: any PreparedWeight) -> Tensor {
        guard let weight = weight as? CUDAPreparedWeight else { preconditionFailure("weight of another backend") }
        return weight.values
    }

    private func product(_ x: Tensor, _ term: LinearTerm, into result: MatrixView, accumulate: Bool) {
        let weight = values(term.weight)
        if let bias = term.bias { fill(result, withRow: bias) }
        let operand = x.dtype == weight.dtype ? x : converted(x, to: weight.dtype)
        multiply(
            MatrixView(operand), MatrixView(weight, transposed: true), into: result,
            accumulate: accumulate || term.bias != nil)
        withExtendedLifetime(operand) {}
    }

    /// See ``Backend/linear(_:_:)``.
    public func linear(_ x: Tensor, _ terms: [LinearTerm]) -> [Tensor] {
        let x = onDevice(x)
        return terms.map { term in
            precondition(term.weight.inputs == x.shape[-1], "linear: \(x.shape) for \(term.weight.inputs) inputs")
            let result = makeTensor(Self.shape(x, width: term.weight.outputs), .f32)
            product(x, term, into: MatrixView(result), accumulate: false)
            return result
        }
    }

    /// See ``Backend/linear(_:_:addingTo:)``.
    public func linear(_ x: Tensor, _ term: LinearTerm, addingTo sum: Tensor) {
        precondition(sum.isContiguous && sum.shape[-1] == term.weight.outputs, "linear: sum \(sum.shape)")
        if term.bias != nil {
            add(linear(x, [term])[0], to: sum)
        } else {
            product(onDevice(x), term, into: MatrixView(sum), accumulate: true)
        }
    }

    /// See ``Backend/linearPerHead(_:_:into:)``.
    public func linearPerHead(_ x: Tensor, _ terms: [LinearTerm], into out: Tensor) {
        let (tokens, heads) = (x.shape[0], terms.count)
        precondition(
            x.dtype == .f32 && out.dtype == .f32 && x.hasContiguousRows && out.hasContiguousRows
                && x.shape == [tokens, heads, terms[0].weight.inputs]
                && out.shape == [tokens, heads, terms[0].weight.outputs], "linearPerHead: \(x.shape) to \(out.shape)")
        for (head, term) in terms.enumerated() {
            let weight = values(term.weight)
            let operand = makeTensor([tokens, term.weight.inputs], weight.dtype)
            perform {
                // A head's rows side by side, in the weight's dtype.
                try operations.copyRows(
                    array(x).advanced(by: head * x.strides[1]).address, stride: x.strides[0], to: array(operand),
                    stride: term.weight.inputs, rows: tokens, columns: term.weight.inputs)
                let target = try array(out).advanced(by: head * out.strides[1])
                if let bias = term.bias {
                    try operations.copyRows(
                        address(bias), stride: 0, to: target, stride: out.strides[0], rows: tokens,
                        columns: term.weight.outputs)
                }
                try operations.multiply(
                    CUDAOperations.Matrix(array(operand), rows: tokens, columns: term.weight.inputs),
                    CUDAOperations.Matrix(
                        array(weight), rows: term.weight.outputs, columns: term.weight.inputs, isTransposed: true),
                    into: CUDAOperations.Matrix(
                        target, rows: tokens, columns: term.weight.outputs, stride: out.strides[0]),
                    accumulate: term.bias != nil)
            }
            withExtendedLifetime(operand) {}
        }
    }

    /// See ``Backend/linearSwiGLU(_:gate:up:)``.
    public func linearSwiGLU(_ x: Tensor, gate: any PreparedWeight, up: any PreparedWeight) -> Tensor {
        let both = linear(x, [LinearTerm(gate), LinearTerm(up)])
        return swigluForward(gate: MatrixView(both[0]), up: MatrixView(both[1]), output: .f32)
    }

    /// See ``Backend/embedding(_:table:)``.
    public func embedding(_ tokens: [Int32], table: Tensor) -> Tensor {
        precondition(table.shape.rank == 2 && table.isContiguous, "embedding table \(table.shape)")
        precondition(
            tokens.allSatisfy { $0 >= -1 && Int($0) < table.shape[0] }, "a token outside the \(table.shape[0]) rows")
        let table = onDevice(table)
        return gathered(tokens, of: table, .f32)
    }

    /// See ``DifferentiableBackend/gatherRows(_:_:)``.
    public func gatherRows(_ x: Tensor, _ rows: [Int32]) -> Tensor { gathered(rows, of: onDevice(x), x.dtype) }

    private func gathered(_ rows: [Int32], of table: Tensor, _ dtype: DType) -> Tensor {
        let result = makeTensor([rows.count, table.shape[1]], dtype)
        perform {
            let numbers = try stream.upload(rows)
            try operations.gatherRows(
                numbers.address, of: array(table), tableRows: table.shape[0], to: array(result), count: rows.count,
                width: table.shape[1])
            withExtendedLifetime(numbers) {}
        }
        withExtendedLifetime(table) {}
        return result
    }
}
