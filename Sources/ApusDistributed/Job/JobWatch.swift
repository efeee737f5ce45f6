import ApusSynchronization

/// What this rank tells the others about itself: its collectives, and what keeps it from them.
final class JobWatch: Sendable {
    /// A stretch of work without collectives that may take long: loading a model, writing a checkpoint.
    struct Phase: Sendable, Equatable {
        var name: String
        /// Seconds that others wait for it.
        var limit: Double
    }

    private struct State {
        var collectives: [CollectiveProgress] = []
        var phases: [Phase] = []
    }

    private let state = Locked(State())

    func add(_ progress: CollectiveProgress) { state.withLock { $0.collectives.append(progress) } }

    /// Runs `body`, while the others allow `limit` seconds without a collective.
    func during<R>(_ name: String, limit: Double, _ body: () throws -> R) rethrows -> R {
        state.withLock { $0.phases.append(Phase(name: name, limit: limit)) }
        defer { state.withLock { _ = $0.phases.popLast() } }
        return try body()
    }

    var report: RankReport {
        state.withLock { state in
            RankReport(collectives: state.collectives.map(\.reading), phase: state.phases.last)
        }
    }
}

/// What a rank was doing when it last told.
struct RankReport: Sendable, Equatable {
    var collectives: [CollectiveProgress.Reading] = []
    var phase: JobWatch.Phase?

    /// One line without line breaks.
    var text: String {
        var parts = collectives.map {
            "\($0.name):\($0.begun):\($0.over):\($0.kind.rawValue):\($0.waiting.map { "\($0)" } ?? "-")"
        }
        if let phase { parts.append("phase:\(phase.limit):\(phase.name)") }
        return parts.joined(separator: ";")
    }

    init(collectives: [CollectiveProgress.Reading] = [], phase: JobWatch.Phase? = nil) {
        self.collectives = collectives
        self.phase = phase
    }

    /// Reads what ``text`` writes; nil where it is something else.
    init?(text: String) {
        for part in text.split(separator: ";") {
            let fields = part.split(separator: ":", omittingEmptySubsequences: false)
            if fields.first == "phase", fields.count == 3, let limit = Double(fields[1]) {
                phase = JobWatch.Phase(name: String(fields[2]), limit: limit)
                continue
            }
            guard fields.count == 5, let name = UInt64(fields[0]), let begun = Int(fields[1]),
                let over = Int(fields[2]), let kind = Collective.Kind(rawValue: String(fields[3]))
            else { return nil }
            collectives.append(
                .init(name: name, begun: begun, over: over, kind: kind, waiting: Double(fields[4])))
        }
    }
}

extension RankReport {
    /// The ranks that others have waited for too long, with the reason; nil where nobody has.
    /// - Parameters:
    ///   - reports: the last of each rank.
    ///   - timeout: seconds that a rank may be late, unless it is in a phase that allows more.
    static func late(_ reports: [Int: RankReport], timeout: Double) -> (ranks: [Int], reason: String)? {
        for (rank, report) in reports.sorted(by: { $0.key < $1.key }) {
            for reading in report.collectives {
                guard let waiting = reading.waiting, waiting > timeout else { continue }
                let number = reading.over + 1
                var members: [Int: CollectiveProgress.Reading] = [:]
                for (member, other) in reports {
                    members[member] = other.collectives.first { $0.name == reading.name }
                }
                let late = members.filter { $0.value.begun < number }.keys.sorted().filter {
                    waiting > (reports[$0]?.phase?.limit ?? 0)
                }
                guard !late.isEmpty else { continue }
                let busy = late.compactMap { reports[$0]?.phase?.name }.first.map { " (\($0))" } ?? ""
                return (
                    late,
                    "did not come to the \(reading.kind.rawValue) numbered \(number)\(busy), for which rank \(rank) has "
                        + "waited \(Int(waiting)) s"
                )
            }
        }
        return nil
    }
}
