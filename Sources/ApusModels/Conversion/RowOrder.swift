import ApusAttention
import ApusTensor

/// How the rows of projections move between formats that pair rotated elements otherwise, or lay out fused projections
/// otherwise.
struct RowOrder {
    let source: DecoderConfiguration
    let target: DecoderConfiguration

    /// The weight with its rows in the target's order; the same tensor where nothing moves.
    func apply(_ tensor: Tensor, _ role: TensorRole) -> Tensor {
        guard case .layer(let layer, let part) = role, let rows = rows(part, layer: layer) else { return tensor }
        return tensor.gatheringRows(rows)
    }

    /// Of each target row, which source row it is; nil where none moves.
    private func rows(_ part: LayerTensor, layer: Int) -> [Int]? {
        switch part {
        case .fusedQKV, .fusedQKVBias: return fusedRows()
        case .query, .queryBias:
            return rotated(heads: source.queryHeads, layer: layer)
        case .key, .keyBias: return rotated(heads: source.kvHeads, layer: layer)
        case .rotaryKey, .rotaryKeyBias: return rotated(heads: 1, width: source.rotary.width, from: 0)
        case .queryUp, .queryUpBias:
            guard case .latent(let latent) = source.attention else { return nil }
            return rotated(
                heads: source.queryHeads / max(latent.queryLatents, 1), width: latent.queryWidth,
                from: latent.contentWidth)
        case .latentDown, .latentDownBias:
            guard case .latent(let latent) = source.attention else { return nil }
            let states = latent.latentHeads * latent.latentWidth
            return rotated(heads: 1, width: states + latent.rotaryWidth, from: states)
        default: return nil
        }
    }

    private func rotated(heads: Int, layer: Int) -> [Int]? {
        switch source.attention {
        case .grouped: rotated(heads: heads, width: source.headWidth, from: 0)
        case .tied(let rotaryWidth):
            rotated(heads: heads, width: source.headWidth, from: source.headWidth - rotaryWidth)
        case .latent(let latent): rotated(heads: heads, width: latent.queryWidth, from: latent.contentWidth)
        }
    }

    /// Rows of `heads` heads whose elements from `start` on are rotated.
    private func rotated(heads: Int, width: Int, from start: Int) -> [Int]? {
        let (from, to) = (source.rotary.style, target.rotary.style)
        guard from != to else { return nil }
        let half = source.rotary.width / 2
        var order = Array(0..<width)
        for pair in 0..<half {
            // Element pairs (2 i, 2 i + 1) are (i, i + half) in the other style.
            let (first, second) = (start + pair, start + pair + half)
            if to == .interleaved {
                order[start + 2 * pair] = first
                order[start + 2 * pair + 1] = second
            } else {
                order[first] = start + 2 * pair
                order[second] = start + 2 * pair + 1
            }
        }
        return (0..<heads).flatMap { head in order.map { head * width + $0 } }
    }

    private func fusedRows() -> [Int]? {
        guard let from = source.fusedQKV, let to = target.fusedQKV, from != to else { return nil }
        let (heads, width) = (source.queryHeads, source.headWidth)
        // Row of (part, head) in each layout: [head][part] or [part][head].
        func starts(_ layout: DecoderConfiguration.FusedQKV) -> [Int] {
            (0..<3 * heads).map { index in
                let (outer, inner) = layout == .perHead ? (index / 3, index % 3) : (index % heads, index / heads)
                return from == .perHead ? outer * 3 + inner : inner * heads + outer
            }
        }
        return starts(to).flatMap { $0 * width..<($0 + 1) * width }
    }
}
