import ArgumentParser

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Flags of a server whose model is computed by ranks.
struct FrontOptions: ParsableArguments {
    @Option(help: "Ranks that a copy of the model is cut over.") var tensorParallel = 1
    @Option(help: "Copies of the model, each with ranks of its own, behind one address.") var dataParallel = 1
    @Option(
        help: """
            What starts ranks, before -n and their number: mpirun or srun with its flags. By default mpirun, and for ranks on \
            GPUs apus launch.
            """)
    var launcher: String?
    @Option(help: .hidden) var rankPort: Int?
    @Option(help: .hidden) var firstGpu = 0

    func validate() throws {
        for (name, value) in [("tensor-parallel", tensorParallel), ("data-parallel", dataParallel)] where value < 1 {
            throw ValidationError("--\(name): expected an integer >= 1, found \(value)")
        }
        if launcher?.allSatisfy(\.isWhitespace) ?? false {
            throw ValidationError("--launcher: expected a command, found none")
        }
    }

    /// Whether this process starts ranks.
    var isFront: Bool { rankPort == nil && (tensorParallel > 1 || dataParallel > 1) }

    /// What starts a copy whose first rank listens on a port: this program again, with the same arguments. Copies on GPUs take
    /// those behind the ones of the copies before them.
    func command(copy: Int, port: Int, on device: ComputeDevice) -> [String] {
        let usual = device == .cuda ? [Self.program, "launch"] : ["mpirun"]
        let launcher = launcher.map { $0.split(separator: " ").map(String.init) } ?? usual
        return launcher + ["-n", "\(tensorParallel)", Self.program] + CommandLine.arguments.dropFirst()
            + ["--rank-port", "\(port)"] + (device == .cuda ? ["--first-gpu", "\(copy * tensorParallel)"] : [])
    }

    private static var program: String {
        var path = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &path, path.count - 1)
        guard count > 0 else { return CommandLine.arguments[0] }
        return String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Ends this process when its standard input does: what a front holds open as long as it lives.
enum InputWatch {
    static func start() {
        var thread = pthread_t()
        let status = pthread_create(
            &thread, nil,
            { _ in
                var byte: UInt8 = 0
                while read(0, &byte, 1) > 0 {}
                kill(getpid(), SIGTERM)
                return nil
            }, nil)
        if status == 0 { pthread_detach(thread) }
    }
}
