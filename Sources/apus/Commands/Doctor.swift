import ApusTensor
import ApusText
import ArgumentParser

/// `apus doctor`.
struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what this machine offers: CPU, libraries, GPUs and their measured rates.",
        discussion: """
            Libraries of NVIDIA's are looked for in LD_LIBRARY_PATH, CUDA_HOME, the usual folders and Python \
            environments, or only in APUS_CUDA_LIBRARY_PATH when it is set. A machine without a GPU is no error.

            EXAMPLES:
              apus doctor
              apus doctor --json
              apus doctor --check
            """)

    @Flag(help: "Print one JSON object.")
    var json = false

    @Flag(help: "Do not measure the CPU and the GPUs.")
    var quick = false

    @Flag(help: "Exercise the GPU runtime on the first GPU instead. Fails when a check does, or without a GPU.")
    var check = false

    @Option(help: ArgumentHelp("Compile the kernels of a check into a cache folder.", visibility: .hidden))
    var fillCache: String?

    func run() throws {
        if let fillCache {
            try CUDASelfCheck.fillSharedCache(folder: fillCache)
        } else if check {
            try runChecks()
        } else {
            let report = DoctorReport(measure: !quick)
            print(json ? report.json.serialized(.pretty) : report.text)
        }
    }

    private func runChecks() throws {
        let outcomes = try DoctorChecks.run(on: CUDADevice.device())
        if json {
            let list = outcomes.map { outcome -> JSONValue in
                [
                    "check": .string(outcome.name), "problem": outcome.problem.map { .string($0) } ?? .null,
                    "seconds": .double(outcome.seconds),
                ]
            }
            print(JSONValue.array(list).serialized(.pretty))
        } else {
            for outcome in outcomes {
                let milliseconds = Int(outcome.seconds * 1000)
                print("\(outcome.problem == nil ? "ok    " : "FAILED") \(outcome.name) (\(milliseconds) ms)")
                if let problem = outcome.problem { print("       \(problem)") }
            }
        }
        if outcomes.contains(where: { $0.problem != nil }) { throw ExitCode.failure }
    }
}
