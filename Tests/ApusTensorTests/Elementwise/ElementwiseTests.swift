import CApusKernels
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension ElementwiseSuite {
    @Test func rmsNormIsWithinItsBound() {
        var random = SplitMix(state: 1)
        onEveryInstructionSet { pool in
            for (rows, width) in rowShapes {
                let x = StridedRows(rows: rows, width: width, random: &random)
                let weight = random.floats(width)
                for (offset, weights) in [(Float(0), weight), (1, weight), (0, nil)] as [(Float, [Float]?)] {
                    var y = StridedRows(rows: rows, width: width)
                    apus_rms_norm_f32(
                        pool, Int64(rows), Int64(width), x.values, Int64(x.stride), weights, offset, 1e-5, &y.values,
                        Int64(y.stride))
                    let error = y.largestError(
                        against: { row in
                            let v = x.row(row)
                            let factor =
                                1 / (v.reduce(0) { $0 + $1 * $1 } / Double(width) + Double(Float(1e-5))).squareRoot()
                            return v.enumerated().map { i, value in
                                value * factor * (weights.map { Double($0[i]) + Double(offset) } ?? 1)
                            }
                        }, floor: 1e-2)
                    #expect(error <= 12 * unit && y.gapsAreUntouched, "\(rows) x \(width)")
                }
            }
        }
    }

    @Test func addThenNormMatchesTheTwoSteps() {
        var random = SplitMix(state: 2)
        onEveryInstructionSet { pool in
            for (rows, width) in rowShapes {
                let x = StridedRows(rows: rows, width: width, random: &random)
                let start = StridedRows(rows: rows, width: width, random: &random)
                let weight = random.floats(width)
                var fused = start
                var sum = StridedRows(rows: rows, width: width)
                var y = sum
                var z = sum
                let stride = Int64(x.stride)
                apus_add_rms_norm_f32(
                    pool, Int64(rows), Int64(width), x.values, stride, &fused.values, stride, weight, 0, 1e-6,
                    &y.values,
                    stride)
                apus_add_f32(
                    pool, Int64(rows), Int64(width), x.values, stride, start.values, stride, &sum.values, stride)
                apus_rms_norm_f32(
                    pool, Int64(rows), Int64(width), sum.values, stride, weight, 0, 1e-6, &z.values, stride)
                let exact = sum.largestError(
                    against: { row in zip(x.row(row), start.row(row)).map { Double(Float($0 + $1)) } }, floor: 1)
                #expect(fused.values == sum.values && y.values == z.values && exact == 0)
            }
        }
    }

    @Test func layerNormIsWithinItsBound() {
        var random = SplitMix(state: 3)
        onEveryInstructionSet { pool in
            for (rows, width) in rowShapes {
                let x = StridedRows(rows: rows, width: width, random: &random, in: 1...9)
                let weight = random.floats(width)
                let bias = random.floats(width)
                for affine in [true, false] {
                    var y = StridedRows(rows: rows, width: width)
                    apus_layer_norm_f32(
                        pool, Int64(rows), Int64(width), x.values, Int64(x.stride), affine ? weight : nil,
                        affine ? bias : nil, 1e-3, &y.values, Int64(y.stride))
                    func moments(_ row: Int) -> (mean: Double, factor: Double) {
                        let v = x.row(row)
                        let mean = v.reduce(0, +) / Double(width)
                        let variance = v.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
                        return (mean, 1 / (variance + Double(Float(1e-3))).squareRoot())
                    }
                    let error = y.largestError(
                        against: { row in
                            let (mean, factor) = moments(row)
                            return x.row(row).enumerated().map { i, value in
                                (value - mean) * factor * (affine ? Double(weight[i]) : 1)
                                    + (affine ? Double(bias[i]) : 0)
                            }
                        }, floor: { row in max(4, x.row(row).map(abs).max()! * moments(row).factor) })
                    #expect(error <= 24 * unit && y.gapsAreUntouched, "\(rows) x \(width): \(error / unit)")
                }
            }
        }
    }

    @Test func activationsAreWithinTheirBounds() {
        var random = SplitMix(state: 4)
        onEveryInstructionSet { pool in
            for (rows, width) in rowShapes {
                var x = StridedRows(rows: rows, width: width, random: &random, in: -12...12)
                x.values[0] = 0
                let up = StridedRows(rows: rows, width: width, random: &random)
                let (r, w, s) = (Int64(rows), Int64(width), Int64(x.stride))
                var y = StridedRows(rows: rows, width: width)

                apus_silu_mul_f32(pool, r, w, x.values, s, up.values, s, &y.values, s)
                let silu = y.largestError(
                    against: { row in zip(x.row(row), up.row(row)).map { $0 / (1 + exp(-$0)) * $1 } }, floor: 1e-3)
                #expect(silu <= 8 * unit && y.gapsAreUntouched, "silu \(silu / unit)")

                for (kind, exact) in [(APUS_GELU_ERF, geluErf), (APUS_GELU_TANH, geluTanh)] {
                    for multiplied in [false, true] {
                        apus_gelu_f32(pool, r, w, kind, x.values, s, multiplied ? up.values : nil, s, &y.values, s)
                        var worst = 0.0
                        for row in 0..<rows {
                            for ((v, u), found) in zip(zip(x.row(row), up.row(row)), y.row(row)) {
                                let factor = multiplied ? u : 1
                                worst = max(
                                    worst, abs(found - exact(v) * factor) / (max(1, abs(v)) * max(abs(factor), 1e-3)))
                            }
                        }
                        #expect(worst <= 4 * unit && y.gapsAreUntouched, "gelu \(kind) \(worst / unit)")
                    }
                }

                for cap in [Float(0), 1.5, 30] {
                    apus_scale_softcap_f32(pool, r, w, 0.37, cap, x.values, s, &y.values, s)
                    let error = y.largestError(
                        against: { row in
                            x.row(row).map { v in
                                let scaled = v * Double(Float(0.37))
                                return cap == 0 ? scaled : Double(cap) * tanh(scaled / Double(cap))
                            }
                        }, floor: 1e-6)
                    #expect(error <= 6 * unit && y.gapsAreUntouched, "softcap \(error / unit)")
                }
            }
        }
    }

    private func geluErf(_ v: Double) -> Double { 0.5 * v * (1 + erf(v / 2.0.squareRoot())) }
    private func geluTanh(_ v: Double) -> Double {
        0.5 * v * (1 + tanh((2 / Double.pi).squareRoot() * (v + 0.044715 * v * v * v)))
    }

    @Test func extremesAndNaNPassThroughActivations() {
        let x: [Float] = [.nan, .infinity, -.infinity, 200, -200, 0]
        let ones = [Float](repeating: 1, count: 6)
        onEveryInstructionSet { pool in
            var y = [Float](repeating: 7, count: 6)
            apus_silu_mul_f32(pool, 1, 6, x, 6, ones, 6, &y, 6)
            #expect(y[0].isNaN && y[1] == .infinity && y[3] == 200 && y[4] == 0 && y[5] == 0)
            apus_gelu_f32(pool, 1, 6, APUS_GELU_ERF, x, 6, nil, 0, &y, 6)
            #expect(y[0].isNaN && y[1] == .infinity && y[3] == 200 && y[4] == 0 && y[5] == 0)
            apus_scale_softcap_f32(pool, 1, 6, 1, 10, x, 6, &y, 6)
            #expect(y[0].isNaN && y[1] == 10 && y[2] == -10 && y[3] == 10 && y[4] == -10 && y[5] == 0)
        }
    }

    @Test(arguments: [APUS_ROPE_HALF_SPLIT, APUS_ROPE_INTERLEAVED])
    func ropeRotatesPairs(style: apus_rope_style) {
        var random = SplitMix(state: 5)
        for (tokens, heads, width, rotary) in [
            (1, 1, 2, 2), (3, 2, 10, 6), (2, 9, 64, 64), (40, 9, 128, 96), (5, 3, 33, 32),
        ] {
            let half = rotary / 2
            let positions = (0..<tokens).map { Int64($0 * 1237 + 5) }
            let frequencies = (0..<half).map { pow(10000, -2 * Double($0) / Double(rotary)) }
            var cosines = [Float](repeating: .nan, count: tokens * half)
            var sines = cosines
            apus_rope_tables(Int64(tokens), positions, Int64(rotary), frequencies, 1.25, &cosines, &sines)
            let x = random.floats(tokens * heads * width)
            onEveryInstructionSet { pool in
                var y = x
                apus_rope_f32(
                    pool, Int64(tokens), Int64(heads), Int64(rotary), style, cosines, sines, &y, Int64(heads * width),
                    Int64(width))
                var worst = 0.0
                for token in 0..<tokens {
                    for head in 0..<heads {
                        let base = (token * heads + head) * width
                        #expect(y[base + rotary..<base + width] == x[base + rotary..<base + width])
                        for i in 0..<half {
                            let angle = Double(positions[token]) * frequencies[i]
                            let (p, q) = style == APUS_ROPE_HALF_SPLIT ? (i, i + half) : (2 * i, 2 * i + 1)
                            let (a, b) = (Double(x[base + p]), Double(x[base + q]))
                            let norm = max((a * a + b * b).squareRoot(), 1e-3) * 1.25
                            worst = max(
                                worst, abs(Double(y[base + p]) - 1.25 * (a * cos(angle) - b * sin(angle))) / norm)
                            worst = max(
                                worst, abs(Double(y[base + q]) - 1.25 * (b * cos(angle) + a * sin(angle))) / norm)
                        }
                    }
                }
                #expect(worst <= 3 * unit, "\(worst / unit)")
            }
        }
    }
}

/// The element-wise kernels.
@Suite struct ElementwiseSuite {}
