import CApusKernels
import Testing

extension ProductsSuite {
    private static let shapes: [(m: Int, n: Int, k: Int)] = [
        (1, 1, 1), (1, 17, 5), (7, 16, 33), (13, 1, 40), (33, 35, 100), (64, 50, 96),
    ]

    @Test(arguments: productInstructionSets, [false, true])
    func generalProductsAreExact(instructionSet: String, narrow: Bool) {
        var random = SplitMix(state: 11)
        withInstructionSet(instructionSet) {
            withPool(threads: 3) { pool in
                for shape in Self.shapes {
                    for layout in 0..<4 {
                        for (alpha, beta) in [(Float(1), Float(0)), (0.5, 1), (-2, 0.25)] {
                            check(
                                pool, shape, transA: layout & 1 != 0, transB: layout & 2 != 0, alpha, beta, narrow,
                                &random)
                        }
                    }
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
            for layout in 0..<4 {
                for (alpha, beta) in [(Float(1), Float(0)), (-2, 0.25)] {
                    check(
                        pool, (201, 233, 193), transA: layout & 1 != 0, transB: layout & 2 != 0, alpha, beta, false,
                        &random)
                }
            }
        }
    }

    private func check(
        _ pool: OpaquePointer, _ shape: (m: Int, n: Int, k: Int), transA: Bool, transB: Bool, _ alpha: Float,
        _ beta: Float, _ narrow: Bool, _ random: inout SplitMix
    ) {
        let (m, n, k) = shape
        var a = StridedRows(rows: transA ? k : m, width: transA ? m : k, random: &random)
        var b = StridedRows(rows: transB ? n : k, width: transB ? k : n, random: &random)
        if narrow {
            a.values = a.values.map { Float(bitPattern: $0.bitPattern & 0xffff_0000) }
            b.values = b.values.map { Float(bitPattern: $0.bitPattern & 0xffff_0000) }
        }
        var c = StridedRows(rows: m, width: n, random: &random)
        if beta == 0 { for i in 0..<m { for j in 0..<n { c.values[i * c.stride + j] = .nan } } }
        let before = c
        let exact = (0..<m * n).map { index in
            let (i, j) = (index / n, index % n)
            var sum = 0.0
            for l in 0..<k {
                let left = transA ? a.values[l * a.stride + i] : a.values[i * a.stride + l]
                let right = transB ? b.values[j * b.stride + l] : b.values[l * b.stride + j]
                sum += Double(left) * Double(right)
            }
            let old = beta == 0 ? 0 : Double(beta) * Double(before.values[i * before.stride + j])
            return Double(alpha) * sum + old
        }
        let (flagA, flagB): (Int32, Int32) = (transA ? 1 : 0, transB ? 1 : 0)
        let (lda, ldb, ldc) = (Int64(a.stride), Int64(b.stride), Int64(c.stride))
        let status: Int32
        if narrow {
            let (a16, b16) = (
                a.values.map { UInt16($0.bitPattern >> 16) }, b.values.map { UInt16($0.bitPattern >> 16) }
            )
            status = apus_gemm_bf16(
                pool, flagA, flagB, Int64(m), Int64(n), Int64(k), alpha, a16, lda, b16, ldb, beta, &c.values, ldc)
        } else {
            status = apus_gemm_f32(
                pool, flagA, flagB, Int64(m), Int64(n), Int64(k), alpha, a.values, lda, b.values, ldb, beta, &c.values,
                ldc)
        }
        #expect(status == 0)
        #expect(c.gapsAreUntouched)
        #expect(relativeError(c, exact) < 2e-6, "\(shape), transposed \(transA) \(transB), \(alpha), \(beta)")
    }
}
