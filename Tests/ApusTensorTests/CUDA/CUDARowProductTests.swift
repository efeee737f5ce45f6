import ApusTensor
import Testing

@Suite struct CUDARowProductTests {
    @Test func settingsFitTheGPU() {
        for width in [8, 64, 576, 1536, 4096, 14336] {
            for outputs in [16, 576, 3072, 49152, 128_256] {
                for rows in [1, 8, 9, 31, 64, 65, 256, 1000] {
                    for epilogue in CUDARowProduct.Epilogue.allCases {
                        let product = CUDARowProduct(
                            width: width, outputs: outputs, rows: rows, epilogue: epilogue, inputParts: 4,
                            multiprocessors: 132)
                        #expect(product.sharedMemory <= 227 << 10, "\(product)")
                        #expect((1...1024).contains(product.candidates) || epilogue != .choose, "\(product)")
                        #expect(product.squareParts <= (outputs + 15) / 16)
                    }
                }
            }
        }
    }

    @Test func moreBlocksRunOnMatrixInstructions() {
        func product(_ rows: Int, outputs: Int = 960) -> CUDARowProduct {
            CUDARowProduct(
                width: 576, outputs: outputs, rows: rows, epilogue: .store, inputParts: 36, multiprocessors: 132)
        }
        #expect(product(1).file == "row_products.cu" && product(1).defines["ROUND"] == 0)
        #expect(product(16).defines["ROWS"] == 16)
        #expect(product(64).defines["ROWS"] == 64)
        #expect(product(64, outputs: 3072).file == "tall_products.cu")
        #expect(product(64, outputs: 3072).defines["COLUMNS"] == 32)
        #expect(product(256).defines["COLUMNS"] == 32)
    }
}
