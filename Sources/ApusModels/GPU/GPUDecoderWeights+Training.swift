import ApusAttention
import ApusTensor

extension GPUDecoderWeights {
    /// Queues copies of a model's values on the stream that it is trained on; matrices are rounded to bf16.
    func take(_ model: TrainableDecoder, by operations: CUDAOperations) throws {
        let configuration = model.configuration
        func source(_ role: TensorRole) throws -> (address: UInt64, shape: Shape) {
            let value = model.weights[role]!.value
            guard let memory = value.storage.deviceMemory else {
                throw CUDAError.launch(
                    kernel: "any", problem: "\(model.names.name(of: role)): expected a tensor on a GPU, found none")
            }
            return (memory.address + UInt64(value.byteOffset), value.shape)
        }
        func matrices(_ roles: [TensorRole], to target: CUDABuffer) throws {
            var place = CUDAArray(target.address, .bf16)
            for role in roles {
                let (address, shape) = try source(role)
                try operations.convert(CUDAArray(address, .f32), to: place, count: shape.count)
                place = place.advanced(by: shape.count)
            }
        }
        func vectors(_ roles: [TensorRole], to target: CUDABuffer?) throws {
            guard var place = target?.address else { return }
            for role in roles {
                let (address, shape) = try source(role)
                try operations.copy(byteCount: shape.count * 4, from: address, to: place)
                place += UInt64(shape.count * 4)
            }
        }
        /// Biases of the rows of the first product; 0 for parts that have none.
        func firstBiases(_ layer: Int, to target: CUDABuffer?) throws {
            guard var place = target?.address else { return }
            for part in configuration.firstProjections {
                let rows = try source(.layer(layer, part.weight)).shape[0]
                if let bias = part.bias {
                    try operations.copy(
                        byteCount: rows * 4, from: source(.layer(layer, bias)).address, to: place)
                } else {
                    try operations.zero(byteCount: rows * 4, at: place)
                }
                place += UInt64(rows * 4)
            }
        }
        /// A latent head after the other: of each query head the rows of [content of the key | value] are cut apart, and those
        /// of keys transposed.
        func latents(_ layer: Int, _ widths: LatentConfiguration, to target: Latent) throws {
            func roles(_ count: Int, _ part: (Int) -> LayerTensor) -> [TensorRole] {
                (0..<count).map { .layer(layer, part($0)) }
            }
            let heads = configuration.queryHeads / widths.latentHeads
            let content = widths.contentWidth * widths.latentWidth
            let value = widths.valueWidth * widths.latentWidth
            let biases = widths.contentWidth + widths.valueWidth
            try vectors(roles(widths.latentHeads) { .latentNorm($0) }, to: target.norm)
            for latent in 0..<widths.latentHeads {
                let first = latent * heads
                let up = try source(.layer(layer, .latentUp(latent))).address
                try operations.transpose(
                    up, stride: content + value, to: target.keyUp.address + UInt64(first * content * 2),
                    matrices: heads, rows: widths.contentWidth, columns: widths.latentWidth)
                try operations.copyRows(
                    up + UInt64(content * 4), stride: content + value,
                    to: CUDAArray(target.valueUp.address, .bf16).advanced(by: first * value), stride: value,
                    rows: heads, columns: value)
                guard let target = target.valueBias else { continue }
                let bias = try source(.layer(layer, .latentUpBias(latent))).address
                try operations.copyRows(
                    bias + UInt64(widths.contentWidth * 4), stride: biases,
                    to: CUDAArray(target.address, .f32).advanced(by: first * widths.valueWidth),
                    stride: widths.valueWidth, rows: heads, columns: widths.valueWidth)
            }
            guard let queryUp = target.queryUp else { return }
            try vectors(roles(widths.queryLatents) { .queryLatentNorm($0) }, to: target.queryNorm)
            try matrices(roles(widths.queryLatents) { .queryUp($0) }, to: queryUp.buffer)
            if widths.hasUpBias { try vectors(roles(widths.queryLatents) { .queryUpBias($0) }, to: target.queryUpBias) }
        }
        try matrices([.tokenEmbedding], to: embedding.buffer)
        if !configuration.tiesEmbeddings { try matrices([.head], to: head.buffer) }
        try vectors([.finalNorm], to: finalNorm)
        // Of gate and up 8 rows are a row here.
        let turn = 8 * configuration.hiddenSize
        for (index, layer) in layers.enumerated() {
            func role(_ part: LayerTensor) -> TensorRole { .layer(index, part) }
            try matrices(configuration.firstProjections.map { role($0.weight) }, to: layer.projection[0].buffer)
            try firstBiases(index, to: layer.projectionBias)
            if case .latent(let widths) = configuration.attention, let latent = layer.latent {
                try latents(index, widths, to: latent)
            }
            try matrices([role(.output)], to: layer.output.buffer)
            try vectors([role(.outputBias)], to: layer.outputBias)
            // Models with experts are not trained.
            guard let feedForward = layer.feedForward else { continue }
            for (place, part) in [LayerTensor.gate, .up].enumerated() {
                try operations.copyRows(
                    try source(role(part)).address, stride: turn,
                    to: CUDAArray(feedForward.gateUp.address, .bf16).advanced(by: place * turn), stride: 2 * turn,
                    rows: configuration.feedForwardWidth / 8, columns: turn)
            }
            try matrices([role(.down)], to: feedForward.down.buffer)
            try vectors([role(.attentionNorm)], to: layer.attentionNorm)
            try vectors([role(.feedForwardNorm)], to: layer.feedForwardNorm)
            try vectors([role(.queryNorm)], to: layer.queryNorm)
            try vectors([role(.keyNorm)], to: layer.keyNorm)
        }
    }
}
