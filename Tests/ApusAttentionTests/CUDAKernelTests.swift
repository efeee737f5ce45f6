import ApusAttention
import ApusTensor
import Foundation
import Testing

/// What a variant of a kernel file is compiled with, and what its machine code must be like.
struct KernelVariant: Sendable, CustomTestStringConvertible {
    let file: String
    var defines: [String: String] = [:]
    /// Uses Hopper's matrix instructions.
    var isFast = false

    var testDescription: String {
        ([file] + defines.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }).joined(separator: " ")
    }

    static func decode(
        _ geometry: CacheGeometry, queryTokens: Int, page: Int, element: GPUCacheFormat.Element = .bf16
    ) throws -> KernelVariant {
        let format = try GPUCacheFormat(geometry: geometry, pageSize: page, element: element)
        let settings = try GPUDecodeSettings(format: format, queryTokens: queryTokens)
        return KernelVariant(file: settings.file, defines: settings.defines, isFast: true)
    }

    static func append(_ defines: [String: Int]) -> KernelVariant {
        let usual = [
            "SHARED": 256, "VALUE": 0, "KEY": 64, "KEY_ONCE": 1, "PAGE_SIZE": 64, "FP8": 0, "NORM": 1, "ROTATED": 64,
            "INTERLEAVED": 0,
        ]
        return KernelVariant(
            file: "append.cu", defines: usual.merging(defines) { $1 }.mapValues(String.init))
    }

    static func prefill(_ geometry: CacheGeometry, page: Int) throws -> KernelVariant {
        let settings = try GPUPrefillAttention.Settings(GPUCacheFormat(geometry: geometry, pageSize: page))
        return KernelVariant(file: "prefill.cu", defines: settings.defines.mapValues(String.init), isFast: true)
    }

    /// Grouped attention of new tokens: appending, and a step in one launch on so many blocks.
    static func grouped(
        _ geometry: CacheGeometry, rotated: Int, style: RotaryStyle = .halfSplit, norm: Bool = false, blocks: Int? = nil
    ) throws -> KernelVariant {
        let format = try GPUCacheFormat(geometry: geometry, pageSize: 64)
        guard let blocks else {
            let defines = GPUGroupedAttention.defines(format, rotated: rotated, style: style, norm: norm)
            return KernelVariant(file: "grouped_append.cu", defines: defines.mapValues(String.init))
        }
        let settings = GPUGroupedAttention.StepSettings(
            format, rotated: rotated, style: style, norm: norm, blocks: blocks, multiprocessors: 132)
        return KernelVariant(file: "grouped_step.cu", defines: settings.defines.mapValues(String.init))
    }

    /// New tokens of attention that keeps its key once.
    static func shared(
        _ geometry: CacheGeometry, _ queries: GPUSharedAppend.Queries, style: RotaryStyle = .halfSplit
    ) throws -> KernelVariant {
        let format = try GPUCacheFormat(geometry: geometry, pageSize: 64)
        let defines = GPUSharedAppend.defines(format, queries: queries, rotated: geometry.key, style: style)
        return KernelVariant(file: "shared_append.cu", defines: defines.mapValues(String.init))
    }

    /// Products of each head; with a rotated tail of so many elements.
    static func heads(_ inputs: Int, _ outputs: Int, rows: Int, tail: Int? = nil) -> KernelVariant {
        let product = GPUHeadProduct(
            inputs: inputs, outputs: outputs, heads: 2, rows: rows,
            tail: tail.map { GPUHeadProduct.Tail(width: $0, rotated: $0, style: .halfSplit) })
        return KernelVariant(file: "head_products.cu", defines: product.defines.mapValues(String.init))
    }

    static let all: [KernelVariant] = try! [
        shared(.gta(queryHeads: 12, kvHeads: 4, headWidth: 64), .heads),
        shared(.gta(queryHeads: 5, kvHeads: 1, headWidth: 128), .heads, style: .interleaved),
        shared(.mla(queryHeads: 6, latentWidth: 256, ropeWidth: 32), .latents(count: 1, width: 512)),
        shared(
            .mla(queryHeads: 128, latentWidth: 512, ropeWidth: 64), .latents(count: 1, width: 1536), style: .interleaved
        ),
        shared(.mla(queryHeads: 5, latentWidth: 512, ropeWidth: 64), .untouched(960)),
        shared(.gla(queryHeads: 8, latentHeads: 2, latentWidth: 96, ropeWidth: 48), .latents(count: 2, width: 192)),
        heads(64, 256, rows: 1, tail: 32), heads(64, 256, rows: 32, tail: 32), heads(128, 512, rows: 256, tail: 64),
        heads(128, 512, rows: 8192, tail: 64), heads(256, 64, rows: 1), heads(512, 128, rows: 32),
        heads(512, 128, rows: 256), heads(512, 96, rows: 8192), heads(192, 384, rows: 16),
        decode(.gta(queryHeads: 12, kvHeads: 4, headWidth: 64), queryTokens: 1, page: 64),
        decode(.gta(queryHeads: 5, kvHeads: 1, headWidth: 128), queryTokens: 1, page: 64),
        decode(.mla(queryHeads: 6, latentWidth: 256, ropeWidth: 32), queryTokens: 1, page: 64),
        decode(.mla(queryHeads: 5, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 64),
        decode(.gla(queryHeads: 6, latentHeads: 2, latentWidth: 128, ropeWidth: 32), queryTokens: 1, page: 64),
        decode(.gla(queryHeads: 8, latentHeads: 2, latentWidth: 96, ropeWidth: 48), queryTokens: 1, page: 64),
        prefill(.gta(queryHeads: 12, kvHeads: 4, headWidth: 64), page: 64),
        prefill(.mla(queryHeads: 6, latentWidth: 256, ropeWidth: 32), page: 64),
        prefill(.gla(queryHeads: 6, latentHeads: 2, latentWidth: 128, ropeWidth: 32), page: 64),
        prefill(.gla(queryHeads: 8, latentHeads: 2, latentWidth: 96, ropeWidth: 48), page: 64),
        grouped(.gqa(queryHeads: 9, kvHeads: 3, headWidth: 64), rotated: 64),
        grouped(.gqa(queryHeads: 32, kvHeads: 8, headWidth: 128), rotated: 64, style: .interleaved, norm: true),
        grouped(.gqa(queryHeads: 9, kvHeads: 3, headWidth: 64), rotated: 64, blocks: 3),
        grouped(.gqa(queryHeads: 9, kvHeads: 3, headWidth: 64), rotated: 64, blocks: 768),
        grouped(.gqa(queryHeads: 32, kvHeads: 8, headWidth: 128), rotated: 128, norm: true, blocks: 8),
        grouped(.gqa(queryHeads: 64, kvHeads: 8, headWidth: 128), rotated: 128, blocks: 8),
        grouped(.gqa(queryHeads: 16, kvHeads: 2, headWidth: 256), rotated: 64, style: .interleaved, blocks: 2),
        grouped(.gqa(queryHeads: 24, kvHeads: 8, headWidth: 192), rotated: 192, blocks: 800),
        grouped(.gqa(queryHeads: 4, kvHeads: 2, headWidth: 96), rotated: 96, blocks: 8),
        grouped(.mha(queryHeads: 8, headWidth: 32), rotated: 32, blocks: 8),
        prefill(.gqa(queryHeads: 64, kvHeads: 4, headWidth: 128), page: 16),
        prefill(.gqa(queryHeads: 9, kvHeads: 3, headWidth: 64), page: 64),
        prefill(.gta(queryHeads: 64, kvHeads: 4, headWidth: 128), page: 64),
        prefill(.gla(queryHeads: 16, latentHeads: 2, latentWidth: 256, ropeWidth: 64), page: 8),
        KernelVariant(file: "naive_decode.cu"),
        KernelVariant(file: "schedule.cu"),
        KernelVariant(file: "check.cu"),
        append([:]),
        append(["SHARED": 512, "INTERLEAVED": 1]),
        append(["SHARED": 64, "VALUE": 64, "FP8": 1, "NORM": 0]),
        append(["SHARED": 0, "VALUE": 128, "KEY": 128, "KEY_ONCE": 0, "NORM": 0, "PAGE_SIZE": 1]),
        decode(.gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 1, page: 64),
        decode(.gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 2, page: 64),
        decode(.gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 1, page: 1),
        decode(.gla(queryHeads: 16, latentHeads: 2, latentWidth: 192, ropeWidth: 32), queryTokens: 1, page: 16),
        decode(.gla(queryHeads: 16, latentHeads: 2, latentWidth: 128, ropeWidth: 32), queryTokens: 4, page: 128),
        decode(
            .gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 1, page: 64,
            element: .f8e4m3),
        decode(
            .gla(queryHeads: 16, latentHeads: 2, latentWidth: 192, ropeWidth: 48), queryTokens: 5, page: 64,
            element: .f8e4m3),
        decode(.mla(queryHeads: 16, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 64, element: .f8e4m3),
        decode(.mla(queryHeads: 128, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 16, element: .f8e4m3),
        decode(.mla(queryHeads: 128, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 64),
        decode(.mla(queryHeads: 128, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 1),
        decode(.mla(queryHeads: 16, latentWidth: 512, ropeWidth: 64), queryTokens: 2, page: 64),
        decode(.mla(queryHeads: 16, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 1),
        decode(.gta(queryHeads: 64, kvHeads: 4, headWidth: 128), queryTokens: 1, page: 64),
        decode(.gta(queryHeads: 64, kvHeads: 4, headWidth: 128), queryTokens: 8, page: 16, element: .f8e4m3),
        decode(.gqa(queryHeads: 64, kvHeads: 4, headWidth: 128), queryTokens: 1, page: 64),
        decode(.mqa(queryHeads: 32, headWidth: 64), queryTokens: 3, page: 64),
    ]
}

private let nvrtcIsHere = CUDALibraries.nvrtc.report.status == .loaded
/// Where the tests are prepared with NVRTC, its absence is a failure, not a skip.
private let nvrtcIsRequired = ProcessInfo.processInfo.environment["APUS_TEST_NVRTC"] == "required"

@Suite(.enabled(if: nvrtcIsHere || nvrtcIsRequired, "\(CUDALibraries.nvrtc.report.message)"))
struct CUDAKernelTests {
    @Test(arguments: KernelVariant.all)
    func compilesForHopper(variant: KernelVariant) throws {
        let source = AttentionSources.source(variant.file, defines: variant.defines)
        let (cubin, ptx, log) = try NVRTCCompiler().compile(
            source, target: "sm_90a", extraOptions: ["--ptxas-options=-v"])
        #expect(cubin.starts(with: [0x7f, 0x45, 0x4c, 0x46]), "an ELF file")
        // One line for each entry: "... 0 bytes spill stores, 0 bytes spill loads".
        let spills = log.split(separator: "\n").filter { $0.contains("bytes spill stores") }
        #expect(!spills.isEmpty, "the log tells of spills")
        #expect(spills.allSatisfy { $0.contains(" 0 bytes spill stores, 0 bytes spill loads") }, "\(log)")
        if variant.isFast {
            #expect(ptx.contains("wgmma.mma_async"))
            #expect(ptx.contains(variant.defines["GATHER"] == "1" ? "cp.async.cg.shared" : "cp.async.bulk.tensor"))
            #expect(!log.contains("wgmma"), "the assembler serialises the products: \(log)")
        }
    }

    @Test func aWrongKernelGivesTheCompilersWords() throws {
        let source = CUDASource(name: "wrong.cu", text: "extern \"C\" __global__ void f() { undeclared(); }")
        #expect {
            try NVRTCCompiler().compile(source, target: "sm_90a")
        } throws: { error in
            guard case CUDAError.compilation("wrong.cu", "sm_90a", let log) = error else { return false }
            return log.contains("undeclared") && log.contains("wrong.cu(1)")
        }
    }

    @Test func keptInACache() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("apus-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let source = CUDASource(
            name: "set.cu", text: "extern \"C\" __global__ void set(float *x) { x[threadIdx.x] = VALUE; }",
            defines: ["VALUE": "2.0f"])
        let compiler = try NVRTCCompiler()
        let first = try CUDACubinCache(folder: folder).cubin(for: source, target: "sm_90a", compiler: compiler)
        let second = try CUDACubinCache(folder: folder).cubin(
            for: source, target: "sm_90a", compiler: Unavailable(compiler))
        #expect(first == second)
    }

    /// A compiler of the same identity that must not be asked.
    private struct Unavailable: CUDACompiler {
        let identity: String

        init(_ compiler: NVRTCCompiler) {
            identity = compiler.identity
        }

        func compile(_ source: CUDASource, target: String) throws -> [UInt8] {
            throw CUDAError.compilation(kernel: source.name, target: target, log: "asked for a cached kernel")
        }
    }
}

@Suite struct AttentionSourcesTests {
    @Test func everyFileIsEmbeddedAndCompiled() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../Sources/ApusAttention/Kernels").standardized.path
        let files = try FileManager.default.contentsOfDirectory(atPath: folder)
        #expect(Set(files.filter { $0.hasSuffix(".cu") }) == Set(AttentionSources.kernels.keys))
        #expect(Set(files.filter { $0.hasSuffix(".cuh") }) == Set(AttentionSources.headers.map(\.name)))
        #expect(
            Set(KernelVariant.all.map(\.file)) == Set(AttentionSources.kernels.keys), "a variant of each is compiled")
        for (name, text) in AttentionSources.kernels {
            #expect(try text == String(contentsOfFile: folder + "/" + name, encoding: .utf8))
        }
    }
}
