import ApusTensor

/// Which elements several ranks have, and how the whole comes out of the parts.
extension ModelSharding {
    /// Rows of a weight of ``local`` that a number of ranks have.
    struct Copies: Equatable {
        /// Rows of the first axis.
        var rows: Range<Int>
        /// How many ranks have them: `ranks` or ``ShardedGeometry/duplication``, or 1.
        var count: Int
    }

    /// How often the rows of a weight exist.
    func copies(of role: TensorRole) -> [Copies] {
        let rows = local.shape(of: role)[0]
        let cut = share(of: role).cut
        if case .layer(_, let tensor) = role {
            switch tensor {
            case .latentDown, .latentDownBias:
                let states = rows - local.rotary.width
                return [
                    Copies(rows: 0..<states, count: geometry.duplication), Copies(rows: states..<rows, count: ranks),
                ]
            case .key, .keyBias, .value, .valueBias, .tiedState, .tiedStateBias:
                return [Copies(rows: 0..<rows, count: geometry.duplication)]
            case .latentNorm: return [Copies(rows: 0..<rows, count: geometry.duplication)]
            case .queryLatentNorm, .queryDown, .queryDownBias:
                return [Copies(rows: 0..<rows, count: splitsQueryLatent ? geometry.duplication : ranks)]
            default: break
            }
        }
        return [Copies(rows: 0..<rows, count: cut == .none ? ranks : 1)]
    }

    private var splitsQueryLatent: Bool {
        if case .latent(let latent) = whole.attention { latent.splitsQueryLatent } else { false }
    }

    /// Whether each rank computes a part only of a weight's gradient where several have the weight. The norms of the residual
    /// stream, which stand before the cut, have the whole gradient on every rank.
    func hasPartialGradient(_ role: TensorRole) -> Bool {
        guard case .layer(_, let tensor) = role else { return false }
        switch tensor {
        case .attentionNorm, .feedForwardNorm, .attentionNormBias, .feedForwardNormBias: return false
        default: return copies(of: role).contains { $0.count > 1 }
        }
    }

    /// The parts that make up each weight of the whole model, none of them twice: which rank has it, as which of its weights.
    func parts() throws -> [TensorRole: [(rank: Int, role: TensorRole, cut: WeightShare.Cut)]] {
        var result: [TensorRole: [(rank: Int, role: TensorRole, cut: WeightShare.Cut)]] = [:]
        for rank in 0..<ranks {
            let other = try ModelSharding(whole, rank: rank, ranks: ranks)
            for role in other.local.tensorRoles {
                let share = other.share(of: role)
                let known = result[share.role] ?? []
                if known.contains(where: { $0.cut == share.cut }) { continue }
                result[share.role] = known + [(rank, role, share.cut)]
            }
        }
        return result
    }

    /// Puts a part where it belongs in the whole; both float32.
    static func place(_ part: Tensor, _ cut: WeightShare.Cut, into whole: Tensor) {
        let (source, target) = (part.pointer(as: Float.self), whole.pointer(as: Float.self))
        let width = whole.shape[0] == 0 ? 0 : whole.count / whole.shape[0]
        switch cut {
        case .none, .onFirstRank: target.update(from: source, count: whole.count)
        case .rows(let ranges):
            var row = 0
            for range in ranges {
                (target + range.lowerBound * width).update(from: source + row * width, count: range.count * width)
                row += range.count
            }
        case .columns(let range):
            for row in 0..<whole.shape[0] {
                (target + row * width + range.lowerBound).update(from: source + row * range.count, count: range.count)
            }
        }
        withExtendedLifetime((part.storage, whole.storage)) {}
    }
}
