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

    /// The decode kernel of a geometry with the settings that Benchmarks/gpu/settings.py chooses for it.
    static func decode(_ geometry: CacheGeometry, queryTokens: Int, page: Int) -> KernelVariant {
        let once = geometry.keyKept == .once
        let width = geometry.shared + geometry.value
        let perGroup = geometry.headsPerGroup
        let wide = width > 256
        let warpgroups = wide || perGroup * queryTokens > 64 ? 2 : 1
        let resident = width <= 128 && warpgroups == 1 ? 2 : 1
        let panels = (width + (once ? 0 : geometry.key) + 63) / 64 + (once ? 1 : 0)
        let query =
            (wide ? 1 : warpgroups) * ((geometry.shared + geometry.key - 1) / 64) * 8192 + (wide ? 8192 : 0)
        let limit = 228 * 1024 / resident - 1024 - 2048
        let block = !wide && (limit - query) / (panels * 64 * 128) < 3 ? 32 : 64
        let stage = panels * block * 128
        let most = page % 8 != 0 || warpgroups == 2 ? 6 : max(3, 120 * 1024 / resident / stage)
        let values = [
            "SHARED": geometry.shared, "VALUE": geometry.value, "KEY": geometry.key, "KEY_ONCE": once ? 1 : 0,
            "PAGE_SIZE": page, "BLOCK_N": block, "STAGES": min(most, (limit - query) / stage),
            "WARPGROUPS": warpgroups, "QUERY_TILES": 64 % perGroup == 0 || perGroup % 64 == 0 ? 1 : 0,
        ]
        return KernelVariant(
            file: wide ? "decode_wide.cu" : "decode.cu", defines: values.mapValues(String.init), isFast: true)
    }

    static let all: [KernelVariant] = try! [
        KernelVariant(file: "naive_decode.cu"),
        KernelVariant(file: "schedule.cu"),
        decode(.gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 1, page: 64),
        decode(.gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 2, page: 64),
        decode(.gla(queryHeads: 128, latentHeads: 2, latentWidth: 256, ropeWidth: 64), queryTokens: 1, page: 1),
        decode(.gla(queryHeads: 16, latentHeads: 2, latentWidth: 192, ropeWidth: 32), queryTokens: 1, page: 16),
        decode(.gla(queryHeads: 16, latentHeads: 2, latentWidth: 128, ropeWidth: 32), queryTokens: 4, page: 128),
        decode(.mla(queryHeads: 128, latentWidth: 512, ropeWidth: 64), queryTokens: 1, page: 64),
        decode(.mla(queryHeads: 16, latentWidth: 512, ropeWidth: 64), queryTokens: 2, page: 64),
        decode(.gta(queryHeads: 64, kvHeads: 4, headWidth: 128), queryTokens: 1, page: 64),
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
            #expect(ptx.contains("cp.async.bulk.tensor"))
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
