import ApusTeaching
import ApusTensor
import Testing

#if canImport(Glibc)
import Glibc
#endif

/// The losses of policy gradients: values against the published formulas in float64, derivatives against finite differences.
@Suite struct PolicyLossTests {
    /// Log-probabilities of two outputs of 3 and 2 tokens, before and after some update, and under a reference.
    private static let new: [Float] = [-1.5, -0.25, -2.0, -3.0, -0.5]
    private static let old: [[Float]] = [[-1.25, -0.5, -2.0625], [-3.5, -0.25]]
    private static let reference: [[Float]] = [[-1.75, -0.125, -1.0], [-2.5, -1.5]]
    private static let advantages: [[Float]] = [[0.75, 0.75, 0.75], [-1.25, -1.25]]
    private static let weights = [0.5, 0.25]
    private static let starts = [0, 3, 5]

    private func surrogate(
        _ ratio: PolicySurrogate.Ratio, hasOld: Bool = true, kl: Double = 0, clip: Double = 0.2
    ) -> PolicySurrogate {
        PolicySurrogate(
            ratio: ratio, clip: (clip, clip), klWeight: kl,
            outputs: (0..<2).map {
                PolicySurrogate.Output(
                    old: hasOld ? Self.old[$0] : nil, reference: kl > 0 ? Self.reference[$0] : nil,
                    advantages: Self.advantages[$0], weight: Self.weights[$0])
            })
    }

    /// The formulas as they are printed.
    private func expected(
        _ ratio: PolicySurrogate.Ratio, _ new: [Double], kl: Double = 0, clip: Double = 0.2
    ) -> Double {
        func term(_ r: Double, _ a: Double) -> Double { -min(r * a, min(max(r, 1 - clip), 1 + clip) * a) }
        var total = 0.0
        for output in 0..<2 {
            let rows = Array(new[Self.starts[output]..<Self.starts[output + 1]])
            let a = Double(Self.advantages[output][0])
            let logs = zip(rows, Self.old[output]).map { $0 - Double($1) }
            switch ratio {
            case .token: total += Self.weights[output] * logs.reduce(0) { $0 + term(exp($1), a) }
            case .sequence: total += Self.weights[output] * term(exp(logs.reduce(0, +)), a)
            }
            for (log, reference) in zip(rows, Self.reference[output]) where kl > 0 {
                let d = Double(reference) - log
                total += kl * Self.weights[output] * (exp(d) - d - 1)
            }
        }
        return total
    }

    @Test(arguments: [PolicySurrogate.Ratio.token, .sequence], [(0.0, 0.2), (0.3, 0.2), (0.3, 0.9)])
    func valueAndDerivativesFollowTheFormula(_ ratio: PolicySurrogate.Ratio, _ numbers: (kl: Double, clip: Double)) {
        let loss = surrogate(ratio, kl: numbers.kl, clip: numbers.clip).loss()
        let new = Self.new.map(Double.init)
        let (value, derivatives) = loss.evaluate(0..<5, Self.new)
        #expect(abs(value - expected(ratio, new, kl: numbers.kl, clip: numbers.clip)) <= 1e-9)
        for row in 0..<5 {
            var (up, down) = (new, new)
            up[row] += 1e-6
            down[row] -= 1e-6
            let slope =
                (expected(ratio, up, kl: numbers.kl, clip: numbers.clip)
                    - expected(ratio, down, kl: numbers.kl, clip: numbers.clip)) / 2e-6
            #expect(abs(Double(derivatives[row]) - slope) <= 1e-6, "row \(row)")
        }
    }

    /// Values and gradients of TRL 1.16's trainers on these numbers (Tests/Fixtures/policy_losses.py prints them).
    @Test(
        arguments: [
            (
                "rloo", PolicySurrogate.Ratio.sequence, 0, [0.5, 0.5], 0.4033304452896118,
                [-0.3991854190826416, -0.3991854190826416, -0.3991854190826416, 0.8025158643722534, 0.8025158643722534]
            ),
            (
                "grpo", .token, 0.3, [1.0 / 6, 1.0 / 4], 0.46132007241249084,
                [
                    -0.0862901359796524, -0.006657421588897705, -0.21897590160369873, 0.4665713310241699,
                    0.047409042716026306,
                ]
            ),
            (
                "dr_grpo of at most 4 tokens", .token, 0.3, [1.0 / 8, 1.0 / 8], 0.1449974626302719,
                [
                    -0.0647176057100296, -0.004993066191673279, -0.16423192620277405, 0.23328566551208496,
                    0.023704521358013153,
                ]
            ),
            (
                "bnpo, mean over tokens", .token, 0.3, [1.0 / 5, 1.0 / 5], 0.23199594020843506,
                [
                    -0.10354816913604736, -0.007988907396793365, -0.2627710700035095, 0.373257040977478,
                    0.037927232682704926,
                ]
            ),
        ] as [(String, PolicySurrogate.Ratio, Double, [Double], Double, [Float])])
    func lossesAreThoseOfTRL(
        _ name: String, _ ratio: PolicySurrogate.Ratio, _ kl: Double, _ weights: [Double], _ value: Double,
        _ gradient: [Float]
    ) {
        let surrogate = PolicySurrogate(
            ratio: ratio, clip: (0.2, 0.2), klWeight: kl,
            outputs: (0..<2).map {
                PolicySurrogate.Output(
                    old: Self.old[$0], reference: kl > 0 ? Self.reference[$0] : nil, advantages: Self.advantages[$0],
                    weight: weights[$0])
            })
        let found = surrogate.loss().evaluate(0..<5, Self.new)
        #expect(abs(found.value - value) <= 1e-6, "\(name)")
        for (mine, theirs) in zip(found.derivatives, gradient) { #expect(abs(mine - theirs) <= 1e-6, "\(name)") }
    }

    /// Without earlier log-probabilities the ratio is 1: the plain policy gradient, whatever the ratio is of.
    @Test(arguments: [PolicySurrogate.Ratio.token, .sequence])
    func theFirstUpdateIsThePlainPolicyGradient(_ ratio: PolicySurrogate.Ratio) {
        let loss = surrogate(ratio, hasOld: false).loss()
        #expect(loss.isRowwise)
        let (_, derivatives) = loss.evaluate(0..<5, Self.new)
        #expect(derivatives == [-0.375, -0.375, -0.375, 0.3125, 0.3125])
    }

    /// Rows in pieces give what they give at once.
    @Test func piecesOfRowsAddUp() {
        var figures = PolicySurrogate.Figures()
        let surrogate = surrogate(.token, kl: 0.3)
        let whole = surrogate.loss { figures = $0 }.evaluate(0..<5, Self.new)
        var (value, derivatives, sum) = (0.0, [Float](), 0)
        let loss = surrogate.loss { sum += $0.clipped }
        for range in [0..<1, 1..<4, 4..<5] {
            let part = loss.evaluate(range, Array(Self.new[range]))
            value += part.value
            derivatives += part.derivatives
        }
        #expect(abs(value - whole.value) <= 1e-12 && derivatives == whole.derivatives)
        #expect(figures.ratios == 5 && figures.clipped == sum && sum == 2)
    }

    @Test func valueLossTakesTheLargerError() {
        let values: [Float] = [1, 0.5, -1, 0.1]
        let old: [Float] = [0.5, 0.5, 0, 0]
        let returns: [Float] = [2, 0, -0.1, 1]
        func formula(_ v: [Double]) -> Double {
            zip(v, zip(old, returns)).reduce(0) { total, pair in
                let (value, before, goal) = (pair.0, Double(pair.1.0), Double(pair.1.1))
                let bounded = min(max(value, before - 0.2), before + 0.2)
                return total + 0.5 * 0.3 * max((value - goal) * (value - goal), (bounded - goal) * (bounded - goal))
            }
        }
        let found = ValueHead.loss(values: values, old: old, returns: returns, clip: 0.2, weight: 0.3)
        let exact = values.map(Double.init)
        #expect(abs(found.value - formula(exact)) <= 1e-9)
        for index in values.indices {
            var (up, down) = (exact, exact)
            up[index] += 1e-6
            down[index] -= 1e-6
            #expect(abs(Double(found.derivatives[index]) - (formula(up) - formula(down)) / 2e-6) <= 1e-6)
        }
    }

    @Test func directPreferencesFollowTheFormula() {
        let logs: [Float] = [-1, -2, -0.5, -1.5, -2.5, -3, -0.25]
        let (lengths, reference) = ([2, 1, 1, 3], [-2.0, -1.0, -3.0, -5.0])
        func formula(_ logs: [Double]) -> Double {
            let sums = [logs[0] + logs[1], logs[2], logs[3], logs[4] + logs[5] + logs[6]]
            return [0, 2].reduce(0) { total, first in
                let h = 0.5 * ((sums[first] - reference[first]) - (sums[first + 1] - reference[first + 1]))
                return total + 0.5 * log(1 + exp(-h))
            }
        }
        let found = DirectPreferenceObjective.pairLoss(
            logs, lengths: lengths, reference: reference, beta: 0.5, share: 0.5)
        let exact = logs.map(Double.init)
        #expect(abs(found.value - formula(exact)) <= 1e-9)
        for index in logs.indices {
            var (up, down) = (exact, exact)
            up[index] += 1e-6
            down[index] -= 1e-6
            #expect(abs(Double(found.derivatives[index]) - (formula(up) - formula(down)) / 2e-6) <= 1e-6)
        }
    }

    /// Through head and softmax: the same gradients as with the weights that the loss has there, in one block and in several.
    @Test(arguments: [DType.f32, .bf16], [true, false])
    func gradientsThroughTheHeadAreThoseOfWeights(_ compute: DType, _ isRowwise: Bool) {
        let (rows, width, vocabulary) = (150, 8, 70_000)
        var state: UInt64 = 9
        func numbers(_ count: Int) -> [Float] {
            (0..<count).map { _ in
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return Float(Double(state >> 11) * 0x1p-53 - 0.5)
            }
        }
        let (x, table) = (numbers(rows * width), numbers(vocabulary * width))
        let targets = (0..<rows).map { Int32($0 * 431 % vocabulary) }
        let operations = DifferentiableOperations(compute: compute)
        func run(_ loss: (Tensor, Parameter) -> (loss: Tensor, logProbabilities: [Float])) -> (
            [Float], [Float], [Float]
        ) {
            let hidden = Tensor(x, shape: [rows, width]).tracked()
            let head = Parameter(Tensor(table, shape: [vocabulary, width]))
            let (value, logProbabilities) = loss(hidden, head)
            value.backward()
            return (logProbabilities, hidden.gradient!.floats, head.gradient!.floats)
        }
        // A loss whose derivative depends on the log-probability: sum of their squares.
        let (logs, dx, dhead) = run { hidden, head in
            operations.crossEntropy(
                hidden, head: head, targets: targets,
                LogProbabilityLoss(isRowwise: isRowwise) { _, logs in
                    (logs.reduce(0.0) { $0 + Double($1) * Double($1) }, logs.map { 2 * $0 })
                })
        }
        let plain = run {
            let (loss, logs) = operations.crossEntropy(
                $0, head: $1, targets: targets, weights: logs.map { -2 * $0 })
            return (loss, logs.floats)
        }
        #expect(logs == plain.0 && dx == plain.1 && dhead == plain.2)
    }
}
