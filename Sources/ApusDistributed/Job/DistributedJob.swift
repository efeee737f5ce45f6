import ApusSynchronization
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Processes that a launcher started together, and this one among them.
///
/// ```swift
/// let job = try DistributedJob.join(try .detect(ProcessInfo.processInfo.environment), version: "0.1.0")
/// let group = try job.world.split(color: job.world.rank / 2, key: job.world.rank)
/// ...
/// try job.finish()
/// ```
///
/// The job ends as a whole: when a rank dies, is silent, is late for a collective, or fails, the others leave with an error
/// that names it.
public final class DistributedJob: Sendable {
    /// What the ranks compute on, which decides what moves their data.
    public enum Processors: Sendable {
        /// CPUs, over MPI.
        case cpus
        /// One GPU a rank, over NCCL. This stream has the work on what the ranks exchange; collectives go on a stream of their
        /// own, so that it can go on.
        case gpu(CUDAStream)
    }

    /// Seconds that a rank may be silent or late: with the time it takes to tell, the job ends within 30 s.
    public static let defaultTimeout = 25.0

    /// What the launcher said.
    public let environment: LaunchEnvironment
    /// All ranks.
    public let world: any Communicator
    /// What moves the data: "one process", or the library's name and version.
    public let transport: String
    private let runtime: MPIRuntime?
    private let link: JobLink?
    private let watch: JobWatch

    private init(
        _ environment: LaunchEnvironment, world: any Communicator, transport: String, runtime: MPIRuntime?,
        link: JobLink?, watch: JobWatch
    ) {
        self.environment = environment
        self.world = world
        self.transport = transport
        self.runtime = runtime
        self.link = link
        self.watch = watch
    }

    /// A job of this process alone.
    public static func alone() -> DistributedJob {
        DistributedJob(
            .alone, world: SingleProcess(), transport: "one process", runtime: nil, link: nil, watch: JobWatch())
    }

    /// Joins the other processes: at most once in a process.
    /// - Parameters:
    ///   - version: of this program; ranks with another, or another build, are refused.
    ///   - library: path of the MPI library, where the usual names are not wanted.
    ///   - timeout: seconds that a rank may be silent or late.
    /// - Throws: ``CommunicationError``, where the library is absent, the launcher and the library disagree, ranks cannot reach
    ///   each other or run other versions.
    public static func join(
        _ environment: LaunchEnvironment, on processors: Processors = .cpus, version: String, library: String? = nil,
        timeout: Double = defaultTimeout
    ) throws -> DistributedJob {
        let watch = JobWatch()
        guard environment.isDistributed else {
            guard case .gpu(let stream) = processors else { return alone() }
            return try onGPUs(environment, stream, nil, runtime: nil, watch, timeout)
        }
        let job: DistributedJob
        switch (environment.launcher, processors) {
        case (.variables, .cpus):
            throw CommunicationError.launch(
                "RANK and WORLD_SIZE are set, but ranks on CPUs talk over MPI: start them with mpirun or srun --mpi=pmix"
            )
        case (.variables, .gpu(let stream)):
            let link = try linkByVariables(environment, timeout: timeout, watch)
            job = try onGPUs(environment, stream, link, runtime: nil, watch, timeout)
        default:
            if environment.launcher == .mpich {
                // How MPICH's mpiexec says that a rank has died; ended by it, no rank could tell which one it was.
                signal(SIGUSR1, SIG_IGN)
                // UCX, under MPICH, aborts when it reads the memory of a rank that has died: it is to copy through memory that
                // both share.
                setenv("UCX_TLS", "^cma", 0)
            }
            let library = try MPILibrary(for: environment.launcher, path: library)
            // Where a library aborts all the same, the thread that watches the ranks says first which one it was, and leaves.
            signal(SIGABRT) { _ in sleep(10) }
            let runtime = try MPIRuntime(library, timeout: timeout + longestPhase)
            let world = try MPICommunicator(world: runtime, watch: watch)
            guard world.size == environment.size, world.rank == environment.rank else {
                throw CommunicationError.launch(
                    "\(environment.launcher.rawValue) says rank \(environment.rank) of \(environment.size), but "
                        + "\(library.version) says rank \(world.rank) of \(world.size): the library is not the launcher's"
                )
            }
            let link = try linkByMPI(world, timeout: timeout, watch)
            if case .gpu(let stream) = processors {
                job = try onGPUs(environment, stream, link, runtime: runtime, watch, timeout)
            } else {
                job = DistributedJob(
                    environment, world: world, transport: library.version, runtime: runtime, link: link, watch: watch)
            }
        }
        try job.agree(on: "apus's version", "\(version), build \(BuildIdentity.current)")
        return job
    }

    /// The longest that a phase without collectives may take, in seconds.
    public static let longestPhase = 900.0

    /// Checks that all ranks say the same.
    /// - Throws: ``CommunicationError/disagreement(_:_:)`` with what each group of ranks says, the same on all ranks.
    public func agree(on what: String, _ text: String) throws {
        guard let link else { return }
        let texts = try link.exchange(text)
        guard Set(texts).count > 1 else { return }
        var ranks: [String: [Int]] = [:]
        for (rank, text) in texts.enumerated() { ranks[text, default: []].append(rank) }
        let groups = ranks.sorted { ($0.value.count, $1.value[0]) > ($1.value.count, $0.value[0]) }.map { text, ranks in
            "\(text) on rank\(ranks.count == 1 ? "" : "s") \(ranks.map(String.init).joined(separator: ", "))"
        }
        throw CommunicationError.disagreement(what, groups.joined(separator: "; "))
    }

    /// Runs work without collectives that may take longer than a collective may: loading a model, writing a file.
    /// - Parameter limit: seconds that the other ranks wait; at most ``longestPhase``.
    public func during<R>(_ phase: String, limit: Double = longestPhase, _ body: () throws -> R) rethrows -> R {
        try watch.during(phase, limit: min(limit, Self.longestPhase), body)
    }

    /// Ends the whole job, telling why and on which rank.
    public func fail(_ reason: String) -> Never {
        if let link { link.fail(reason) }
        let line = "apus: error: \(reason)\n"
        _ = line.withCString { write(2, $0, strlen($0)) }
        _exit(1)
    }

    /// Ends the job in order: waits until all ranks have come here. Nothing of it is used afterwards.
    public func finish() throws {
        try world.barrier()
        link?.finish()
        guard let runtime else { return }
        // MPICH's MPI_Finalize can wait for a launcher that is about to end, and for ever: all is done by now.
        let isOver = Locked(false)
        _ = SystemThread.start {
            sleep(10)
            if !isOver.withLock({ $0 }) { _exit(0) }
        }
        try runtime.finalize()
        isOver.withLock { $0 = true }
    }

    private static func onGPUs(
        _ environment: LaunchEnvironment, _ stream: CUDAStream, _ link: JobLink?, runtime: MPIRuntime?,
        _ watch: JobWatch, _ timeout: Double
    ) throws -> DistributedJob {
        // Products fill the GPU: what others wait for goes first.
        let exchanges = try CUDAStream(device: stream.device, priority: -1)
        let world = try NCCLCommunicator(
            ranks: Array(0..<environment.size), jobRank: environment.rank, stream: exchanges, computing: stream,
            name: 2, watch: watch, timeout: timeout + longestPhase, link: link
        ) { (text, seconds) throws(CommunicationError) in try link?.exchange(text, seconds: seconds) ?? [text] }
        return DistributedJob(
            environment, world: world, transport: "NCCL", runtime: runtime, link: link, watch: watch)
    }

    /// Rank 0 tells over MPI where it listens: on the loopback interface where all ranks are on its machine.
    private static func linkByMPI(
        _ world: any Communicator, timeout: Double, _ watch: JobWatch
    ) throws(CommunicationError) -> JobLink {
        let host = Tensor(uninitialized: [256], dtype: .u8)
        host.fillWithZeros()
        let name = Array(LocalHost.name.utf8.prefix(255))
        host.withMutableElements(of: UInt8.self) { _ = $0.update(from: name) }
        let hosts = try world.allGather(host).withElements(of: UInt8.self) { bytes in
            (0..<world.size).map { Array(bytes[($0 * 256)..<($0 + 1) * 256]) }
        }
        let isLocal = Set(hosts).count == 1
        guard world.rank == 0 else {
            let text = String(decoding: try world.broadcast(bytes: []), as: UTF8.self)
            guard let place = LinkPlace(text: text) else { throw .link("rank 0 cannot listen for the others") }
            return try JobLink.spoke(place, rank: world.rank, size: world.size, timeout: timeout, watch: watch)
        }
        let listener = try LinkSocket.listening(port: 0, onLoopback: isLocal)
        var random = SystemRandomNumberGenerator()
        let place = LinkPlace(
            hosts: isLocal ? ["127.0.0.1"] : LocalHost.addresses + [LocalHost.name], port: listener.port,
            secret: String(random.next(), radix: 16) + String(random.next(), radix: 16))
        _ = try world.broadcast(bytes: Array(place.text.utf8))
        return try JobLink.hub(listener, secret: place.secret, size: world.size, timeout: timeout, watch: watch)
    }

    /// Rank 0 listens where MASTER_ADDR and MASTER_PORT say.
    private static func linkByVariables(
        _ environment: LaunchEnvironment, timeout: Double, _ watch: JobWatch
    ) throws(CommunicationError) -> JobLink {
        guard let host = environment.masterAddress, let port = environment.masterPort else {
            throw .launch("expected MASTER_ADDR and MASTER_PORT, found none")
        }
        let secret = "apus-\(environment.size)"
        if environment.rank == 0 {
            let listener = try LinkSocket.listening(port: port, onLoopback: false)
            return try JobLink.hub(listener, secret: secret, size: environment.size, timeout: timeout, watch: watch)
        }
        return try JobLink.spoke(
            LinkPlace(hosts: [host], port: port, secret: secret), rank: environment.rank, size: environment.size,
            timeout: timeout, watch: watch)
    }
}
