import ApusSynchronization
import ApusTensor
import CApusMPI

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Ranks on CPUs over Open MPI or MPICH.
///
/// Every collective starts without blocking and is looked after until it is over, so that one that does not end is noticed.
final class MPICommunicator: Communicator {
    let rank: Int
    let size: Int
    let runtime: MPIRuntime
    /// What others hear of this rank's collectives.
    let progress: CollectiveProgress
    private let group: apus_mpi_group
    private let watch: JobWatch
    private let counted = Locked(CommunicationTraffic())
    private let pending = Monitor(0)

    /// All ranks of the job.
    convenience init(world runtime: MPIRuntime, watch: JobWatch) throws(CommunicationError) {
        try self.init(runtime.library.functions.world(), runtime, watch, name: 1)
    }

    private init(
        _ group: apus_mpi_group, _ runtime: MPIRuntime, _ watch: JobWatch, name: UInt64
    ) throws(CommunicationError) {
        var (rank, size): (Int32, Int32) = (0, 0)
        try runtime.call("MPI_Comm_rank") { $0.rank(group, &rank) }
        try runtime.call("MPI_Comm_size") { $0.size(group, &size) }
        self.rank = Int(rank)
        self.size = Int(size)
        self.runtime = runtime
        self.group = group
        self.watch = watch
        progress = CollectiveProgress(name: name)
        watch.add(progress)
    }

    var traffic: CommunicationTraffic { counted.withLock { $0 } }

    func run(_ collective: Collective) throws(CommunicationError) {
        let task = try prepare(collective)
        drain()
        progress.begin(collective.kind)
        defer { progress.end() }
        var patience = Patience(seconds: runtime.timeout)
        while try !task.advance() {
            guard patience.wait() else { throw .timedOut(collective.kind.rawValue, seconds: runtime.timeout) }
        }
    }

    func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective {
        let task = try prepare(collective)
        let waiting = MPIPending(task, self)
        progress.begin(collective.kind)
        pending.withLock { $0 += 1 }
        try runtime.enqueue(waiting)
        return waiting
    }

    /// A background collective is over.
    func ended() {
        progress.end()
        pending.withLock { $0 -= 1 }
        pending.signalAll()
    }

    /// Waits for the background collectives, so that all ranks keep one order.
    private func drain() { pending.wait { $0 == 0 ? () : nil } }

    func split(color: Int, key: Int) throws(CommunicationError) -> any Communicator {
        drain()
        progress.begin(.barrier)
        defer { progress.end() }
        var part: apus_mpi_group = 0
        try runtime.call("MPI_Comm_split") { $0.split(group, Int32(color), Int32(key), &part) }
        return try MPICommunicator(part, runtime, watch, name: progress.nameOfPart(color: color))
    }

    private func prepare(_ collective: Collective) throws(CommunicationError) -> MPITask {
        try collective.validate(rank: rank, size: size)
        counted.withLock { $0.add(collective) }
        return MPITask(collective, try stages(of: collective), runtime)
    }

    private func stages(of collective: Collective) throws(CommunicationError) -> [MPITask.Stage] {
        let (functions, group) = (runtime.library.functions, group)
        switch collective {
        case .allReduce(let buffer, let reduction):
            let (count, type) = try units(buffer)
            if buffer.type == .bf16 { return bfloat16AllReduce(buffer, reduction) }
            return [
                .transfer("MPI_Iallreduce") {
                    functions.all_reduce(buffer.address, count, type, reduction.code, group, $0)
                }
            ]
        case .allGather(let from, let into):
            let (count, type) = try units(from)
            return [
                .transfer("MPI_Iallgather") { functions.all_gather(from.address, into.address, count, type, group, $0) }
            ]
        case .reduceScatter(let from, let into, let reduction):
            let (count, type) = try units(into)
            if from.type == .bf16 { return bfloat16ReduceScatter(from, into, reduction) }
            return [
                .transfer("MPI_Ireduce_scatter_block") {
                    functions.reduce_scatter(from.address, into.address, count, type, reduction.code, group, $0)
                }
            ]
        case .broadcast(let buffer, let root):
            let (count, type) = try units(buffer)
            return [
                .transfer("MPI_Ibcast") { functions.broadcast(buffer.address, count, type, Int32(root), group, $0) }
            ]
        case .send(let buffer, let other):
            let (count, type) = try units(buffer)
            return [.transfer("MPI_Isend") { functions.send(buffer.address, count, type, Int32(other), 0, group, $0) }]
        case .receive(let buffer, let other):
            let (count, type) = try units(buffer)
            return [
                .transfer("MPI_Irecv") { functions.receive(buffer.address, count, type, Int32(other), 0, group, $0) }
            ]
        case .barrier: return [.transfer("MPI_Ibarrier") { functions.barrier(group, $0) }]
        }
    }

    /// A buffer as MPI counts it; what MPI has no type for moves as bytes.
    private func units(_ buffer: CommunicationBuffer) throws(CommunicationError) -> (Int32, apus_mpi_type) {
        let (count, type): (Int, apus_mpi_type) =
            switch buffer.type {
            case .f32: (buffer.count, APUS_MPI_FLOAT32)
            case .f64: (buffer.count, APUS_MPI_FLOAT64)
            case .i32: (buffer.count, APUS_MPI_INT32)
            case .i64: (buffer.count, APUS_MPI_INT64)
            default: (buffer.byteCount, APUS_MPI_BYTES)
            }
        guard let fitting = Int32(exactly: count) else {
            throw .invalid("MPI", expected: "at most \(Int32.max) elements", found: "\(count)")
        }
        return (fitting, type)
    }

    /// Every rank sums its share of all ranks' elements in float32, rounds once, and all gather the shares: as many bytes
    /// as the usual all-reduce moves, with no sum of sums in bf16.
    private func bfloat16AllReduce(_ buffer: CommunicationBuffer, _ reduction: Reduction) -> [MPITask.Stage] {
        let share = (buffer.count + size - 1) / size
        let (padded, mine) = (
            Tensor(uninitialized: [size * share], dtype: .bf16), Tensor(uninitialized: [share], dtype: .bf16)
        )
        padded.fillWithZeros()
        memcpy(padded.rawPointer, buffer.address, buffer.byteCount)
        let gather = CommunicationBuffer(padded)
        let (functions, group) = (runtime.library.functions, group)
        return bfloat16ReduceScatter(gather, CommunicationBuffer(mine), reduction) + [
            .transfer("MPI_Iallgather") {
                functions.all_gather(mine.rawPointer, padded.rawPointer, Int32(2 * share), APUS_MPI_BYTES, group, $0)
            },
            .local { memcpy(buffer.address, padded.rawPointer, buffer.byteCount) },
        ]
    }

    private func bfloat16ReduceScatter(
        _ from: CommunicationBuffer, _ into: CommunicationBuffer, _ reduction: Reduction
    ) -> [MPITask.Stage] {
        let (size, share) = (size, into.count)
        let parts = Tensor(uninitialized: [size, share], dtype: .bf16)
        let (functions, group) = (runtime.library.functions, group)
        return [
            .transfer("MPI_Ialltoall") {
                functions.all_to_all(from.address, parts.rawPointer, Int32(2 * share), APUS_MPI_BYTES, group, $0)
            },
            .local {
                let target = into.address.assumingMemoryBound(to: UInt16.self)
                let source = parts.pointer(as: UInt16.self)
                for index in 0..<share {
                    var value = Float(bfloat16: source[index])
                    for part in 1..<max(size, 1) {
                        let other = Float(bfloat16: source[part * share + index])
                        value = reduction == .sum ? value + other : Swift.max(value, other)
                    }
                    target[index] = value.roundedToBFloat16
                }
            },
        ]
    }
}

extension Reduction {
    fileprivate var code: apus_mpi_reduction { self == .sum ? APUS_MPI_SUM : APUS_MPI_MAX }
}

extension Float {
    init(bfloat16 bits: UInt16) { self.init(bitPattern: UInt32(bits) << 16) }

    /// The nearest bf16, ties to even; NaN stays NaN.
    var roundedToBFloat16: UInt16 {
        if isNaN { return 0x7fc0 }
        return UInt16(truncatingIfNeeded: (bitPattern + 0x7fff + (bitPattern >> 16 & 1)) >> 16)
    }
}

/// How a thread waits that has nothing else to do: at once at first, since most collectives take microseconds; then giving
/// its core to others; then in short sleeps, and in longer ones where nothing comes for a second, as on a server without
/// requests.
private struct Patience {
    private var looks = 0
    private var sleeps = false
    private let end: ContinuousClock.Instant
    private let sleepFrom: ContinuousClock.Instant
    private let idleFrom: ContinuousClock.Instant

    init(seconds: Double) {
        let now = ContinuousClock.now
        end = now + .seconds(seconds)
        sleepFrom = now + .milliseconds(20)
        idleFrom = now + .seconds(1)
    }

    /// Waits a little.
    /// - Returns: false when the time is over.
    mutating func wait() -> Bool {
        looks += 1
        if looks < 64 { return true }
        sched_yield()
        guard looks % 64 == 0 || sleeps else { return true }
        let now = ContinuousClock.now
        sleeps = now > sleepFrom
        if sleeps { usleep(now > idleFrom ? 1000 : 50) }
        return now < end
    }
}
