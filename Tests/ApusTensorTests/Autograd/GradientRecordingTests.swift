import ApusTensor
import Testing

@Suite struct GradientRecordingTests {
    private final class Block: Module {
        let norm: Parameter
        let gate: Parameter
        let up: Parameter
        let down: Parameter
        let operations: DifferentiableOperations

        init(width: Int, inner: Int, compute: DType, seed: UInt64) {
            var numbers = SplitMix(state: seed)
            norm = Parameter(numbers.tensor([width]))
            gate = Parameter(numbers.tensor([inner, width]))
            up = Parameter(numbers.tensor([inner, width]))
            down = Parameter(numbers.tensor([width, inner]))
            operations = DifferentiableOperations(compute: compute)
        }

        func callAsFunction(_ x: Tensor) -> Tensor {
            let normalized = operations.rmsNorm(x, weight: norm, epsilon: 1e-5)
            let both = operations.linear([normalized], [[LinearPart(gate)], [LinearPart(up)]])
            return operations.add(operations.linear(operations.swiglu(gate: both[0], up: both[1]), down), x)
        }

        func visitParameters(_ visit: (String, Parameter) -> Void) {
            visit("norm", norm)
            visit("gate", gate)
            visit("up", up)
            visit("down", down)
        }
    }

    private func loss(_ block: Block, _ x: Tensor, checkpoints: Bool) -> Tensor {
        var hidden = x
        for _ in 0..<2 {
            hidden = checkpoints ? block.operations.checkpoint([hidden]) { [block($0[0])] }[0] : block(hidden)
        }
        return block.operations.crossEntropy(
            hidden, head: block.gate, targets: (0..<Int32(x.shape[0])).map { $0 % 5 }
        ).loss
    }

    @Test(arguments: [DType.f32, .bf16]) func checkpointingChangesNoBit(compute: DType) {
        let block = Block(width: 24, inner: 40, compute: compute, seed: 5)
        var numbers = SplitMix(state: 6)
        let x = numbers.tensor([33, 24])
        let plain = valueAndGrad(block) { loss(block, x, checkpoints: false) }
        let again = valueAndGrad(block) { loss(block, x, checkpoints: true) }
        #expect(plain.value == again.value)
        #expect(plain.gradients.keys.sorted() == ["down", "gate", "norm", "up"])
        for (name, gradient) in plain.gradients {
            #expect(gradient.floats == again.gradients[name]!.floats, "\(name)")
            #expect(gradient.floats.contains { $0 != 0 })
        }
    }

    @Test func gradientsAddUpOverPasses() {
        let block = Block(width: 8, inner: 12, compute: .f32, seed: 9)
        var numbers = SplitMix(state: 10)
        let x = numbers.tensor([3, 8])
        loss(block, x, checkpoints: false).backward()
        let once = block.down.gradient!.floats
        loss(block, x, checkpoints: false).backward()
        for (a, b) in zip(block.down.gradient!.floats, once) { #expect(abs(a - 2 * b) <= 1e-5 * max(1, abs(b))) }
        block.down.clearGradient()
        #expect(block.down.gradient == nil)
    }

    @Test func aClearedGradientIsZeroAndWrittenAnew() {
        let block = Block(width: 8, inner: 12, compute: .bf16, seed: 9)
        Parameter.join([block.gate, block.up])
        var numbers = SplitMix(state: 10)
        let x = numbers.tensor([3, 8])
        loss(block, x, checkpoints: false).backward()
        let first = block.parameters().map { $0.parameter.gradient!.floats }
        for (_, parameter) in block.parameters() { parameter.zeroGradient() }
        #expect(block.up.gradient!.floats.allSatisfy { $0 == 0 })
        for (_, parameter) in block.parameters() { parameter.zeroGradient() }
        loss(block, x, checkpoints: false).backward()
        #expect(block.parameters().map { $0.parameter.gradient!.floats } == first)
        #expect(first.allSatisfy { $0.contains { $0 != 0 } })
    }

    @Test func joinedWeightsGiveWhatSeparateOnesGive() {
        let joined = Block(width: 8, inner: 12, compute: .bf16, seed: 3)
        let apart = Block(width: 8, inner: 12, compute: .bf16, seed: 3)
        Parameter.join([joined.gate, joined.up])
        var numbers = SplitMix(state: 4)
        let x = numbers.tensor([5, 8])
        func run(_ block: Block) -> [[Float]] {
            let tracked = x.tracked()
            let operations = block.operations
            let both = operations.linear([tracked], [[LinearPart(block.gate), LinearPart(block.up)]])[0]
            backward(from: [(both, gradient: both.detached())], on: CPUBackend.shared)
            return [both, tracked.gradient!, block.gate.gradient!, block.up.gradient!].map(\.floats)
        }
        for (a, b) in zip(run(joined), run(apart)) {
            #expect(relativeError(a, b.map(Double.init)) < 1e-6)
        }
    }

    @Test func nothingIsRecordedWithoutGradients() {
        let block = Block(width: 8, inner: 12, compute: .f32, seed: 11)
        var numbers = SplitMix(state: 12)
        let x = numbers.tensor([3, 8]).tracked()
        let value = withoutGradients { loss(block, x, checkpoints: true) }
        value.backward()
        #expect(block.down.gradient == nil && x.gradient == nil)
    }

    @Test func frozenParametersGetNoGradientAndOthersTheSame() {
        let block = Block(width: 8, inner: 12, compute: .f32, seed: 13)
        var numbers = SplitMix(state: 14)
        let x = numbers.tensor([3, 8])
        let all = valueAndGrad(block) { loss(block, x, checkpoints: false) }
        block.norm.isTrainable = false
        block.down.isTrainable = false
        let some = valueAndGrad(block) { loss(block, x, checkpoints: false) }
        #expect(some.gradients.keys.sorted() == ["gate", "up"])
        for (name, gradient) in some.gradients { #expect(gradient.floats == all.gradients[name]!.floats) }
    }

    @Test func aLongChainIsReleasedWithoutDeepRecursion() {
        var numbers = SplitMix(state: 15)
        let x = numbers.tensor([1, 2]).tracked()
        let operations = DifferentiableOperations()
        var y = x
        for _ in 0..<200_000 { y = operations.add(y, x) }
        backward(from: [(y, gradient: Tensor([1, 1], shape: [1, 2]))], on: CPUBackend.shared)
        #expect(x.gradient!.floats == [200_001, 200_001])
    }
}
