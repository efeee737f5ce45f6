import CApusKernels
import Testing

/// The dtypes of a general product's operands; a float32 one of the last two is rounded to bf16 by the product.
enum GemmOperands: CaseIterable {
    case float32, bf16, float32ByBF16, bothRounded

    var isNarrow: Bool { self != .float32 }
}

extension ProductsSuite {
    private typealias GemmShape = (m: Int, n: Int, k: Int)

    @Test(arguments: productInstructionSets, GemmOperands.allCases)
    func generalProductsAreExact(instructionSet: String, operands: GemmOperands) {
        let shapes: [GemmShape] = [
            (1, 1, 1), (1, 17, 5), (7, 16, 33), (13, 1, 40), (33, 35, 100), (64, 50, 96), (25, 130, 48),
        ]
        var random = SplitMix(state: 11)
        withInstructionSet(instructionSet) {
            withPool(threads: 3) { pool in
                for shape in shapes {
                    for (alpha, beta) in [(Float(1), Float(0)), (0.5, 1), (-2, 0.25)] {
                        checkLayouts(pool, shape, alpha, beta, operands, &random)
                    }
                }
            }
        }
    }

    /// Several blocks of rows, columns and k, each with a rest.
    @Test(arguments: productInstructionSets, GemmOperands.allCases)
    func generalProductsOfManyBlocksAreExact(instructionSet: String, operands: GemmOperands) {
        _ = apus_select_products("own")
        defer { _ = apus_select_products("onednn") }
        var random = SplitMix(state: 13)
        withInstructionSet(instructionSet) {
            for threads in [1, 2] {
                withPool(threads: threads) { pool in
                    checkLayouts(pool, (205, 83, 747), 1, 0, operands, &random)
                    checkLayouts(pool, (31, 129, 1451), 1, 1, operands, &random)
                }
            }
        }
    }

    /// Shapes that go to oneDNN where it is installed, and the same through the own products.
    @Test(arguments: ["onednn", "own"])
    func largeProductsAreExact(products: String) {
        guard apus_select_products(products) == 0 else {
            #expect(products == "onednn" && String(cString: apus_onednn_status()).contains("not"))
            return
        }
        defer { if apus_select_products("onednn") != 0 { _ = apus_select_products("own") } }
        var random = SplitMix(state: 12)
        withPool(threads: 3) { pool in
            for (alpha, beta) in [(Float(1), Float(0)), (-2, 0.25)] {
                checkLayouts(pool, (201, 233, 193), alpha, beta, .float32, &random)
            }
        }
    }

    @Test func roundedOperandsOfOtherTypesAreRefused() {
        withPool(threads: 1) { pool in
            let values = [UInt16](repeating: 0, count: 4)
            var c: [Float] = [7]
            #expect(apus_gemm_mixed(pool, 0, 0, 1, 1, 1, 1, APUS_F16, values, 1, APUS_BF16, values, 1, 0, &c, 1) == -1)
            #expect(apus_gemm_mixed(pool, 0, 0, 1, 1, 1, 1, APUS_BF16, values, 1, APUS_Q8_0, values, 1, 0, &c, 1) == -1)
            #expect(c == [7])
        }
    }

    private func checkLayouts(
        _ pool: OpaquePointer, _ shape: GemmShape, _ alpha: Float, _ beta: Float, _ operands: GemmOperands,
        _ random: inout SplitMix
    ) {
        for layout in 0..<4 {
            check(pool, shape, transA: layout & 1 != 0, transB: layout & 2 != 0, alpha, beta, operands, &random)
        }
    }

    private func check(
        _ pool: OpaquePointer, _ shape: GemmShape, transA: Bool, transB: Bool, _ alpha: Float, _ beta: Float,
        _ operands: GemmOperands, _ random: inout SplitMix
    ) {
        let (m, n, k) = shape
        let a = StridedRows(rows: transA ? k : m, width: transA ? m : k, random: &random)
        let b = StridedRows(rows: transB ? n : k, width: transB ? k : n, random: &random)
        var c = StridedRows(rows: m, width: n, random: &random)
        if beta == 0 { for i in 0..<m { for j in 0..<n { c.values[i * c.stride + j] = .nan } } }
        let (a16, b16) = (a.values.map(bf16Bits), b.values.map(bf16Bits))
        let left = operands.isNarrow ? a16.map { Float(bitPattern: UInt32($0) << 16) } : a.values
        let right = operands.isNarrow ? b16.map { Float(bitPattern: UInt32($0) << 16) } : b.values
        let exact = (0..<m * n).map { index in
            let (i, j) = (index / n, index % n)
            let (leftStart, leftStep) = transA ? (i, a.stride) : (i * a.stride, 1)
            let (rightStart, rightStep) = transB ? (j * b.stride, 1) : (j, b.stride)
            var sum = 0.0
            for l in 0..<k {
                sum += Double(left[leftStart + l * leftStep]) * Double(right[rightStart + l * rightStep])
            }
            return Double(alpha) * sum + (beta == 0 ? 0 : Double(beta) * Double(c.values[i * c.stride + j]))
        }
        let (flagA, flagB): (Int32, Int32) = (transA ? 1 : 0, transB ? 1 : 0)
        let (m64, n64, k64) = (Int64(m), Int64(n), Int64(k))
        let (lda, ldb, ldc) = (Int64(a.stride), Int64(b.stride), Int64(c.stride))
        let status: Int32
        switch operands {
        case .float32:
            status = apus_gemm_f32(
                pool, flagA, flagB, m64, n64, k64, alpha, a.values, lda, b.values, ldb, beta, &c.values, ldc)
        case .bf16:
            status = apus_gemm_bf16(
                pool, flagA, flagB, m64, n64, k64, alpha, a16, lda, b16, ldb, beta, &c.values, ldc)
        case .float32ByBF16:
            status = apus_gemm_mixed(
                pool, flagA, flagB, m64, n64, k64, alpha, APUS_F32, a.values, lda, APUS_BF16, b16, ldb, beta, &c.values,
                ldc)
        case .bothRounded:
            status = apus_gemm_mixed(
                pool, flagA, flagB, m64, n64, k64, alpha, APUS_F32, a.values, lda, APUS_F32, b.values, ldb, beta,
                &c.values, ldc)
        }
        #expect(status == 0)
        #expect(c.gapsAreUntouched)
        #expect(
            relativeError(c, exact) < 2e-6,
            "\(operands), \(shape), transposed \(transA) \(transB), \(alpha), \(beta)")
    }
}

/// Rounded to the nearest bf16, ties to even.
private func bf16Bits(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    return UInt16((bits &+ 0x7fff &+ ((bits >> 16) & 1)) >> 16)
}
