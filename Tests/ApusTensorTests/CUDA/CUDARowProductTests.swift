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

    @Test(arguments: CUDAWeightFormat.allCases) func settingsOfQuantisedWeights(format: CUDAWeightFormat) {
        for width in [256, 768, 1536, 4096, 8192, 14336, 28672] {
            for outputs in [16, 576, 4096, 28672, 128_256] {
                for rows in [1, 8, 9, 31, 64, 65, 256, 1000] {
                    for epilogue in CUDARowProduct.Epilogue.allCases {
                        func product(_ format: CUDAWeightFormat) -> CUDARowProduct {
                            CUDARowProduct(
                                width: width, outputs: outputs, rows: rows, epilogue: epilogue, inputParts: 4,
                                format: format, multiprocessors: 132)
                        }
                        let (own, plain) = (product(format), product(.bf16))
                        #expect(own.sharedMemory <= 227 << 10, "\(own)")
                        #expect((1...1024).contains(own.candidates) || epilogue != .choose, "\(own)")
                        #expect(own.squareParts == plain.squareParts && own.file == plain.file, "\(own)")
                        #expect(own.defines["FORMAT"] ?? 0 == format.rawValue)
                    }
                }
            }
        }
    }

    @Test func bytesOfWeights() {
        // As in files, but for Q4_K's scales, whose 6 bits get a byte, and Q6_K's codes.
        for format in [CUDAWeightFormat.bf16, .q8_0, .q4_0, .q4_1] {
            let bytes = format.byteCount(rows: 48, width: 1024)
            #expect(bytes == format.dtype.byteCount(elements: 48 * 1024))
        }
        #expect(CUDAWeightFormat.q4_K.byteCount(rows: 16, width: 256) == 4 * 576 + 64)
        #expect(CUDAWeightFormat.q6_K.byteCount(rows: 16, width: 256) == 4 * 1088 + 64)
        #expect(CUDAWeightFormat.q4_0.byteCount(rows: 17, width: 96) == 2 * 2 * 576, "tiles and units are filled up")
        #expect(CUDAWeightFormat(.f16) == .bf16 && CUDAWeightFormat(.q4_K) == .q4_K)
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
