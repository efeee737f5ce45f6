import ApusTensor
import Testing

@Suite struct CUDARowProductTests {
    @Test func settingsFitTheGPU() {
        for width in [8, 64, 576, 1536, 4096, 14336] {
            for outputs in [16, 576, 3072, 49152, 128_256] {
                for rows in [1, 8, 9, 31, 64, 65, 256, 1000] {
                    for epilogue in CUDARowProduct.Epilogue.allCases {
                        let product = CUDARowProduct(
                            width: width, outputs: outputs, rows: rows, epilogue: epilogue, hasNorm: true,
                            multiprocessors: 132)
                        #expect(product.sharedMemory <= 227 << 10, "\(product)")
                        #expect((1...1024).contains(product.candidates) || epilogue != .choose, "\(product)")
                        #expect(product.squareParts == (outputs + 15) / 16)
                    }
                }
            }
        }
    }

    @Test func fewRowsStayInRegisters() {
        let one = CUDARowProduct(
            width: 576, outputs: 960, rows: 1, epilogue: .store, hasNorm: true, multiprocessors: 132)
        #expect(one.defines["ROUND"] == 0 && one.defines["ROWS"] == 8)
        let many = CUDARowProduct(
            width: 576, outputs: 960, rows: 64, epilogue: .store, hasNorm: true, multiprocessors: 132)
        #expect((many.defines["ROUND"] ?? 0) > 0)
    }
}
