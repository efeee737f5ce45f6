import ApusLayers
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Picks the experts of each token (DeepSeek-V2, arXiv 2405.04434, section 2.2; DeepSeek-V3, arXiv 2412.19437, section
/// 2.1.2). Logits are float32 products whatever the weights of the model are.
struct ExpertRouter: Sendable {
    /// An expert and the weight of its output.
    struct Choice: Sendable {
        let expert: Int
        let weight: Float
    }

    let logits: Linear
    /// Added to the affinities for the choice alone.
    let correction: [Float]?
    let configuration: ExpertConfiguration

    /// The experts of each row of `x` [T, hidden], by their index.
    func callAsFunction(_ x: Tensor) -> [[Choice]] {
        let all = logits(x)
        let count = configuration.count
        return all.withElements(of: Float.self) { values in
            (0..<x.shape[0]).map { choose(Array(values[($0 * count)..<(($0 + 1) * count)])) }
        }
    }

    private func choose(_ logits: [Float]) -> [Choice] {
        let affinities = affinities(logits)
        var candidates = affinities
        if let correction { for index in candidates.indices { candidates[index] += correction[index] } }
        switch configuration.selection {
        case .greedy: break
        case .groupLimited(let groups, let kept):
            // Experts of other groups count as zero, not as absent: the affinities are positive.
            restrict(&candidates, groups: groups, kept: kept, best: 1, to: 0)
        case .corrected(let groups, let kept):
            restrict(&candidates, groups: groups, kept: kept, best: 2, to: -.infinity)
        }
        let chosen = Self.largest(candidates, configuration.expertsPerToken).sorted()
        var scale = Float(configuration.weightScale)
        if configuration.normalisesWeights {
            scale /= chosen.reduce(Float(0)) { $0 + affinities[$1] } + 1e-20
        }
        return chosen.map { Choice(expert: $0, weight: affinities[$0] * scale) }
    }

    private func affinities(_ logits: [Float]) -> [Float] {
        switch configuration.scoring {
        case .sigmoid: return logits.map { 1 / (1 + exp(-$0)) }
        case .softmax:
            let most = logits.max() ?? 0
            let powers = logits.map { exp($0 - most) }
            let sum = powers.reduce(0, +)
            return powers.map { $0 / sum }
        }
    }

    /// Sets the candidates outside the `kept` groups whose `best` largest sum highest to `excluded`.
    private func restrict(_ candidates: inout [Float], groups: Int, kept: Int, best: Int, to excluded: Float) {
        let size = candidates.count / groups
        let scores = (0..<groups).map { group -> Float in
            let members = Array(candidates[(group * size)..<((group + 1) * size)])
            return Self.largest(members, min(best, size)).reduce(0) { $0 + members[$1] }
        }
        let stay = Set(Self.largest(scores, kept))
        for group in 0..<groups where !stay.contains(group) {
            for index in (group * size)..<((group + 1) * size) { candidates[index] = excluded }
        }
    }

    /// Indices of the `count` largest values; of equal ones the first.
    private static func largest(_ values: [Float], _ count: Int) -> [Int] {
        var indices: [Int] = []
        indices.reserveCapacity(count + 1)
        for index in values.indices {
            if indices.count == count, values[index] <= values[indices[count - 1]] { continue }
            let place = indices.firstIndex { values[$0] < values[index] } ?? indices.count
            indices.insert(index, at: place)
            if indices.count > count { indices.removeLast() }
        }
        return indices
    }
}
