import ApusAttention
import ApusTensor

extension Decoder {
    /// What the layers of a step over `batch` share.
    /// - Throws: cache errors when the workspace of latent attention cannot be had.
    func makeStep(_ batch: CacheBatch, _ cache: PagedCache, _ latentReading: LatentReading?) throws -> AttentionStep {
        var workspace: LatentWorkspace?
        if case .latent(let widths) = local.attention {
            workspace = try LatentWorkspace(
                queryHeads: local.queryHeads, widths: widths, backend: backend, blockTokens: latentBlockTokens)
        }
        return AttentionStep(
            batch: batch, cache: cache, rotary: rows(configuration.rotary, batch),
            slidingRotary: configuration.slidingRotary.map { rows($0, batch) }, latentWorkspace: workspace,
            latentReading: latentReading)
    }

    /// The rotary rows of a step. LongRoPE rotates a sequence's new tokens by the length that it has with them.
    private func rows(_ rotary: RotaryConfiguration, _ batch: CacheBatch) -> RotaryRows {
        let rows = RotaryRows(rotary.embedding, positions: batch.positions)
        guard case .longRope(let short, let long, let original, _) = rotary.scaling, short != long,
            let longest = batch.lengths.max(), longest > original
        else { return rows }
        let longRows = RotaryRows(rotary.embedding(length: longest), positions: batch.positions)
        for (sequence, length) in batch.lengths.enumerated() where length > original {
            let range = batch.queryOffsets[sequence]..<batch.queryOffsets[sequence + 1]
            rows.replaceRows(range, by: longRows)
        }
        return rows
    }
}
