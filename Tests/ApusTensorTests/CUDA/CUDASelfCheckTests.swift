import ApusTensor
import Foundation
import Testing

/// What the checks of a GPU need, as far as it can be had without one.
@Suite(
    .enabled(
        if: CUDALibraries.nvrtc.report.status == .loaded
            || ProcessInfo.processInfo.environment["APUS_TEST_NVRTC"] == "required",
        "\(CUDALibraries.nvrtc.report.message)"))
struct CUDASelfCheckTests {
    @Test(arguments: ["sm_80", "sm_90a"])
    func theCheckKernelsCompile(target: String) throws {
        let cubin = try NVRTCCompiler().compile(CUDASelfCheck.source, target: target)
        #expect(cubin.starts(with: [0x7f, 0x45, 0x4c, 0x46]), "an ELF file")
    }

    @Test func aSharedCacheIsFilledAndVerified() throws {
        try withFolder { folder in
            #expect(throws: (any Error).self) { try CUDASelfCheck.verifySharedCache(folder: folder) }
            try CUDASelfCheck.fillSharedCache(folder: folder)
            try CUDASelfCheck.verifySharedCache(folder: folder)
            let entry = try #require(FileManager.default.contentsOfDirectory(atPath: folder).first)
            truncate("\(folder)/\(entry)", 50)
            #expect(throws: (any Error).self) { try CUDASelfCheck.verifySharedCache(folder: folder) }
        }
    }
}
