import ApusTensor
import ApusText
import ApusTraining
import ArgumentParser

/// `apus check tensor`.
struct CheckTensor: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tensor",
        abstract: "Hold every tensor operation of a device against float64.",
        discussion: """
            Fresh random data of odd shapes, forward and backward, float32 and bf16. Fails when an error exceeds its bound.

            EXAMPLES:
              apus check tensor
              apus check tensor --device cuda --cases 20
            """)

    @Option(help: "cpu, cuda, or cuda:N.") var device = "cpu"
    @Option(help: "Cases of each operation.") var cases = 6
    @Option(help: "Seed of the data; another one each time by default.") var seed: UInt64?
    @Option(help: "Threads of the CPU; the cores this process may use by default.") var threads: Int?
    @Flag(help: "Print a JSON array with an object a result.") var json = false

    func validate() throws {
        guard (1...1000).contains(cases) else {
            throw ValidationError("--cases: expected an integer from 1 to 1000, found \(cases)")
        }
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
    }

    func run() throws {
        guard let place = Device(device) else {
            throw ValidationError("--device: expected cpu, cuda or cuda:N, found \(device)")
        }
        let backend: any DifferentiableBackend =
            if case .cuda(let ordinal) = place {
                try CUDABackend(ordinal: ordinal)
            } else {
                CPUBackend(threads: threads)
            }
        let seed = self.seed ?? UInt64.random(in: 0...UInt64(UInt32.max))
        var check = TensorCheck(backend, cases: cases, seed: seed)
        let rows = try check.run()
        try Terminal.out(json ? object(rows, seed) : table(rows, seed, place))
        if !rows.allSatisfy(\.passes) { throw ExitCode.failure }
    }

    private func table(_ rows: [TensorCheck.Row], _ seed: UInt64, _ place: Device) -> String {
        let cells =
            [["", "operation", "dtypes", "result", "cases", "worst error", "bound"]]
            + rows.map {
                [
                    $0.passes ? "ok" : "FAILED", $0.operation, $0.dtypes, $0.part, "\($0.cases)",
                    scientific($0.worstError), $0.tolerance == 0 ? "exact" : scientific($0.tolerance),
                ]
            }
        let widths = cells[0].indices.map { column in cells.map { $0[column].count }.max()! }
        var text = cells.map { line in
            zip(line, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined(separator: "  ")
                .trimmedEnd
        }.joined(separator: "\n")
        let failed = rows.count { !$0.passes }
        text += "\n\(rows.count - failed) of \(rows.count) results on \(place) within their bounds (seed \(seed))\n"
        return text
    }

    private func object(_ rows: [TensorCheck.Row], _ seed: UInt64) -> String {
        let values = rows.map { row -> JSONValue in
            [
                "operation": .string(row.operation), "dtypes": .string(row.dtypes), "result": .string(row.part),
                "cases": .integer(Int64(row.cases)), "worstError": .double(row.worstError),
                "bound": .double(row.tolerance), "passes": .bool(row.passes), "seed": .integer(Int64(clamping: seed)),
            ]
        }
        return JSONValue.array(values).serialized() + "\n"
    }
}

/// `1.2e-5`.
func scientific(_ value: Double) -> String {
    guard value > 0, value.isFinite else { return "\(value)" }
    var (mantissa, exponent) = (value, 0)
    while mantissa < 1 { (mantissa, exponent) = (mantissa * 10, exponent - 1) }
    return "\(fixed(mantissa, 1))e\(exponent)"
}

extension String {
    fileprivate var trimmedEnd: String {
        var result = self
        while result.last == " " { result.removeLast() }
        return result
    }
}
