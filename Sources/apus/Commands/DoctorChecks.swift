import ApusTensor

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The checks of `apus doctor --check`: those of the runtime, before them that of several processes with one cache.
enum DoctorChecks {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    static func run(on device: CUDADevice) throws -> [CUDASelfCheck.Outcome] {
        let files = FileManager.default
        let folder = files.temporaryDirectory.appendingPathComponent("apus-check-\(UUID().uuidString)").path
        try files.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? files.removeItem(atPath: folder) }
        let shared = CUDASelfCheck.Outcome(name: "kernel cache of several processes") {
            try shareCache(folder: folder + "/shared")
        }
        return [shared] + (try CUDASelfCheck.run(on: device, folder: folder + "/kernels"))
    }

    /// Three processes of this program fill one empty cache at once.
    private static func shareCache(folder: String) throws {
        let arguments = ["apus", "doctor", "--fill-cache", folder]
        var processes: [pid_t] = []
        for _ in 0..<3 {
            var process: pid_t = 0
            var words = arguments.map { strdup($0) } + [nil]
            defer { words.forEach { free($0) } }
            let code = posix_spawn(&process, "/proc/self/exe", nil, nil, &words, environ)
            guard code == 0 else { throw Failure(description: "posix_spawn: \(String(cString: strerror(code)))") }
            processes.append(process)
        }
        for process in processes {
            var status: Int32 = 0
            while waitpid(process, &status, 0) < 0 && errno == EINTR {}
            guard status == 0 else { throw Failure(description: "a process that fills the cache ended with \(status)") }
        }
        try CUDASelfCheck.verifySharedCache(folder: folder)
    }
}
