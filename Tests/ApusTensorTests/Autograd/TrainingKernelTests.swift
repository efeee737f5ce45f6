import ApusTensor
import CApusKernels
import Foundation
import Testing

/// The row kernels of training on every instruction set, with rows and threads of any number.
@Suite struct TrainingKernelTests {
    private func close(_ found: [Float], _ expected: [Double], _ what: String, tolerance: Double = 2e-6) {
        #expect(relativeError(found, expected) < tolerance, "\(what)")
    }

    @Test(arguments: [(1, 1), (3, 5), (70, 33), (129, 300)]) func everyInstructionSetComputesTheSame(
        rows: Int, width: Int
    ) throws {
        var random = SplitMix(state: 21)
        let x = random.floats(rows * width)
        let other = random.floats(rows * width)
        let weight = random.floats(width)
        let dy = random.floats(rows * width)
        func each(_ body: (Int) -> Double) -> [Double] { (0..<rows * width).map(body) }
        let double = (x: x.map(Double.init), other: other.map(Double.init), dy: dy.map(Double.init))
        let epsilon = Double(Float(1e-3))
        let inverse = (0..<rows).map { row in
            1
                / ((0..<width).reduce(0.0) {
                    let sum = double.x[row * width + $1] + double.other[row * width + $1]
                    return $0 + sum * sum
                } / Double(width) + epsilon).squareRoot()
        }
        let sum = each { Double(x[$0] + other[$0]) }
        let sigmoid = each { 1 / (1 + exp(-double.x[$0])) }

        onEveryInstructionSet { pool in
            var (found, y, inverses) = (
                [Float](repeating: 9, count: rows * width), [Float](repeating: 9, count: rows * width),
                [Float](repeating: 9, count: rows)
            )
            apus_rms_norm_forward(
                pool, Int64(rows), Int64(width), x, other, &found, weight, 1e-3, APUS_FLOAT_F32, &y, &inverses)
            close(found, sum, "sum")
            close(inverses, inverse, "inverse")
            close(y, each { sum[$0] * inverse[$0 / width] * Double(weight[$0 % width]) }, "norm")

            var narrow = [UInt16](repeating: 9, count: rows * width)
            apus_rms_norm_forward(
                pool, Int64(rows), Int64(width), x, other, &found, weight, 1e-3, APUS_FLOAT_BF16, &narrow, &inverses)
            for (bits, value) in zip(narrow, y) {
                let rounded = (value.bitPattern &+ 0x7fff &+ (value.bitPattern >> 16 & 1)) >> 16
                #expect(UInt32(bits) == rounded, "bf16")
            }

            apus_swiglu_forward(pool, Int64(rows), Int64(width), x, other, Int64(width), APUS_FLOAT_F32, &y)
            close(y, each { double.x[$0] * sigmoid[$0] * double.other[$0] }, "swiglu")
            var (dGate, dUp) = (y, y)
            apus_swiglu_backward(
                pool, Int64(rows), Int64(width), x, other, Int64(width), dy, APUS_FLOAT_F32, &dGate, &dUp, Int64(width))
            let slope = each { sigmoid[$0] * (1 + double.x[$0] * (1 - sigmoid[$0])) }
            close(dGate, each { double.dy[$0] * double.other[$0] * slope[$0] }, "gate")
            close(dUp, each { double.dy[$0] * double.x[$0] * sigmoid[$0] }, "up")

            let total = apus_sum_of_squares(pool, Int64(x.count), x)
            #expect(abs(total - double.x.reduce(0) { $0 + $1 * $1 }) < 1e-12 * total, "squares")
        }
    }

    @Test func adamWFollowsItsFormulas() {
        var random = SplitMix(state: 22)
        let count = 1003
        let gradient = random.floats(count)
        let start = (w: random.floats(count), m: random.floats(count), v: random.floats(count, in: 0...2))
        onEveryInstructionSet { pool in
            var (w, m, v) = start
            var narrow = [UInt16](repeating: 0, count: count)
            var parameters = apus_adamw_parameters(
                learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, gradient_scale: 0.5,
                correction1: 0.271, correction2: 0.142625)
            apus_adamw(pool, Int64(count), &parameters, gradient, &w, &m, &v, &narrow)
            for i in 0..<count {
                let g = Double(gradient[i]) * 0.5
                let first = Double(start.m[i]) * 0.9 + g * 0.1
                let second = Double(start.v[i]) * 0.95 + g * g * 0.05
                let step = first / 0.271 / ((second / 0.142625).squareRoot() + 1e-8)
                let expected = Double(start.w[i]) - 0.01 * (step + 0.1 * Double(start.w[i]))
                #expect(abs(Double(m[i]) - first) < 1e-6 && abs(Double(v[i]) - second) < 1e-6)
                #expect(abs(Double(w[i]) - expected) < 1e-5 * max(1, abs(expected)))
                let rounded = (w[i].bitPattern &+ 0x7fff &+ (w[i].bitPattern >> 16 & 1)) >> 16
                #expect(UInt32(narrow[i]) == rounded)
            }
        }
    }

    @Test func notANumberIsSeenAndStaysOne() {
        for wrong in [Float.nan, .infinity, -Float.infinity, Float(bitPattern: 0x7fff_ffff)] {
            onEveryInstructionSet { pool in
                var x = [Float](repeating: 1, count: 40_000)
                x[39_998] = wrong
                #expect(!apus_sum_of_squares(pool, Int64(x.count), x).isFinite, "\(wrong)")
                var (y, inverse) = ([UInt16](repeating: 0, count: 3), [Float](repeating: 0, count: 1))
                apus_rms_norm_forward(
                    pool, 1, 3, [1, wrong, 2], nil, nil, [1, 1, 1], 1e-3, APUS_FLOAT_BF16, &y, &inverse)
                let widened = y.map { Float(bitPattern: UInt32($0) << 16) }
                #expect(widened[1].isNaN, "\(widened)")
            }
        }
    }

    @Test(arguments: [1, 64, 65, 200]) func sumsDoNotDependOnThreads(rows: Int) {
        var random = SplitMix(state: 23)
        let width = 700
        let x = random.floats(rows * width)
        let dy = random.floats(rows * width)
        let weight = random.floats(width)
        let ids = (0..<rows).map { Int32($0 % 7) }
        func run(_ threads: Int) -> [[Float]] {
            let pool = apus_pool_create(Int32(threads))
            defer { apus_pool_destroy(pool) }
            var (dx, dWeight) = ([Float](repeating: 0, count: rows * width), [Float](repeating: 0, count: width))
            var (sums, table) = ([Float](repeating: 0, count: width), [Float](repeating: 0, count: 7 * width))
            #expect(
                apus_rms_norm_backward(
                    pool, Int64(rows), Int64(width), x, weight, [Float](repeating: 0.5, count: rows), dy, x, &dx,
                    &dWeight) == 0)
            #expect(
                apus_column_sums(pool, Int64(rows), Int64(width), APUS_FLOAT_F32, x, Int64(width), &sums) == 0)
            apus_embedding_backward(pool, Int64(rows), Int64(width), ids, dy, &table)
            return [dx, dWeight, sums, table]
        }
        let one = run(1)
        for threads in 2...4 { #expect(run(threads) == one) }
    }
}
