import ApusTensor
import Foundation
import Testing

/// What a variant of a kernel file is compiled with.
struct KernelVariant: Sendable, CustomTestStringConvertible {
    let file: String
    var defines: [String: Int] = [:]
    /// Uses Hopper's matrix instructions.
    var isFast = false

    var testDescription: String {
        ([file] + defines.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }).joined(separator: " ")
    }

    /// The kernels of training attention; `dtype` of output and gradients, float32 ones are added to.
    static func attention(key: Int, once: Int = 0, value: Int, dtype: DType = .bf16) -> [KernelVariant] {
        let settings = try! TrainingAttentionSettings(
            key: key, once: once, value: value, output: dtype, gradients: dtype, addsGradients: dtype == .f32)
        return [settings.forward, settings.backwardQueries, settings.backwardKeys].compactMap(\.self).map {
            KernelVariant(file: $0.name + ".cu", defines: $0.defines, isFast: true)
        }
    }

    /// A product of few rows.
    static func rows(
        _ rows: Int, width: Int, outputs: Int, _ epilogue: CUDARowProduct.Epilogue, norm: Bool = false,
        format: CUDAWeightFormat = .bf16
    ) -> KernelVariant {
        let parts = CUDARowProduct(
            width: width, outputs: width, rows: rows, epilogue: .add, multiprocessors: 132
        ).squareParts
        let product = CUDARowProduct(
            width: width, outputs: outputs, rows: rows, epilogue: epilogue, inputParts: norm ? parts : 0,
            format: format,
            multiprocessors: 132)
        return KernelVariant(
            file: product.file, defines: product.defines, isFast: product.file == "tall_products.cu")
    }

    /// Products of the layers of SmolLM2 and of an 8B Llama, and of query latents.
    static let rowProducts = [1, 16, 64, 256].flatMap { batch in
        [
            rows(batch, width: 576, outputs: 960, .store, norm: true), rows(batch, width: 576, outputs: 576, .add),
            rows(batch, width: 576, outputs: 3072, .swiglu, norm: true), rows(batch, width: 1536, outputs: 576, .add),
            rows(batch, width: 576, outputs: 49152, .choose, norm: true),
            rows(batch, width: 1536, outputs: 24576, .store), rows(batch, width: 512, outputs: 576, .store),
            rows(batch, width: 4096, outputs: 28672, .swiglu, norm: true),
            rows(batch, width: 14336, outputs: 4096, .add),
            rows(batch, width: 4096, outputs: 128_256, .choose, norm: true),
        ]
    }

    /// Of an 8B Llama in quantised types, and of small models that keep to blocks of few rows.
    static let quantisedProducts = CUDAWeightFormat.allCases.filter(\.isQuantised).flatMap { format in
        // Q4_1 and Q6_K have Q4_K's minimum and Q8_0's codes.
        ([.q4_1, .q6_K].contains(format) ? [1, 16] : [1, 16, 64, 256]).flatMap { batch in
            [
                rows(batch, width: 4096, outputs: 6144, .store, norm: true, format: format),
                rows(batch, width: 4096, outputs: 28672, .swiglu, norm: true, format: format),
                rows(batch, width: 14336, outputs: 4096, .add, format: format),
                rows(batch, width: 4096, outputs: 128_256, .choose, norm: true, format: format),
            ]
        } + [
            rows(32, width: 1024, outputs: 512, .add, format: format),
            rows(64, width: 512, outputs: 512, .add, format: format),
        ]
    }
    /// Experts in steps, by rows of a chunk, and in prompts.
    static let expertProducts = [CUDAWeightFormat.bf16, .q8_0, .q4_K].flatMap { format in
        [8, 64].flatMap { height in
            [
                experts(height, width: 2048, outputs: 2816, .swiglu, norm: true, format: format),
                experts(height, width: 1536, outputs: 2048, .store, format: format),
            ]
        } + [experts(64, width: 2048, outputs: 2816, .swiglu, areTall: true, format: format)]
    }
    static func experts(
        _ rows: Int, width: Int, outputs: Int, _ epilogue: CUDARowProduct.Epilogue, norm: Bool = false,
        areTall: Bool = false, format: CUDAWeightFormat
    ) -> KernelVariant {
        let product = CUDARowProduct(
            width: width, outputs: outputs, rows: rows, epilogue: epilogue, inputParts: norm ? 128 : 0, format: format,
            experts: .init(count: 64, chunks: 112, areTall: areTall), multiprocessors: 132)
        return KernelVariant(
            file: product.file, defines: product.defines, isFast: product.file == "tall_products.cu")
    }
    static let quantisedWeights = CUDAWeightFormat.allCases.filter(\.isQuantised).map {
        KernelVariant(file: "quantised_weights.cu", defines: ["FORMAT": $0.rawValue])
    }

    static let all =
        KernelSources.kernels.keys.sorted().filter {
            !$0.hasPrefix("attention_") && !$0.hasSuffix("_products.cu")
                && !["norm_registers.cu", "quantised_weights.cu"].contains($0)
        }.map {
            KernelVariant(file: $0)
        } + rowProducts + quantisedProducts + expertProducts + quantisedWeights
        + (1...8).map { KernelVariant(file: "norm_registers.cu", defines: ["PARTS": $0]) }
        + attention(key: 64, value: 64) + attention(key: 96, value: 96) + attention(key: 128, value: 128)
        + attention(key: 128, value: 128, dtype: .f32) + attention(key: 256, value: 256)
        + attention(key: 64, once: 64, value: 128) + attention(key: 48, once: 48, value: 96)
        + attention(key: 128, once: 32, value: 128) + attention(key: 128, once: 64, value: 128)
        + attention(key: 128, once: 64, value: 128, dtype: .f32)
        + [
            KernelVariant(file: "attention_once.cu", defines: ["FLOAT32": 0, "ADDS": 1]),
            KernelVariant(file: "attention_once.cu", defines: ["FLOAT32": 1, "ADDS": 0]),
        ]
}

private let nvrtcIsHere = CUDALibraries.nvrtc.report.status == .loaded
/// Where the tests are prepared with NVRTC, its absence is a failure, not a skip.
private let nvrtcIsRequired = ProcessInfo.processInfo.environment["APUS_TEST_NVRTC"] == "required"

@Suite(.enabled(if: nvrtcIsHere || nvrtcIsRequired, "\(CUDALibraries.nvrtc.report.message)"))
struct TensorKernelTests {
    @Test(arguments: KernelVariant.all)
    func compilesForHopperWithoutSpills(variant: KernelVariant) throws {
        let source = KernelSources.source(variant.file, defines: variant.defines.mapValues(String.init))
        let (cubin, ptx, log) = try NVRTCCompiler().compile(
            source, target: "sm_90a", extraOptions: ["--ptxas-options=-v"])
        #expect(cubin.starts(with: [0x7f, 0x45, 0x4c, 0x46]), "an ELF file")
        // One line for each entry: "... 0 bytes spill stores, 0 bytes spill loads".
        let spills = log.split(separator: "\n").filter { $0.contains("bytes spill stores") }
        #expect(!spills.isEmpty, "the log tells of spills")
        #expect(spills.allSatisfy { $0.contains(" 0 bytes spill stores, 0 bytes spill loads") }, "\(log)")
        if variant.isFast {
            #expect(ptx.contains("wgmma.mma_async"))
            #expect(ptx.contains("cp.async.bulk.tensor"))
            #expect(!log.contains("wgmma"), "the assembler serialises the products: \(log)")
            #expect(!log.contains("C75"), "the assembler waits where the kernel does not: \(log)")
        }
    }
}

@Suite struct KernelSourcesTests {
    @Test func everyFileIsEmbedded() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../../Sources/ApusTensor/Kernels").standardized.path
        let files = try FileManager.default.contentsOfDirectory(atPath: folder)
        #expect(Set(files.filter { $0.hasSuffix(".cu") }) == Set(KernelSources.kernels.keys))
        #expect(Set(files.filter { $0.hasSuffix(".cuh") }) == Set(KernelSources.headers.map(\.name)))
        #expect(
            Set(KernelVariant.all.map(\.file)) == Set(KernelSources.kernels.keys), "a variant of each is compiled")
        for (name, text) in KernelSources.kernels {
            #expect(try text == String(contentsOfFile: folder + "/" + name, encoding: .utf8))
        }
    }

    @Test func aSourceHasTheHeadersItIncludesAndTheirs() {
        let headers = ["a.cuh": "#include \"b.cuh\"\n", "b.cuh": "#include \"a.cuh\"\n", "c.cuh": ""].map {
            CUDASource.Header(name: $0.key, text: $0.value)
        }
        let found = KernelSources.headers(of: "// first\n#include \"a.cuh\"\nint x;\n", among: headers)
        #expect(Set(found.map(\.name)) == ["a.cuh", "b.cuh"])
        #expect(KernelSources.headers(of: "int x;", among: headers).isEmpty)
    }
}
