import ApusTensor

/// Mixtures of experts: the router and the choice on the GPU, each expert's rows together, in steps and prompts.
extension GPUDecoder {
    /// The products of the experts of a layer.
    private func products(
        _ experts: GPUDecoderWeights.Experts, _ configuration: ExpertConfiguration, rows: Int, height: Int,
        parts: Int, areTall: Bool
    ) -> (gateUp: CUDARowProduct, down: CUDARowProduct) {
        let chunks = CUDARowProduct.Experts(
            count: configuration.count, chunks: configuration.chunks(rows: rows, height: height), areTall: areTall)
        func product(_ weight: CUDAWeight, _ epilogue: CUDARowProduct.Epilogue, _ parts: Int) -> CUDARowProduct {
            CUDARowProduct(
                width: weight.width, outputs: weight.rows, rows: height, epilogue: epilogue, inputParts: parts,
                format: weight.format, experts: chunks, multiprocessors: stream.device.multiprocessorCount)
        }
        return (product(experts.gateUp, .swiglu, parts), product(experts.down, .store, 0))
    }

    /// The products of a step's experts.
    func expertProducts(rows: Int, squareParts: Int) -> Set<CUDARowProduct> {
        guard let configuration = shape.experts else { return [] }
        var all: Set<CUDARowProduct> = []
        for experts in weights.layers.compactMap(\.experts) {
            let (gateUp, down) = products(
                experts, configuration, rows: rows, height: configuration.stepHeight(rows: rows), parts: squareParts,
                areTall: false)
            all.formUnion([gateUp, down])
        }
        return all
    }

    /// Queues the experts of a step, beside the shared ones, and begins the next norm.
    func queueExperts(
        _ experts: GPUDecoderWeights.Experts, shared: GPUDecoderWeights.FeedForward?, rows: Int, squareParts: Int,
        lengths: UInt64, nextNorm: CUDABuffer
    ) throws {
        guard let (configuration, kernels, memory) = expertParts else { return }
        let height = configuration.stepHeight(rows: rows)
        try kernels.route(
            experts, configuration, residual: self.memory.residual, width: shape.width, rows: rows, lengths: lengths,
            height: height, epsilon: Float(self.configuration.normEpsilon), memory: memory, on: stream)
        let pairs = rows * configuration.expertsPerToken
        let (gateUp, down) = products(
            experts, configuration, rows: rows, height: height, parts: squareParts, areTall: false)
        var operands = CUDARowProduct.Operands(
            x: self.memory.normed.address, weight: experts.gateUp.address, rows: pairs)
        operands.squares = self.memory.squares.address
        operands.epsilon = Float(self.configuration.normEpsilon)
        operands.chunks = memory.chunks.address
        operands.tokens = memory.tokens.address
        operands.out = memory.inner.address
        try gateUp.launch(loadedProducts.kernel(gateUp), operands, on: stream)
        // They read the same norm, over which the product that follows writes the next one.
        if let shared { try queueGateUp(shared, rows: rows, squareParts: squareParts) }
        try multiply(experts, by: down, pairs: pairs, memory)
        if let shared {
            try add(
                .feedForward, self.memory.inner.address, shared.down, bias: shared.downBias, rows: rows,
                nextNorm: nextNorm)
        }
        try kernels.combine(
            count: configuration.expertsPerToken, rows: rows, width: shape.width, lengths: lengths, nextNorm: nextNorm,
            squareParts: squareParts, decoder: self.memory, memory: memory, on: stream)
    }

    /// Queues the experts of a chunk of prompts, whose rows have been normalised.
    func runExperts(_ experts: GPUDecoderWeights.Experts, nextNorm: CUDABuffer, tokens: Int) throws {
        guard let (configuration, kernels, memory) = expertParts else { return }
        let (height, pairs) = (ExpertConfiguration.promptHeight, tokens * configuration.expertsPerToken)
        try kernels.route(
            experts, configuration, residual: self.memory.residual, width: shape.width, rows: tokens, lengths: 0,
            height: height, epsilon: Float(self.configuration.normEpsilon), memory: memory, on: stream)
        try kernels.gather(self.memory.normed, pairs: pairs, width: shape.width, memory: memory, on: stream)
        let (gateUp, down) = products(
            experts, configuration, rows: tokens, height: height, parts: 0, areTall: true)
        var operands = CUDARowProduct.Operands(
            x: memory.gathered.address, weight: experts.gateUp.address, rows: pairs)
        operands.chunks = memory.chunks.address
        operands.out = memory.inner.address
        try gateUp.launch(loadedProducts.kernel(gateUp), operands, on: stream)
        try multiply(experts, by: down, pairs: pairs, memory)
        try kernels.combine(
            count: configuration.expertsPerToken, rows: tokens, width: shape.width, lengths: 0, nextNorm: nextNorm,
            squareParts: 1, decoder: self.memory, memory: memory, on: stream)
    }

    private func multiply(
        _ experts: GPUDecoderWeights.Experts, by down: CUDARowProduct, pairs: Int, _ memory: GPUExpertMemory
    ) throws {
        var operands = CUDARowProduct.Operands(x: memory.inner.address, weight: experts.down.address, rows: pairs)
        operands.chunks = memory.chunks.address
        operands.out = memory.outputs.address
        try down.launch(loadedProducts.kernel(down), operands, on: stream)
    }

    private var expertParts: (ExpertConfiguration, GPUExpertKernels, GPUExpertMemory)? {
        guard let configuration = shape.experts, let kernels = kernels.experts, let memory = memory.experts else {
            return nil
        }
        return (configuration, kernels, memory)
    }
}
