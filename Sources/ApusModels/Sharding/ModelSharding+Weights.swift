import ApusAttention
import ApusTensor

/// Which part of a weight a rank keeps.
public struct WeightShare: Sendable, Equatable {
    /// How it is cut.
    public enum Cut: Sendable, Equatable {
        /// Not at all: every rank has the whole.
        case none
        /// Rows of the first axis, in this order.
        case rows([Range<Int>])
        /// Columns of the last axis.
        case columns(Range<Int>)
        /// Whole on rank 0, zero elsewhere: what is added to a sum over the ranks once.
        case onFirstRank
    }

    /// The weight of the whole model.
    public let role: TensorRole
    /// The part.
    public let cut: Cut
}

extension ModelSharding {
    /// Where a weight of ``local`` comes from.
    public func share(of role: TensorRole) -> WeightShare {
        switch role {
        case .tokenEmbedding, .head: WeightShare(role: role, cut: .rows([vocabulary(ofRank: rank)]))
        case .finalNorm, .finalNormBias, .score: WeightShare(role: role, cut: .none)
        case .layer(let layer, let tensor): share(layer, tensor)
        }
    }

    private func share(_ layer: Int, _ tensor: LayerTensor) -> WeightShare {
        let (source, cut) = cut(tensor)
        return WeightShare(role: .layer(layer, source), cut: cut)
    }

    private var heads: Range<Int> { geometry.queryHeads(ofRank: rank) }
    private var groups: Range<Int> { geometry.groups(ofRank: rank) }

    private func cut(_ tensor: LayerTensor) -> (LayerTensor, WeightShare.Cut) {
        switch tensor {
        case .attentionNorm, .attentionNormBias, .feedForwardNorm, .feedForwardNormBias, .queryNorm, .keyNorm,
            .rotaryKey,
            .rotaryKeyBias, .router, .routerCorrection:
            (tensor, .none)
        case .outputBias, .downBias: (tensor, .onFirstRank)
        case .query, .queryBias: (tensor, .rows([heads.times(queryWidth)]))
        case .key, .keyBias, .value, .valueBias, .tiedState, .tiedStateBias:
            (tensor, .rows([groups.times(whole.headWidth)]))
        case .fusedQKV, .fusedQKVBias: (tensor, .rows(fusedRows))
        case .output: (tensor, .columns(heads.times(whole.headValueWidth)))
        case .queryDown, .queryDownBias, .queryLatentNorm, .queryUp, .queryUpBias, .latentDown, .latentDownBias,
            .latentNorm, .latentUp, .latentUpBias:
            latentCut(tensor)
        case .gate, .up, .gateBias, .upBias: (tensor, .rows([inner(whole.feedForwardWidth)]))
        case .down: (tensor, .columns(inner(whole.feedForwardWidth)))
        case .expertGate, .expertUp: (tensor, .rows([inner(whole.experts?.width ?? 0)]))
        case .expertDown: (tensor, .columns(inner(whole.experts?.width ?? 0)))
        case .sharedGate, .sharedUp: (tensor, .rows([inner(whole.experts?.sharedWidth ?? 0)]))
        case .sharedDown: (tensor, .columns(inner(whole.experts?.sharedWidth ?? 0)))
        }
    }

    private var queryWidth: Int {
        if case .latent(let latent) = whole.attention { latent.queryWidth } else { whole.headWidth }
    }

    private func inner(_ width: Int) -> Range<Int> { (rank..<rank + 1).times(width / ranks) }

    private var fusedRows: [Range<Int>] {
        let width = whole.headWidth
        if whole.fusedQKV == .perHead { return [heads.times(3 * width)] }
        let (queries, keys) = (whole.queryHeads * width, whole.kvHeads * width)
        return [
            heads.times(width), groups.times(width).shifted(by: queries),
            groups.times(width).shifted(by: queries + keys),
        ]
    }

    private func latentCut(_ tensor: LayerTensor) -> (LayerTensor, WeightShare.Cut) {
        guard case .latent(let latent) = whole.attention else { preconditionFailure("no latent has \(tensor)") }
        let first = groups.lowerBound
        // Heads of this rank inside their own latent head; a latent head that several ranks keep serves a part of its heads.
        let headsOfGroup = whole.queryHeads / latent.latentHeads
        let inside =
            geometry.duplication > 1
            ? heads.shifted(by: -first * headsOfGroup) : 0..<headsOfGroup
        let rankOfLatent = (latent.queryRank ?? 0) / max(latent.queryLatents, 1)
        let splits = latent.splitsQueryLatent
        let states = latent.latentHeads * latent.latentWidth
        let upRows = inside.times(latent.contentWidth + latent.valueWidth)
        return switch tensor {
        case .queryDown, .queryDownBias: (tensor, splits ? .rows([groups.times(rankOfLatent)]) : .none)
        case .queryLatentNorm(let index): (.queryLatentNorm(splits ? first + index : index), .none)
        case .queryUp(let index):
            splits
                ? (.queryUp(first + index), .rows([inside.times(latent.queryWidth)]))
                : (tensor, .rows([heads.times(latent.queryWidth)]))
        case .queryUpBias(let index):
            splits
                ? (.queryUpBias(first + index), .rows([inside.times(latent.queryWidth)]))
                : (tensor, .rows([heads.times(latent.queryWidth)]))
        case .latentDown, .latentDownBias:
            (tensor, .rows([groups.times(latent.latentWidth), states..<states + latent.rotaryWidth]))
        case .latentNorm(let index): (.latentNorm(first + index), .none)
        case .latentUp(let index): (.latentUp(first + index), .rows([upRows]))
        case .latentUpBias(let index): (.latentUpBias(first + index), .rows([upRows]))
        default: preconditionFailure("no latent has \(tensor)")
        }
    }

    /// Cuts a rank's part out of a weight of the whole model.
    ///
    /// Rows of a run are a view, without a copy. Columns of packed weights must begin and end at blocks; where they do not,
    /// the part is expanded to float32.
    public func part(_ tensor: Tensor, _ cut: WeightShare.Cut) throws -> Tensor {
        switch cut {
        case .none: return tensor
        case .onFirstRank:
            if rank == 0 { return tensor }
            let zeros = Tensor(uninitialized: tensor.shape)
            zeros.fillWithZeros()
            return zeros
        case .rows(let ranges):
            if ranges.count == 1 { return tensor.rows(ranges[0]) }
            return tensor.gatheringRows(ranges.flatMap { $0 })
        case .columns(let range):
            let block = tensor.dtype.blockSize
            let isWhole = range.lowerBound % block == 0 && range.count % block == 0
            return (isWhole ? tensor : try tensor.float32()).copyingColumns(range)
        }
    }
}

extension Range where Bound == Int {
    fileprivate func times(_ width: Int) -> Range<Int> { lowerBound * width..<upperBound * width }
    fileprivate func shifted(by offset: Int) -> Range<Int> { lowerBound + offset..<upperBound + offset }
}

extension Tensor {
    /// Columns of a matrix in memory of their own; of packed dtypes whole blocks. Precondition: contiguous.
    fileprivate func copyingColumns(_ range: Range<Int>) -> Tensor {
        var part = shape
        part[-1] = range.count
        let result = Tensor(uninitialized: part, dtype: dtype)
        let (bytes, block) = (dtype.bytesPerBlock, dtype.blockSize)
        let (row, width) = (shape[-1] / block * bytes, range.count / block * bytes)
        let start = range.lowerBound / block * bytes
        for index in 0..<(shape[-1] == 0 ? 0 : shape.count / shape[-1]) {
            (result.rawPointer + index * width).copyMemory(from: rawPointer + index * row + start, byteCount: width)
        }
        withExtendedLifetime(storage) {}
        return result
    }
}
