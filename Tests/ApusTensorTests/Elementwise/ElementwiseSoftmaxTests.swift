import CApusKernels
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension ElementwiseSuite {
    @Test func softmaxFamilyIsWithinItsBounds() {
        var random = SplitMix(state: 6)
        onEveryInstructionSet { pool in
            for (rows, width) in rowShapes + [(2, 49152)] {
                let x = StridedRows(rows: rows, width: width, random: &random, in: -30...30)
                let (r, w, s) = (Int64(rows), Int64(width), Int64(x.stride))
                var y = StridedRows(rows: rows, width: width)
                func logSum(_ v: [Double]) -> Double {
                    let most = v.max()!
                    return most + log(v.reduce(0) { $0 + exp($1 - most) })
                }
                apus_softmax_f32(pool, r, w, 0.5, x.values, s, &y.values, s)
                let soft = y.largestError(
                    against: { row in
                        let v = x.row(row).map { $0 / 2 }
                        let total = logSum(v)
                        return v.map { exp($0 - total) }
                    }, floor: 1e-10)
                let bound = 8 + 30 + Double(width).squareRoot() / 4
                #expect(soft <= bound * unit && y.gapsAreUntouched, "softmax \(soft / unit)")

                apus_log_softmax_f32(pool, r, w, x.values, s, &y.values, s)
                let logs = y.largestError(
                    against: { row in
                        let v = x.row(row)
                        let total = logSum(v)
                        return v.map { $0 - total }
                    }, floor: 30)
                #expect(logs <= 8 * unit && y.gapsAreUntouched, "log-softmax \(logs / unit)")

                var sums = [Float](repeating: .nan, count: rows)
                apus_log_sum_exp_f32(pool, r, w, x.values, s, &sums)
                for row in 0..<rows { #expect(abs(Double(sums[row]) - logSum(x.row(row))) <= 8 * unit * 30) }
            }
        }
    }

    @Test func softmaxOfMaskedRows() {
        onEveryInstructionSet { pool in
            for width in [1, 5, 16, 40] {
                let masked = [Float](repeating: -.infinity, count: width)
                var y = [Float](repeating: 7, count: width)
                apus_softmax_f32(pool, 1, Int64(width), 1, masked, Int64(width), &y, Int64(width))
                #expect(y.allSatisfy { $0 == 0 })
                var sum: Float = 0
                apus_log_sum_exp_f32(pool, 1, Int64(width), masked, Int64(width), &sum)
                #expect(sum == -.infinity)
                var one = masked
                one[width / 2] = 3
                apus_softmax_f32(pool, 1, Int64(width), 1, one, Int64(width), &y, Int64(width))
                #expect(y[width / 2] == 1 && y.reduce(0, +) == 1)
                one[0] = .nan
                apus_softmax_f32(pool, 1, Int64(width), 1, one, Int64(width), &y, Int64(width))
                #expect(y.allSatisfy { $0.isNaN })
            }
        }
    }

    @Test func argmaxTakesTheFirstAndReportsNaN() {
        var random = SplitMix(state: 7)
        onEveryInstructionSet { pool in
            for (rows, width) in rowShapes {
                var x = StridedRows(rows: rows, width: width, random: &random)
                for row in 0..<rows where width > 2 {
                    x.values[row * x.stride + width - 1] = 9
                    x.values[row * x.stride + (row * 7) % width] = 9
                }
                var found = [Int64](repeating: -7, count: rows)
                apus_argmax_f32(pool, Int64(rows), Int64(width), x.values, Int64(x.stride), &found)
                for row in 0..<rows {
                    let v = x.row(row)
                    #expect(found[row] == Int64(v.firstIndex(of: v.max()!)!))
                }
                for place in Set([0, width / 2, width - 1]) {
                    var broken = x
                    broken.values[place] = .nan
                    apus_argmax_f32(pool, Int64(rows), Int64(width), broken.values, Int64(x.stride), &found)
                    #expect(found[0] == -1)
                }
                let low = [Float](repeating: -.infinity, count: width)
                apus_argmax_f32(pool, 1, Int64(width), low, Int64(width), &found)
                #expect(found[0] == 0)
            }
            var none: Int64 = 5
            apus_argmax_f32(pool, 1, 0, [0], 0, &none)
            #expect(none == -1)
        }
    }
}
