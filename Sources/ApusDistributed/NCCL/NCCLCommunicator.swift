import ApusSynchronization
import ApusTensor
import CApusCUDA

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Ranks on GPUs over NCCL, one GPU each. Buffers are memory of this rank's GPU.
///
/// NCCL sums bf16 elements in bf16, hop by hop, unlike ``MPICommunicator``.
///
/// Unchecked Sendable: NCCL's communicator is made in init and destroyed in deinit; calls on it are made under the lock.
final class NCCLCommunicator: Communicator, @unchecked Sendable {
    let rank: Int
    let size: Int
    private let exchanging: CUDAStream
    private let computing: CUDAStream
    private let library: UnsafePointer<apus_nccl>
    private let handle: apus_nccl_comm
    /// Sends that wait for what comes next: a receive goes with them in one group, so that two ranks that send to each other
    /// do not wait for each other.
    private let held = Locked<[(send: Collective, mark: CUDAEvent)]>([])
    private let counted = Locked(CommunicationTraffic())
    private let progress: CollectiveProgress
    private let watch: JobWatch
    private let timeout: Double
    /// How parts of this communicator agree on an identity of their own.
    private let exchange: Exchange
    /// Where rank 0 tells the others something; nil where these are not all ranks of the job.
    private let link: JobLink?

    /// Every rank's text, by rank of the job, waited for so many seconds; nil for as long as ranks may be late.
    typealias Exchange = @Sendable (_ text: String, _ seconds: Double?) throws(CommunicationError) -> [String]

    /// - Parameters:
    ///   - stream: where collectives are queued.
    ///   - computing: where work is queued on their buffers, before and after.
    ///   - ranks: of the job, in the order of this communicator.
    init(
        ranks: [Int], jobRank: Int, stream: CUDAStream, computing: CUDAStream, name: UInt64, watch: JobWatch,
        timeout: Double, link: JobLink? = nil, exchange: @escaping Exchange
    ) throws {
        // Graphs use memory that the driver does not let other processes open.
        setenv("NCCL_GRAPH_REGISTER", "0", 0)
        guard let rank = ranks.firstIndex(of: jobRank) else {
            throw CommunicationError.invalid("NCCL", expected: "a rank among \(ranks)", found: "\(jobRank)")
        }
        let library = try CUDALibraries.nccl.table()
        try stream.device.makeCurrent()
        var id = apus_nccl_unique_id()
        if rank == 0 { try Self.check(library, "ncclGetUniqueId", library.pointee.ncclGetUniqueId(&id)) }
        let own = rank == 0 ? withUnsafeBytes(of: &id) { $0.map { "\($0)" }.joined(separator: ",") } : ""
        let texts = try exchange(own, nil)
        let bytes = texts[ranks[0]].split(separator: ",").compactMap { UInt8($0) }
        guard bytes.count == MemoryLayout<apus_nccl_unique_id>.size else {
            throw CommunicationError.launch("NCCL: rank \(ranks[0]) gave no identity")
        }
        withUnsafeMutableBytes(of: &id) { $0.copyBytes(from: bytes) }
        var handle: apus_nccl_comm?
        try Self.check(
            library, "ncclCommInitRank",
            library.pointee.ncclCommInitRank(&handle, Int32(ranks.count), id, Int32(rank)))
        self.rank = rank
        self.size = ranks.count
        exchanging = stream
        self.computing = computing
        self.library = library
        self.handle = handle!
        self.watch = watch
        self.timeout = timeout
        self.exchange = exchange
        self.link = link
        jobRanks = ranks
        progress = CollectiveProgress(name: name)
        watch.add(progress)
    }

    private let jobRanks: [Int]

    deinit { _ = library.pointee.ncclCommDestroy(handle) }

    var onHost: any Communicator { StagedCommunicator(self, stream: computing) }

    var stream: CUDAStream? { computing }

    var traffic: CommunicationTraffic { counted.withLock { $0 } }

    func queue(_ collective: Collective, on stream: CUDAStream) throws(CommunicationError) {
        try collective.validate(rank: rank, size: size)
        guard ![.send, .receive, .barrier].contains(collective.kind) else {
            throw .invalid("NCCL on a stream", expected: "a collective over memory", found: collective.kind.rawValue)
        }
        counted.withLock { $0.add(collective) }
        do {
            try stream.device.makeCurrent()
            try held.withLock { _ in
                try Self.check(library, "NCCL's \(collective.kind.rawValue)", enqueue(collective, on: stream))
            }
        } catch {
            throw error as? CommunicationError ?? .call(collective.kind.rawValue, reason: "\(error)")
        }
    }

    // On the host, where it waits for no stream and keeps no GPU busy.
    func tell(_ numbers: [Int32]) throws(CommunicationError) {
        guard let link else { return try StagedCommunicator(self, stream: computing).tell(numbers) }
        try link.tell(numbers)
    }

    func hear() throws(CommunicationError) -> [Int32] {
        guard let link else { return try StagedCommunicator(self, stream: computing).hear() }
        return link.hear()
    }

    var tellingSeconds: Double? { link == nil ? 0.5 : nil }

    func run(_ collective: Collective) throws(CommunicationError) { try start(collective).wait() }

    func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective {
        try collective.validate(rank: rank, size: size)
        counted.withLock { $0.add(collective) }
        progress.begin(collective.kind)
        do {
            try exchanging.device.makeCurrent()
            let mark = try CUDAEvent(device: exchanging.device, timing: false)
            if collective.kind != .barrier {
                let ready = try CUDAEvent(device: exchanging.device, timing: false)
                try ready.record(on: computing)
                try exchanging.wait(for: ready)
                for buffer in collective.buffers { buffer.deviceMemory?.used(on: exchanging) }
            }
            if case .send = collective {
                held.withLock { $0.append((collective, mark)) }
            } else {
                try launch(collective, mark)
            }
            return Pending(communicator: self, kind: collective.kind, mark: mark)
        } catch let error as CommunicationError {
            throw error
        } catch {
            throw .call(collective.kind.rawValue, reason: "\(error)")
        }
    }

    /// Queues the sends that were held back and, behind them or (a receive) with them, a collective.
    private func launch(_ collective: Collective? = nil, _ mark: CUDAEvent? = nil) throws {
        try held.withLock { sends in
            let waiting = sends
            sends = []
            var grouped = waiting.map(\.send)
            var rest = collective
            if case .receive? = collective, !waiting.isEmpty {
                grouped.append(collective!)
                rest = nil
            }
            if !grouped.isEmpty {
                try Self.check(library, "ncclGroupStart", library.pointee.ncclGroupStart())
                let codes = grouped.map { enqueue($0, on: exchanging) }
                let end = library.pointee.ncclGroupEnd()
                for (part, code) in zip(grouped, codes) {
                    try Self.check(library, "NCCL's \(part.kind.rawValue)", code)
                }
                try Self.check(library, "ncclGroupEnd", end)
                for (_, mark) in waiting { try mark.record(on: exchanging) }
            }
            if let rest { try Self.check(library, "NCCL's \(rest.kind.rawValue)", enqueue(rest, on: exchanging)) }
            try mark?.record(on: exchanging)
        }
    }

    private func enqueue(_ collective: Collective, on stream: CUDAStream) -> Int32 {
        let nccl = library.pointee
        switch collective {
        case .allReduce(let buffer, let reduction):
            return nccl.ncclAllReduce(
                buffer.address, buffer.address, buffer.count, buffer.ncclType, reduction.ncclCode, handle,
                stream.handle)
        case .allGather(let from, let into):
            return nccl.ncclAllGather(
                from.address, into.address, from.units, from.ncclType, handle, stream.handle)
        case .reduceScatter(let from, let into, let reduction):
            return nccl.ncclReduceScatter(
                from.address, into.address, into.count, into.ncclType, reduction.ncclCode, handle, stream.handle)
        case .broadcast(let buffer, let root):
            return nccl.ncclBroadcast(
                buffer.address, buffer.address, buffer.units, buffer.ncclType, Int32(root), handle, stream.handle)
        case .send(let buffer, let other):
            return nccl.ncclSend(buffer.address, buffer.units, buffer.ncclType, Int32(other), handle, stream.handle)
        case .receive(let buffer, let other):
            return nccl.ncclRecv(buffer.address, buffer.units, buffer.ncclType, Int32(other), handle, stream.handle)
        case .barrier:
            // NCCL has none: gathering a byte that exists on every GPU would need memory, so the ranks meet on the host.
            do { _ = try exchange("", timeout) } catch { return 2 }
            return 0
        }
    }

    /// Splits by the ranks' colors, which they tell each other; all ranks of the job call it.
    func split(color: Int, key: Int) throws(CommunicationError) -> any Communicator {
        // Other parts of the job may have the same colors.
        let texts = try exchange("\(jobRanks[0]) \(color) \(key)", nil)
        var members: [(key: Int, rank: Int)] = []
        for (jobRank, text) in texts.enumerated() {
            let fields = text.split(separator: " ").compactMap { Int($0) }
            if fields.count == 3, fields[0] == jobRanks[0], fields[1] == color { members.append((fields[2], jobRank)) }
        }
        let ranks = members.sorted { ($0.key, $0.rank) < ($1.key, $1.rank) }.map(\.rank)
        do {
            return try NCCLCommunicator(
                ranks: ranks, jobRank: jobRanks[rank], stream: exchanging, computing: computing,
                name: progress.nameOfPart(color: color), watch: watch, timeout: timeout, exchange: exchange)
        } catch let error as CommunicationError {
            throw error
        } catch {
            throw .call("split", reason: "\(error)")
        }
    }

    /// Looks whether a collective is over; an error that came meanwhile ends the communicator, so that nothing waits on.
    fileprivate func wait(_ kind: Collective.Kind, _ mark: CUDAEvent) throws(CommunicationError) {
        defer { progress.end() }
        let end = ContinuousClock.now + .seconds(timeout)
        do {
            try launch()
            while try !mark.isComplete() {
                var state: Int32 = 0
                let code = held.withLock { _ in library.pointee.ncclCommGetAsyncError(handle, &state) }
                try Self.check(library, "ncclCommGetAsyncError", code)
                if Int(state) != APUS_NCCL_IN_PROGRESS { try Self.check(library, "NCCL's \(kind.rawValue)", state) }
                guard ContinuousClock.now < end else {
                    throw CommunicationError.timedOut(kind.rawValue, seconds: timeout)
                }
                sched_yield()
            }
        } catch {
            _ = held.withLock { _ in library.pointee.ncclCommAbort(handle) }
            throw error as? CommunicationError ?? .call(kind.rawValue, reason: "\(error)")
        }
    }

    /// Lets the computing stream wait. The collective counts as going on until it is waited for.
    fileprivate func follow(_ kind: Collective.Kind, _ mark: CUDAEvent) throws(CommunicationError) {
        do {
            try launch()
            try computing.wait(for: mark)
        } catch {
            throw error as? CommunicationError ?? .call(kind.rawValue, reason: "\(error)")
        }
    }

    private struct Pending: PendingCollective {
        let communicator: NCCLCommunicator
        let kind: Collective.Kind
        let mark: CUDAEvent

        func wait() throws(CommunicationError) { try communicator.wait(kind, mark) }

        func follow() throws(CommunicationError) -> Bool {
            try communicator.follow(kind, mark)
            return false
        }
    }

    private static func check(
        _ library: UnsafePointer<apus_nccl>, _ call: String, _ code: Int32
    ) throws(CommunicationError) {
        guard Int(code) != APUS_NCCL_SUCCESS else { return }
        let text = library.pointee.ncclGetErrorString(code).map { String(cString: $0) }
        throw .call(call, reason: text ?? "error \(code)")
    }
}

extension Reduction {
    fileprivate var ncclCode: Int32 { Int32(self == .sum ? APUS_NCCL_SUM : APUS_NCCL_MAX) }
}

extension CommunicationBuffer {
    /// A part of a GPU's memory.
    public init(_ buffer: CUDABuffer, count: Int, type: DType) {
        self.init(
            address: UnsafeMutableRawPointer(bitPattern: UInt(buffer.address))!, count: count, type: type,
            owner: buffer)
    }

    /// NCCL's type; what it has no type for moves as bytes.
    fileprivate var ncclType: Int32 {
        switch type {
        case .f32: Int32(APUS_NCCL_FLOAT32)
        case .f64: Int32(APUS_NCCL_FLOAT64)
        case .bf16: Int32(APUS_NCCL_BFLOAT16)
        case .i32: Int32(APUS_NCCL_INT32)
        case .i64: Int32(APUS_NCCL_INT64)
        default: Int32(APUS_NCCL_UINT8)
        }
    }

    fileprivate var units: Int { Int(ncclType) == APUS_NCCL_UINT8 ? byteCount : count }
}
