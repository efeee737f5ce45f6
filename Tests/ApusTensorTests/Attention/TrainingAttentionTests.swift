import CApusKernels
import Testing

@Suite struct TrainingAttentionTests {
    /// Lengths around the block size, sequences of length 0 and 1, and one long enough that its work is split.
    private static let lengths = [[1], [2], [63], [64], [65], [130], [0, 1, 7, 0, 65], [300], [700]]
    /// Key of its own, key kept once, value.
    private static let widths = [(5, 0, 3), (33, 0, 17), (16, 7, 33), (32, 32, 64), (0, 10, 4), (65, 3, 96)]
    private static let heads = [(2, 2), (4, 2), (3, 1)]
    private static let windows = [0, 1, 5, 70]

    /// Every length, with the other axes running through each other.
    private static let shapes: [TrainingShape] = lengths.indices.flatMap { length in
        widths.indices.map { width in
            let (own, once, value) = widths[width]
            let (heads, kvHeads) = heads[(length + width) % heads.count]
            return TrainingShape(
                lengths: lengths[length], heads: heads, kvHeads: kvHeads, keyOwn: own, keyOnce: once, value: value,
                window: windows[(length + 3 * width) % windows.count])
        }
    }

    /// The instruction set to choose, the arithmetic, and the kernels that must then serve.
    private static let kernels: [(String, apus_training_arithmetic, String)] = [
        ("portable", APUS_TRAINING_F32, "portable"), ("avx2", APUS_TRAINING_F32, "avx2"),
        ("avx512", APUS_TRAINING_F32, "avx512"), ("avx512", APUS_TRAINING_BF16, "avx512"),
        ("avx512bf16", APUS_TRAINING_F32, "avx512"), ("avx512bf16", APUS_TRAINING_BF16, "avx512bf16"),
        ("avx2", APUS_TRAINING_BF16, "avx2"),
    ]

    /// Runs `body` for what this machine has of `kernels`.
    private func onEachKernel(_ body: (String, apus_training_arithmetic) -> Void) {
        defer { _ = apus_select_isa("best") }
        for (instructionSet, arithmetic, name) in Self.kernels where apus_select_isa(instructionSet) == 0 {
            #expect(String(cString: apus_training_attention_isa(arithmetic)) == name)
            body(name, arithmetic)
        }
    }

    private func check(
        _ call: TrainingAttentionCall, _ exact: ReferenceAttention, _ name: String, _ shape: TrainingShape
    ) {
        let narrow = name == "avx512bf16"
        let (values, gradients) = narrow ? (5e-3, 1.2e-2) : (1e-6, 5e-6)
        // The log-sum-exp is an exponent: its absolute error counts. A query that sees one key has a gradient of zero:
        // what counts there is the size of what cancels.
        let floor = 0.1
        #expect(call.status == 0)
        #expect(call.output.error(against: exact.output.values) < values, "output, \(name), \(shape)")
        #expect(call.logSumExp.error(against: exact.logSumExp.values, floor: 1) < values, "lse, \(name), \(shape)")
        #expect(call.value.error(against: exact.value.values) < values, "value, \(name), \(shape)")
        #expect(call.query.error(against: exact.query.values, floor: floor) < gradients, "query, \(name), \(shape)")
        #expect(call.keyOwn.error(against: exact.keyOwn.values, floor: floor) < gradients, "key, \(name), \(shape)")
        #expect(
            call.keyOnce.error(against: exact.keyOnce.values, floor: floor) < gradients, "once, \(name), \(shape)")
    }

    @Test func equalsTheReference() {
        var random = SplitMix(state: 21)
        withPool(threads: 2) { pool in
            for (index, shape) in Self.shapes.enumerated() {
                let operands = ReferenceOperands(shape, random: &random)
                let exact = ReferenceAttention(shape, operands)
                onEachKernel { name, arithmetic in
                    check(
                        TrainingAttentionCall(shape, operands, arithmetic, pool: pool, gap: index % 3), exact, name,
                        shape)
                }
            }
        }
    }

    @Test func gradientsAreAddedWhereWanted() {
        var random = SplitMix(state: 22)
        withPool(threads: 2) { pool in
            for lengths in [[9, 70], [300]] {
                let shape = TrainingShape(lengths: lengths, heads: 4, kvHeads: 2, keyOwn: 24, keyOnce: 8, value: 20)
                let operands = ReferenceOperands(shape, random: &random)
                let before = ReferenceOperands(shape, random: &random)
                var exact = ReferenceAttention(shape, operands)
                func add(_ rows: ReferenceRows, to sum: inout ReferenceRows) {
                    for i in sum.values.indices { sum.values[i] += rows.values[i] }
                }
                add(before.query, to: &exact.query)
                add(before.keyOwn, to: &exact.keyOwn)
                add(before.keyOnce, to: &exact.keyOnce)
                add(before.value, to: &exact.value)
                onEachKernel { name, arithmetic in
                    check(
                        TrainingAttentionCall(shape, operands, arithmetic, pool: pool, onto: before), exact, name, shape
                    )
                }
            }
        }
    }

    @Test func threadsDoNotChangeABit() {
        var random = SplitMix(state: 23)
        for lengths in [[65, 3, 200], [700]] {
            let shape = TrainingShape(
                lengths: lengths, heads: 4, kvHeads: 2, keyOwn: 16, keyOnce: 8, value: 12, window: 150)
            let operands = ReferenceOperands(shape, random: &random)
            onEachKernel { name, arithmetic in
                var first: [[UInt32]]?
                for threads in 1...4 {
                    withPool(threads: threads) { pool in
                        let bits = TrainingAttentionCall(shape, operands, arithmetic, pool: pool).bits
                        #expect(bits == first ?? bits, "\(name), \(threads) threads, \(lengths)")
                        first = bits
                    }
                }
            }
        }
    }

    /// The reference's gradients against differences of its own outputs: what the kernels are held to is right.
    @Test func referenceGradientsEqualFiniteDifferences() {
        let shape = TrainingShape(
            lengths: [5, 1, 6], heads: 4, kvHeads: 2, keyOwn: 3, keyOnce: 2, value: 3, window: 4)
        var random = SplitMix(state: 24)
        let operands = ReferenceOperands(shape, random: &random)
        let exact = ReferenceAttention(shape, operands)
        func loss(_ operands: ReferenceOperands) -> Double {
            zip(ReferenceAttention(shape, operands).output.values, operands.outputGradient.values)
                .reduce(0) { $0 + $1.0 * $1.1 }
        }
        func compare(_ path: WritableKeyPath<ReferenceOperands, ReferenceRows>, _ gradient: ReferenceRows) {
            let step = 1e-5
            for i in gradient.values.indices {
                var (above, below) = (operands, operands)
                above[keyPath: path].values[i] += step
                below[keyPath: path].values[i] -= step
                let difference = (loss(above) - loss(below)) / (2 * step)
                #expect(abs(difference - gradient.values[i]) < 1e-7, "\(path) \(i)")
            }
        }
        compare(\.query, exact.query)
        compare(\.keyOwn, exact.keyOwn)
        compare(\.keyOnce, exact.keyOnce)
        compare(\.value, exact.value)
    }

    @Test func sizesThatDoNotFitAreRefused() {
        var random = SplitMix(state: 25)
        let good = TrainingShape(lengths: [3], heads: 4, kvHeads: 2, keyOwn: 3, keyOnce: 2, value: 3)
        let operands = ReferenceOperands(good, random: &random)
        var uneven = good
        uneven.kvHeads = 3
        var empty = good
        (empty.keyOwn, empty.keyOnce) = (0, 0)
        var backwards = good
        backwards.lengths = [3, -1]
        var window = good
        window.window = -1
        withPool(threads: 1) { pool in
            for shape in [uneven, empty, backwards, window] {
                #expect(TrainingAttentionCall(shape, operands, APUS_TRAINING_F32, pool: pool).status == -2, "\(shape)")
            }
        }
    }
}
