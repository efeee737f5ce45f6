import ApusModels
import ApusTeaching
import ApusText
import ArgumentParser

/// `apus reward theory`: the theorems on reward variance, in numbers.
struct RewardTheory: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "theory",
        abstract: "Check the theorems on reward variance over random tabular policies.",
        discussion: """
            Exact gradient flow on tabular softmax policies: each inequality of Razin et al. 2025 (arXiv 2503.15477) over \
            random instances, with how near they come to it. Exits with 1 when one is broken.

            EXAMPLES:
              apus reward theory
              apus reward theory --instances 1000 --report theory.html
            """)

    @Option(help: "Random instances of each inequality.") var instances = 200
    @Option(help: "Of the random draws.") var seed: UInt64 = 0
    @Option(help: "Write the report with its figures here.", completion: .file(extensions: ["html"])) var report:
        String?
    @Flag(help: "Print every instance as JSON instead of the table.") var json = false

    func validate() throws {
        if instances < 1 { throw ValidationError("--instances: expected at least 1, found \(instances)") }
    }

    func run() throws {
        let result = TheoryExperiments(instances: instances, seed: seed).run()
        if let report {
            let file = try AtomicFile(path: report)
            try file.write(Array(result.html.utf8))
            try file.publish()
        }
        if json {
            try Terminal.out("\(result.json.serialized())\n")
        } else {
            try Terminal.out("\(result.table)\n\(result.reading)\n")
            if let report { try Terminal.out("Report: \(report)\n") }
        }
        if !result.holds { throw ExitCode.failure }
    }
}
