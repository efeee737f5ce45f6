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

    private func empty(_ format: CUDAWeightFormat, rows: Int, width: Int, count: Int = 1) throws -> CUDAWeight {
        let buffer = try CUDABuffer(byteCount: format.byteCount(rows: rows, width: width) * count, stream: stream)
        try stream.fill(buffer, with: 0)
        return CUDAWeight(buffer, format, rows: rows, width: width)
    }
}

// MARK: Feed-forwards

extension GPUWeightFiles {
    /// A layer's dense feed-forward or its shared experts; nil without.
    func feedForward(_ loader: DecoderLoader, layer: Int) throws -> GPUDecoderWeights.FeedForward? {
        let model = loader.configuration
        func tensor(_ part: LayerTensor) throws -> Tensor { try loader.tensor(layer, part) }
        func floats(_ part: LayerTensor) throws -> [Float] { try tensor(part).float32().floats }
        if model.hasExperts(layer: layer) {
            guard let experts = model.experts, experts.sharedWidth > 0 else { return nil }
            return GPUDecoderWeights.FeedForward(
                gateUp: try byTurns(tensor(.sharedGate), tensor(.sharedUp)), gateUpBias: nil,
                down: try matrix([tensor(.sharedDown)]), downBias: nil)
        }
        let hasBias = model.feedForwardBias
        return GPUDecoderWeights.FeedForward(
            gateUp: try byTurns(tensor(.gate), tensor(.up)),
            gateUpBias: hasBias
                ? try stream.upload(GPUDecoderWeights.byTurns(floats(.gateBias), floats(.upBias), rows: 8)) : nil,
            down: try matrix([tensor(.down)]), downBias: hasBias ? try stream.upload(floats(.downBias)) : nil)
    }

    /// A layer's routed experts; nil without.
    func experts(_ loader: DecoderLoader, layer: Int) throws -> GPUDecoderWeights.Experts? {
        guard loader.configuration.hasExperts(layer: layer), let experts = loader.configuration.experts else {
            return nil
        }
        func tensor(_ part: LayerTensor) throws -> Tensor { try loader.tensor(layer, part) }
        let (norm, router) = (
            try tensor(.feedForwardNorm).float32().floats, try tensor(.router).float32().floats
        )
        let all = 0..<experts.count
        return GPUDecoderWeights.Experts(
            router: try stream.upload(router.enumerated().map { $1 * norm[$0 % norm.count] }),
            correction: experts.hasCorrection
                ? try stream.upload(tensor(.routerCorrection).float32().floats) : nil,
            gateUp: try stacked(
                all.map { [try tensor(.expertGate($0)), try tensor(.expertUp($0))] }, byTurns: true),
            down: try stacked(all.map { [try tensor(.expertDown($0))] }, byTurns: false))
    }

    /// A matrix of each expert, or two by turns of 8 rows, one after the other; in bf16 where their types differ.
    private func stacked(_ experts: [[Tensor]], byTurns: Bool) throws -> CUDAWeight {
        let (first, parts) = (experts[0][0], experts.joined())
        var format = CUDAWeightFormat(first.dtype)
        if !parts.allSatisfy({ CUDAWeightFormat($0.dtype) == format }) { format = .bf16 }
        let weight = try empty(
            format, rows: experts[0].reduce(0) { $0 + $1.shape[0] }, width: first.shape[1], count: experts.count)
        for (index, parts) in experts.enumerated() {
            let offset = index * weight.byteCount
            guard format.isQuantised else {
                let rows = try parts.map { try GPUDecoderWeights.bf16($0) }
                let elements =
                    byTurns ? GPUDecoderWeights.byTurns(rows[0], rows[1], rows: 8 * weight.width) : rows[0]
                let staged = try stream.upload(elements)
                try stream.copy(weight.byteCount, from: staged, at: 0, to: weight.buffer, at: offset)
                continue
            }
            for (place, part) in parts.enumerated() {
                try kernels.repack(
                    part, byTurns ? .turns(8 * place) : .from(0), into: weight.buffer, at: offset, on: stream)
            }
        }
        return weight
    }
}
