import ApusSynchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// How ranks watch each other: a TCP connection of each to rank 0, beside whatever moves the data.
///
/// A rank that dies closes its connection; one that hangs is silent, or late for a collective that others wait in. Rank 0
/// says which it was and ends the job; where rank 0 itself is gone, the others do. Ending is leaving the process with an
/// error: that makes every launcher end the rest, and needs no call that could hang as well.
///
/// Lines to rank 0: `beat` with what the rank is doing, `give` with its part of an exchange, `fail`, `bye`. Lines from rank
/// 0: `beat`, `all` with the parts of an exchange, `tell` with numbers, `end`, `bye`.
final class JobLink: Sendable {
    let rank: Int
    let size: Int
    private let timeout: Double
    private let watch: JobWatch
    /// Of rank 0 all others; of others rank 0.
    private let peers: [Int: LinkPeer]
    private let state: Monitor<State>

    struct State {
        var exchanges = 0
        /// On rank 0: the parts of an exchange by rank.
        var parts: [Int: [Int: String]] = [:]
        var answers: [Int: [String]] = [:]
        /// What rank 0 has told and nobody has heard yet.
        var told: [[Int32]] = []
        var reports: [Int: RankReport] = [:]
        var heard: [Int: ContinuousClock.Instant] = [:]
        var hasLeft: Set<Int> = []
        var isLeaving = false
        var hasEnded = false
    }

    /// Seconds between two beats.
    private static let beat = 0.5

    init(rank: Int, size: Int, peers: [LinkPeer], timeout: Double, watch: JobWatch) throws(CommunicationError) {
        self.rank = rank
        self.size = size
        self.timeout = timeout
        self.watch = watch
        self.peers = Dictionary(uniqueKeysWithValues: peers.map { ($0.rank, $0) })
        let now = ContinuousClock.now
        state = Monitor(State(heard: Dictionary(uniqueKeysWithValues: peers.map { ($0.rank, now) })))
        guard SystemThread.start({ [self] in look() }) else {
            throw .call("pthread_create", reason: "no thread to watch the other ranks")
        }
    }

    /// Every rank's text, by rank. All ranks call it the same number of times.
    /// - Parameter seconds: waited for them; nil for as long as ranks may be late.
    func exchange(_ text: String, seconds: Double? = nil) throws(CommunicationError) -> [String] {
        let timeout = seconds ?? self.timeout
        let number = state.withLock { state in
            state.exchanges += 1
            return state.exchanges
        }
        if rank == 0 {
            take(text, of: 0, number)
        } else {
            peers[0]?.socket.send("give \(number) \(LinkText.encoded(text))")
        }
        let answer = state.wait(seconds: timeout) { $0.answers.removeValue(forKey: number) }
        if let answer { return answer }
        let missing = state.withLock { state in
            (0..<size).filter { rank == 0 && state.parts[number]?[$0] == nil }.map { name(of: $0) }
        }
        throw .link(
            missing.isEmpty
                ? "rank 0 gave no answer within \(timeout) s"
                : "not heard from within \(timeout) s: \(missing.joined(separator: ", "))")
    }

    /// Rank 0: tells all others something.
    func tell(_ numbers: [Int32]) throws(CommunicationError) {
        let line = "tell \(LinkNumbers.encoded(numbers))"
        for (_, peer) in peers.sorted(by: { $0.key < $1.key }) where !peer.socket.send(line) {
            throw .link("\(peer.name) does not hear")
        }
    }

    /// Another rank: what rank 0 tells next. Waits for it, as long as the job lasts.
    func hear() -> [Int32] {
        state.wait { $0.told.isEmpty ? nil : $0.told.removeFirst() }
    }

    /// Ends the job with the reason that this rank gives.
    func fail(_ reason: String) -> Never {
        if rank == 0 { end(reason: "\(name(of: 0)): \(reason)") }
        peers[0]?.socket.send("fail \(LinkText.encoded(reason))")
        // Rank 0 tells and ends all; where it does not, this rank does.
        sleep(3)
        Self.tell("\(name(of: rank)): \(reason)")
        _exit(1)
    }

    /// Ends the watch; the ranks have met in a barrier before.
    func finish() {
        state.withLock { $0.isLeaving = true }
        for peer in peers.values { peer.socket.send("bye") }
    }

    private func name(of rank: Int) -> String { peers[rank]?.name ?? "rank \(rank)" }

    // MARK: The thread that watches.

    private func look() {
        var lines = peers.mapValues { LinkLines($0.socket) }
        var beaten = ContinuousClock.now - .seconds(1)
        while !state.withLock({ $0.isLeaving }) {
            let open = lines.values.filter { !$0.hasEnded }
            LinkPoll.wait(open.map(\.socket.descriptor), milliseconds: 100)
            for (peer, _) in peers {
                guard lines[peer]?.hasEnded == false else { continue }
                for line in lines[peer]!.read() { take(line, from: peer) }
                if lines[peer]!.hasEnded { gone(peer) }
            }
            let now = ContinuousClock.now
            guard beaten.duration(to: now) >= .seconds(Self.beat) else { continue }
            beaten = now
            let report = watch.report
            for peer in peers.values { peer.socket.send("beat \(report.text)") }
            check(report, now)
        }
    }

    private func take(_ line: String, from peer: Int) {
        let now = ContinuousClock.now
        state.withLock { $0.heard[peer] = now }
        let fields = line.split(separator: " ", maxSplits: 2)
        switch fields.first {
        case "beat":
            let report = RankReport(text: String(line.dropFirst(5)))
            state.withLock { $0.reports[peer] = report }
        case "give" where fields.count >= 2:
            guard let number = Int(fields[1]), let text = LinkText.decoded(fields.count > 2 ? fields[2] : "") else {
                return
            }
            take(text, of: peer, number)
        case "all" where fields.count == 3:
            guard let number = Int(fields[1]) else { return }
            let parts = fields[2].split(separator: ",", omittingEmptySubsequences: false)
            state.withLock { $0.answers[number] = parts.map { LinkText.decoded($0) ?? "" } }
            state.signalAll()
        case "tell":
            guard let numbers = LinkNumbers.decoded(line.dropFirst(5)) else { return }
            state.withLock { $0.told.append(numbers) }
            state.signalAll()
        case "fail": end(reason: "\(name(of: peer)): \(LinkText.decoded(line.dropFirst(5)) ?? "")")
        case "end": _exit(1)
        case "bye": state.withLock { _ = $0.hasLeft.insert(peer) }
        default: break
        }
    }

    /// On rank 0: a part of an exchange; the last one answers all.
    private func take(_ text: String, of peer: Int, _ number: Int) {
        let answer: [String]? = state.withLock { state in
            state.parts[number, default: [:]][peer] = text
            guard state.parts[number]?.count == size else { return nil }
            let parts = state.parts.removeValue(forKey: number) ?? [:]
            let answer = parts.sorted { $0.key < $1.key }.map(\.value)
            state.answers[number] = answer
            return answer
        }
        guard let answer else { return }
        let line = "all \(number) " + answer.map(LinkText.encoded).joined(separator: ",")
        for peer in peers.values { peer.socket.send(line) }
        state.signalAll()
    }

    private func gone(_ peer: Int) {
        let expected = state.withLock { $0.isLeaving || $0.hasLeft.contains(peer) }
        if !expected { end(reason: "\(name(of: peer)) is gone: its process ended before the job did") }
    }

    private func check(_ own: RankReport, _ now: ContinuousClock.Instant) {
        let (heard, left, others) = state.withLock { ($0.heard, $0.hasLeft, $0.reports) }
        for (peer, time) in heard.sorted(by: { $0.key < $1.key }) where !left.contains(peer) {
            let silence = time.duration(to: now).inWholeSeconds
            if silence > timeout {
                end(
                    reason: "\(name(of: peer)) is silent for \(Int(silence)) s: stopped, or out of reach",
                    killing: peers[peer])
            }
        }
        guard rank == 0 else { return }
        var reports = others
        reports[0] = own
        if let (late, reason) = RankReport.late(reports, timeout: timeout) {
            end(reason: "\(late.map { name(of: $0) }.joined(separator: ", ")) \(reason)")
        }
    }

    /// - Parameter silent: a rank that may be stopped: it does not hear that the job ends, and some launchers wait for it.
    private func end(reason: String, killing silent: LinkPeer? = nil) -> Never {
        // The first reason counts: what the others do when they hear of it must not replace it.
        let isFirst = state.withLock { state in
            defer { state.hasEnded = true }
            return !state.hasEnded
        }
        guard isFirst else { while true { sleep(60) } }
        Self.tell(reason)
        // Some launchers lose what a rank wrote just before the job ended.
        usleep(200_000)
        if let silent, silent.isOnThisMachine { kill(silent.process, SIGKILL) }
        if rank == 0 { for peer in peers.values { peer.socket.send("end") } }
        _exit(1)
    }

    /// Says why the job ends. The process is left at once then: other threads may be inside calls that never return.
    private static func tell(_ reason: String) {
        let line = "apus: error: the job ends: \(reason)\n"
        _ = line.withCString { write(2, $0, strlen($0)) }
    }
}

/// The other end of a connection between ranks.
struct LinkPeer: Sendable {
    let rank: Int
    /// Its machine.
    let host: String
    /// Its process there.
    let process: pid_t
    let socket: LinkSocket

    /// For messages: rank, machine, process.
    var name: String { "rank \(rank) (\(host), process \(process))" }

    var isOnThisMachine: Bool { host == LocalHost.name }

    /// The other end, from what it says of itself.
    init?(rank: Int, process: Substring, host: Substring, socket: LinkSocket) {
        guard let process = pid_t(process), process > 1 else { return nil }
        self.rank = rank
        self.process = process
        self.host = String(host)
        self.socket = socket
    }
}
