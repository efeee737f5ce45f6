import ApusTensor

/// The tensors of a converted model: what each is called, what it is, and which weights it is made of.
struct ConversionPlan {
    /// One tensor of the target: a weight, or several stacked.
    struct Output {
        let name: String
        let roles: [TensorRole]
        let shape: Shape
        let dtype: DType
    }

    /// The tensors, in the order of use.
    let outputs: [Output]
    private let checkpoint: any Checkpoint
    private let order: RowOrder
    private let backend: CPUBackend
    private let indices: [String: Int]

    /// A plan; `type` says what a weight becomes.
    init(
        _ checkpoint: any Checkpoint, to target: DecoderConfiguration, names: TensorNames, backend: CPUBackend,
        type: (TensorRole, Tensor) throws -> DType
    ) throws {
        self.checkpoint = checkpoint
        self.backend = backend
        order = RowOrder(source: checkpoint.configuration, target: target)
        var outputs: [Output] = []
        var indices: [String: Int] = [:]
        for role in target.tensorRoles {
            let name = names.name(of: role)
            if names.slice(of: role) != nil, let index = indices[name] {
                outputs[index] = outputs[index].adding(role)
                continue
            }
            var shape = target.shape(of: role)
            let dtype = try type(role, try checkpoint.tensor(role))
            if names.slice(of: role) != nil { shape = Shape([1] + shape.dims) }
            indices[name] = outputs.count
            outputs.append(Output(name: name, roles: [role], shape: shape, dtype: dtype))
        }
        self.outputs = outputs
        self.indices = indices
    }

    /// The tensor of this name.
    /// - Throws: ``ModelFileError``, ``TensorError``.
    func tensor(named name: String) throws -> Tensor {
        guard let index = indices[name] else { throw ModelFileError.missingTensor(file: checkpoint.name, tensor: name) }
        let output = outputs[index]
        if output.roles.count == 1 && output.shape.rank <= 2 { return try weight(output.roles[0], output.dtype) }
        let stacked = Tensor(uninitialized: output.shape, dtype: output.dtype)
        var offset = 0
        for role in output.roles {
            let part = try weight(role, output.dtype)
            part.withContiguousBytes { bytes in
                UnsafeMutableRawBufferPointer(start: stacked.rawPointer + offset, count: bytes.count).copyMemory(
                    from: bytes)
            }
            offset += part.byteCount
        }
        return stacked
    }

    private func weight(_ role: TensorRole, _ dtype: DType) throws -> Tensor {
        let ordered = order.apply(try checkpoint.finiteTensor(role), role)
        let converted = try ordered.converted(to: dtype, backend: backend)
        if let element = converted.firstNotFinite() {
            throw ModelFileError.tensorDType(
                file: checkpoint.name, tensor: checkpoint.name(of: role),
                expected: "a dtype that holds every element", found: "\(dtype), which cannot hold element \(element)")
        }
        return converted
    }
}

extension ConversionPlan.Output {
    /// The same with one more weight stacked on the first axis.
    fileprivate func adding(_ role: TensorRole) -> ConversionPlan.Output {
        var extents = shape
        extents[0] += 1
        return ConversionPlan.Output(name: name, roles: roles + [role], shape: extents, dtype: dtype)
    }
}
