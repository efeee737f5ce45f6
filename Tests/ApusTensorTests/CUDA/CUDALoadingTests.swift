import ApusTensor
import Foundation
import Testing

@Suite struct CUDALoadingTests {
    @Test func nothingThere() throws {
        try withFolder { folder in
            let driver = CUDALibraries.loadDriver(folders: folder)
            #expect(driver.report.status == .missing)
            #expect(driver.report.message.contains("libcuda.so.1"))
            #expect(driver.report.message.contains("CUDA 12.0 or newer"))
            #expect(driver.report.message.contains(folder))
            let nvrtc = CUDALibraries.loadNVRTC(folders: folder, driverVersion: 0)
            #expect(nvrtc.report.status == .missing)
            #expect(nvrtc.report.message.contains("libnvrtc.so.13 or libnvrtc.so.12"))
            let products = CUDALibraries.loadCublasLt(folders: folder, driverVersion: 0)
            #expect(products.report.status == .missing)
            #expect(products.report.message.contains("libcublasLt.so.13"))
            #expect(throws: CUDAError.library(nvrtc.report.message)) { try NVRTCCompiler(nvrtc) }
        }
    }

    @Test func textInsteadOfALibrary() throws {
        try withFolder { folder in
            let file = folder + "/libcuda.so.1"
            try String(repeating: "not a library\n", count: 100).write(toFile: file, atomically: true, encoding: .utf8)
            let report = CUDALibraries.loadDriver(folders: "/nonexistent:" + folder).report
            #expect(report.status == .broken)
            #expect(report.path == file)
            #expect(report.message.contains("does not load"))
        }
    }

    @Test func onlyAnOlderVersionThere() throws {
        try withFolder { folder in
            try "".write(toFile: folder + "/libnvrtc.so.11.2", atomically: true, encoding: .utf8)
            let report = CUDALibraries.loadNVRTC(folders: folder, driverVersion: 0).report
            #expect(report.status == .tooOld)
            #expect(report.message.contains("found only \(folder)/libnvrtc.so.11.2"))
        }
    }

    @Test func driverOfAnOlderCUDA() throws {
        try withFolder { folder in
            try build("int cuDriverGetVersion(int *v) { *v = 11040; return 0; }", to: folder + "/libcuda.so.1")
            let report = CUDALibraries.loadDriver(folders: folder).report
            #expect(report.status == .tooOld)
            #expect(report.version == 11040)
            #expect(report.message.contains("CUDA 11.4"))
        }
    }

    @Test func driverThatLacksAFunction() throws {
        try withFolder { folder in
            try build("int cuDriverGetVersion(int *v) { *v = 12040; return 0; }", to: folder + "/libcuda.so.1")
            let report = CUDALibraries.loadDriver(folders: folder).report
            #expect(report.status == .tooOld)
            #expect(report.message.contains("version 12.4"))
            #expect(report.message.contains("lacks cuInit"))
        }
    }

    @Test func compilerWithoutItsBuiltins() throws {
        try withFolder { folder in
            try build(nvrtc(major: 12, minor: 2), to: folder + "/libnvrtc.so.12")
            let report = CUDALibraries.loadNVRTC(folders: folder, driverVersion: 0).report
            #expect(report.status == .tooOld)
            #expect(report.message.contains("lacks libnvrtc-builtins.so.12.2 beside it"))
        }
    }

    @Test func compilerOfTheVersionThatTheDriverRuns() throws {
        try withFolder { folder in
            for major in [12, 13] {
                try build(nvrtc(major: major, minor: 1), to: "\(folder)/libnvrtc.so.\(major)")
                try build("int builtins;", to: "\(folder)/libnvrtc-builtins.so.\(major).1")
            }
            #expect(CUDALibraries.loadNVRTC(folders: folder, driverVersion: 0).report.version == 13010)
            #expect(CUDALibraries.loadNVRTC(folders: folder, driverVersion: 13000).report.version == 13010)
            let older = CUDALibraries.loadNVRTC(folders: folder, driverVersion: 12080).report
            #expect(older.status == .loaded)
            #expect(older.version == 12010)

            try FileManager.default.removeItem(atPath: folder + "/libnvrtc.so.12")
            let report = CUDALibraries.loadNVRTC(folders: folder, driverVersion: 12080).report
            #expect(report.status == .tooNew)
            #expect(report.message.contains("the driver is of CUDA 12.8"))
        }
    }

    @Test func aBrokenFileDoesNotHideAGoodOne() throws {
        try withFolder { folder in
            let (bad, good) = (folder + "/bad", folder + "/good")
            for path in [bad, good] {
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            }
            try "text".write(toFile: bad + "/libnvrtc.so.12", atomically: true, encoding: .utf8)
            try build(nvrtc(major: 12, minor: 3), to: good + "/libnvrtc.so.12")
            try build("int builtins;", to: good + "/libnvrtc-builtins.so.12.3")
            let report = CUDALibraries.loadNVRTC(folders: bad + ":" + good, driverVersion: 0).report
            #expect(report.status == .loaded)
            #expect(report.path == good + "/libnvrtc.so.12")
            #expect(report.message == "")
        }
    }

    @Test func errorsCarryCallCodeAndKernel() {
        let error = CUDAError.call(
            name: "cuLaunchKernelEx", code: 700, codeName: "CUDA_ERROR_ILLEGAL_ADDRESS", meaning: "an illegal access",
            kernel: "decode")
        #expect(
            "\(error)"
                == "cuLaunchKernelEx failed with CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal access, kernel decode")
        let memory = CUDAError.outOfMemory(requested: 5, free: 1, total: 9, cached: 3, inUse: 4)
        #expect("\(memory)" == "out of GPU memory: requested 5 bytes, free 1 of 9, in use 4, cached 3")
    }

    private func nvrtc(major: Int, minor: Int) -> String {
        let names = [
            "GetErrorString", "CreateProgram", "DestroyProgram", "CompileProgram", "GetProgramLogSize", "GetProgramLog",
            "GetCUBINSize", "GetCUBIN", "GetPTXSize", "GetPTX",
        ]
        return "int nvrtcVersion(int *a, int *b) { *a = \(major); *b = \(minor); return 0; }\n"
            + names.map { "int nvrtc\($0)(void) { return 1; }\n" }.joined()
    }

    /// Compiles a shared library with the C compiler that builds this package.
    private func build(_ source: String, to path: String) throws {
        let file = path + ".c"
        try source.write(toFile: file, atomically: true, encoding: .utf8)
        let compiler = Process()
        compiler.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        compiler.arguments = ["clang", "-shared", "-fPIC", "-Wl,-soname,\(path)", "-o", path, file]
        try compiler.run()
        compiler.waitUntilExit()
        try #require(compiler.terminationStatus == 0)
        try FileManager.default.removeItem(atPath: file)
    }
}

/// Lends a new folder, removed afterwards.
func withFolder(_ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("apus-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try body(folder.path)
}
