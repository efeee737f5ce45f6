import ApusLayers
import ApusTensor

/// Routed and shared experts in place of a feed-forward: each routed expert runs once, over the tokens that chose it.
struct MixtureOfExperts: Sendable {
    /// One routed expert, a gated feed-forward.
    struct Expert: Sendable {
        let gate: any PreparedWeight
        let up: any PreparedWeight
        let down: Linear
    }

    let router: ExpertRouter
    let experts: [Expert]
    /// The shared experts, as one feed-forward.
    let shared: Expert?
    let backend: any Backend

    /// A part of an expert's output.
    private struct Contribution {
        let output: Tensor
        let row: Int
        let weight: Float
    }

    /// Adds the output for `x` [T, hidden] to `sum`.
    func callAsFunction(_ x: Tensor, addingTo sum: Tensor) {
        let choices = router(x)
        var tokens: [Int: [(token: Int, weight: Float)]] = [:]
        for (token, chosen) in choices.enumerated() {
            for choice in chosen { tokens[choice.expert, default: []].append((token, choice.weight)) }
        }
        var parts = [[Contribution]](repeating: [], count: x.shape[0])
        for (expert, visitors) in tokens.sorted(by: { $0.key < $1.key }) {
            let input = visitors.count == x.shape[0] ? x : x.gatheringRows(visitors.map(\.token))
            let output = run(experts[expert], input)
            for (row, visitor) in visitors.enumerated() {
                parts[visitor.token].append(Contribution(output: output, row: row, weight: visitor.weight))
            }
        }
        combine(parts, into: sum)
        if let shared {
            shared.down(backend.linearSwiGLU(x, gate: shared.gate, up: shared.up), addingTo: sum)
        }
    }

    private func run(_ expert: Expert, _ x: Tensor) -> Tensor {
        expert.down(backend.linearSwiGLU(x, gate: expert.gate, up: expert.up))
    }

    /// Adds each token's weighted outputs, experts in the order of their index, to its row of `sum`.
    private func combine(_ parts: [[Contribution]], into sum: Tensor) {
        let width = sum.shape[1]
        backend.concurrently(parts.count) { [parts] token in
            let target = sum.pointer(as: Float.self) + token * width
            for part in parts[token] {
                let source = part.output.pointer(as: Float.self) + part.row * width
                for index in 0..<width { target[index] += part.weight * source[index] }
            }
        }
    }
}
