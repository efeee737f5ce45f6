import CApusKernels
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension ProductsSuite {
    @Test(arguments: productInstructionSets, ProductType.all)
    func linearIsWithinItsBounds(instructionSet: String, type: ProductType) {
        var random = SplitMix(state: 1)
        let columns = type.block == 1 ? [1, 7, 33, 100] : [type.block, 3 * type.block]
        withInstructionSet(instructionSet) {
            withPool(threads: 2) { pool in
                for n in [1, 7, 16, 33, 70] {
                    for k in columns {
                        let weight = TestWeight(type, rows: n, columns: k, pool: pool, random: &random)
                        for m in Array(1...17) + [33, 50] where m < 18 || n > 16 {
                            let x = StridedRows(rows: m, width: k, random: &random)
                            let exact = exactLinear(x, weight)
                            let tight = relativeError(linear(pool, APUS_PRECISION_F32, x, weight), exact)
                            #expect(tight < 1e-6, "f32: n \(n), k \(k), m \(m)")
                            let loose = relativeError(linear(pool, APUS_PRECISION_DEFAULT, x, weight), exact)
                            // A handful of elements may cancel; the bound is on norms of many.
                            let bound = m * n >= 64 || type.bound < 1e-5 ? type.bound : 8 * type.bound
                            #expect(loose < bound, "n \(n), k \(k), m \(m)")
                        }
                    }
                }
            }
        }
    }

    @Test(arguments: productInstructionSets, ProductType.all)
    func biasAndAccumulationAreAdded(instructionSet: String, type: ProductType) {
        var random = SplitMix(state: 2)
        let k = max(type.block, 64)
        withInstructionSet(instructionSet) {
            withPool(threads: 3) { pool in
                let weight = TestWeight(type, rows: 37, columns: k, pool: pool, random: &random)
                let x = StridedRows(rows: 5, width: k, random: &random)
                let bias = random.floats(37)
                let exact = exactLinear(x, weight, bias: bias)
                let once = linear(pool, APUS_PRECISION_F32, x, weight, bias: bias)
                #expect(relativeError(once, exact) < 1e-6)
                let twice = linear(pool, APUS_PRECISION_F32, x, weight, bias: bias, onto: once)
                #expect(relativeError(twice, exact.map { 2 * $0 }) < 1e-6)
            }
        }
    }

    @Test(arguments: productInstructionSets)
    func severalWeightsShareTheirInput(instructionSet: String) {
        var random = SplitMix(state: 3)
        withInstructionSet(instructionSet) {
            withPool(threads: 2) { pool in
                let weights = ProductType.all.enumerated().map { i, type in
                    TestWeight(type, rows: 5 + 16 * i, columns: 256, pool: pool, random: &random)
                }
                for m in [1, 3, 40] {
                    let x = StridedRows(rows: m, width: 256, random: &random)
                    // More outputs than one fork-join takes.
                    let all = weights + weights + weights
                    let outs = all.map { UnsafeMutablePointer<Float>.allocate(capacity: m * $0.rows) }
                    defer { outs.forEach { $0.deallocate() } }
                    let outputs = zip(all, outs).map {
                        apus_linear_output(
                            weight: $0.handle, out: $1, out_stride: Int64($0.rows), bias: nil, accumulate: 0)
                    }
                    #expect(
                        apus_linear(
                            pool, APUS_PRECISION_DEFAULT, x.values, Int64(m), Int64(x.stride), outputs,
                            Int32(outputs.count)) == 0)
                    for (weight, out) in zip(all, outs) {
                        let alone = linear(pool, APUS_PRECISION_DEFAULT, x, weight)
                        for t in 0..<m {
                            for r in 0..<weight.rows {
                                #expect(out[t * weight.rows + r] == alone.values[t * alone.stride + r])
                            }
                        }
                    }
                }
            }
        }
    }

    @Test(arguments: productInstructionSets, ProductType.all)
    func swigluIsSiluTimesUp(instructionSet: String, type: ProductType) {
        var random = SplitMix(state: 4)
        let k = max(type.block, 96)
        withInstructionSet(instructionSet) {
            withPool(threads: 2) { pool in
                for n in [1, 16, 43] {
                    let gate = TestWeight(type, rows: n, columns: k, pool: pool, random: &random)
                    let up = TestWeight(type, rows: n, columns: k, pool: pool, random: &random)
                    for m in [1, 2, 13, 40] {
                        let x = StridedRows(rows: m, width: k, random: &random)
                        let exact = zip(exactLinear(x, gate), exactLinear(x, up)).map { g, u in g / (1 + exp(-g)) * u }
                        for (precision, bound) in [
                            (APUS_PRECISION_F32, 2e-6), (APUS_PRECISION_DEFAULT, max(2e-6, 8 * type.bound)),
                        ] {
                            var out = StridedRows(rows: m, width: n)
                            let status = apus_linear_swiglu(
                                pool, precision, x.values, Int64(m), Int64(x.stride), gate.handle, up.handle,
                                &out.values, Int64(out.stride))
                            #expect(status == 0)
                            #expect(out.gapsAreUntouched)
                            #expect(relativeError(out, exact) < bound, "n \(n), m \(m)")
                        }
                    }
                }
            }
        }
    }

    @Test(arguments: productInstructionSets, ProductType.all)
    func aTokenDoesNotDependOnItsBatch(instructionSet: String, type: ProductType) {
        var random = SplitMix(state: 5)
        let k = max(type.block, 160) / type.block * type.block
        withInstructionSet(instructionSet) {
            withPool(threads: 1) { single in
                withPool(threads: 4) { pool in
                    let weight = TestWeight(type, rows: 53, columns: k, pool: pool, random: &random)
                    let x = StridedRows(rows: 100, width: k, random: &random)
                    let precision = type.value == APUS_BF16 ? APUS_PRECISION_F32 : APUS_PRECISION_DEFAULT
                    let whole = linear(pool, precision, x, weight)
                    for m in [1, 2, 7, 12, 13, 31, 99] {
                        var part = StridedRows(rows: m, width: k)
                        part.values = Array(x.values[(100 - m) * x.stride..<100 * x.stride])
                        let found = linear(single, precision, part, weight)
                        let same = (0..<m).allSatisfy { found.row($0) == whole.row(100 - m + $0) }
                        #expect(same, "m \(m)")
                    }
                }
            }
        }
    }

    @Test(arguments: productInstructionSets, ProductType.quantised)
    func notANumberIsNotLost(instructionSet: String, type: ProductType) {
        var random = SplitMix(state: 6)
        let k = 2 * type.block
        withInstructionSet(instructionSet) {
            withPool(threads: 1) { pool in
                let weight = TestWeight(type, rows: 3, columns: k, pool: pool, random: &random)
                for position in [0, 5, 16, 31, k - 1] {
                    for bad in [Float.nan, .infinity, -.infinity] {
                        var x = StridedRows(rows: 2, width: k, random: &random)
                        x.values[x.stride + position] = bad
                        let out = linear(pool, APUS_PRECISION_DEFAULT, x, weight)
                        #expect(out.row(0).allSatisfy { $0.isFinite })
                        #expect(out.row(1).allSatisfy { !$0.isFinite }, "\(bad) at \(position)")
                    }
                }
            }
        }
    }

    @Test func weightsOfDifferentShapesAreRefused() {
        var random = SplitMix(state: 7)
        withPool(threads: 1) { pool in
            let type = ProductType.all[3]
            let a = TestWeight(type, rows: 4, columns: 64, pool: pool, random: &random)
            let b = TestWeight(type, rows: 4, columns: 32, pool: pool, random: &random)
            let x = [Float](repeating: 1, count: 64)
            var out = [Float](repeating: 0, count: 8)
            #expect(
                apus_linear_swiglu(pool, APUS_PRECISION_DEFAULT, x, 1, 64, a.handle, b.handle, &out, 4) == -1)
            #expect(apus_weight_create(pool, APUS_Q4_K, x, 1, 128) == nil)
            #expect(apus_weight_create(pool, APUS_Q8_0, x, 0, 32) == nil)
        }
    }

    @Test(arguments: ProductType.all)
    func rowsExpandExactly(type: ProductType) {
        var random = SplitMix(state: 8)
        withPool(threads: 2) { pool in
            for n in [1, 16, 19] {
                let k = max(type.block * 2, 40)
                let weight = TestWeight(type, rows: n, columns: k, pool: pool, random: &random)
                var row = [Float](repeating: 0, count: k)
                for r in 0..<n {
                    #expect(apus_weight_row(weight.handle, Int64(r), &row) == 0)
                    #expect(row == Array(weight.expanded[r * k..<(r + 1) * k]), "row \(r)")
                }
                #expect(apus_weight_row(weight.handle, Int64(n), &row) == -1)
                #expect(apus_weight_row(weight.handle, -1, &row) == -1)
                let file = n * k / type.block * type.blockBytes
                let copy = weight.copied(pool)
                #expect(apus_weight_owned_bytes(copy) >= file)
                for r in 0..<n {
                    #expect(apus_weight_row(copy, Int64(r), &row) == 0)
                    #expect(row == Array(weight.expanded[r * k..<(r + 1) * k]), "copied row \(r)")
                }
                apus_weight_destroy(copy)
                let owned = apus_weight_owned_bytes(weight.handle)
                #expect(type.isQuantised ? owned >= file : owned == 0)
            }
        }
    }
}
