import ApusTensor

/// Matrices on their way from files to a GPU: packed ones keep their codes and scales, others become bf16.
struct GPUWeightFiles {
    let stream: CUDAStream
    private let kernels: CUDAQuantisedKernels

    init(stream: CUDAStream) {
        self.stream = stream
        kernels = CUDAQuantisedKernels(stream.device)
    }

    /// Tensors of one width as one matrix, in bf16 where their types differ.
    func matrix(_ parts: [Tensor]) throws -> CUDAWeight {
        let format = CUDAWeightFormat(parts[0].dtype)
        guard format.isQuantised, parts.allSatisfy({ $0.dtype == parts[0].dtype }) else { return try bf16(parts) }
        let weight = try empty(format, rows: parts.reduce(0) { $0 + $1.shape[0] }, width: parts[0].shape[1])
        var first = 0
        for part in parts {
            try kernels.repack(part, .from(first), into: weight.buffer, on: stream)
            first += part.shape[0]
        }
        return weight
    }

    /// Tensors of one width, one after the other: those that follow each other in one format as one matrix.
    func matrices(_ parts: [Tensor]) throws -> [CUDAWeight] {
        var groups: [[Tensor]] = []
        for part in parts {
            if let last = groups.last?.last, CUDAWeightFormat(last.dtype) == CUDAWeightFormat(part.dtype) {
                groups[groups.count - 1].append(part)
            } else {
                groups.append([part])
            }
        }
        return try groups.map(matrix)
    }

    /// 8 rows of one, 8 of the other, and so on.
    func byTurns(_ a: Tensor, _ b: Tensor) throws -> CUDAWeight {
        let (rows, width) = (a.shape[0] + b.shape[0], a.shape[1])
        let format = CUDAWeightFormat(a.dtype)
        guard format.isQuantised, a.dtype == b.dtype else {
            let elements = try GPUDecoderWeights.byTurns(
                GPUDecoderWeights.bf16(a), GPUDecoderWeights.bf16(b), rows: 8 * width)
            return CUDAWeight(try stream.upload(elements), .bf16, rows: rows, width: width)
        }
        let weight = try empty(format, rows: rows, width: width)
        for (first, part) in [(0, a), (8, b)] {
            try kernels.repack(part, .turns(first), into: weight.buffer, on: stream)
        }
        return weight
    }

    /// Tensors of one width as one matrix in bf16.
    func bf16(_ parts: [Tensor]) throws -> CUDAWeight {
        CUDAWeight(
            try stream.upload(parts.flatMap { try GPUDecoderWeights.bf16($0) }), .bf16,
            rows: parts.reduce(0) { $0 + $1.shape[0] }, width: parts[0].shape[1])
    }

    private func empty(_ format: CUDAWeightFormat, rows: Int, width: Int) throws -> CUDAWeight {
        let buffer = try CUDABuffer(byteCount: format.byteCount(rows: rows, width: width), stream: stream)
        try stream.fill(buffer, with: 0)
        return CUDAWeight(buffer, format, rows: rows, width: width)
    }
}
