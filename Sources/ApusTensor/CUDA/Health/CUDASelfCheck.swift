/// Exercises the runtime on a real GPU: copies, order between streams, launches, graphs, the allocator,
/// products, the kernel cache, too little memory, tensor maps, and the report of a faulting kernel.
public struct CUDASelfCheck: Sendable {
    /// How one check ended.
    public struct Outcome: Sendable {
        /// What was checked.
        public let name: String
        /// What went wrong, or nil.
        public let problem: String?
        /// How long it took.
        public let seconds: Double

        /// Runs a check; what it throws is the problem.
        public init(name: String, _ check: () throws -> Void) {
            let start = ContinuousClock.now
            var problem: String?
            do { try check() } catch { problem = "\(error)" }
            seconds = (ContinuousClock.now - start).inSeconds
            self.name = name
            self.problem = problem
        }
    }

    /// What a check found to be wrong.
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    let device: CUDADevice
    let kernels: CUDAModule
    let folder: String
    var isHopper: Bool { device.capability.major >= 9 }

    /// Runs all checks. `folder`: an empty folder for the kernel cache's check. The last check makes a kernel fault, after
    /// which this process can use the GPU no more.
    public static func run(on device: CUDADevice, folder: String) throws -> [Outcome] {
        let kernels = try device.modules.module(for: source)
        let check = CUDASelfCheck(device: device, kernels: kernels, folder: folder)
        let checks: [(String, () throws -> Void)] = [
            ("copies", check.copies), ("streams and events", check.streams), ("launches", check.launches),
            ("graphs", check.graphs), ("allocator", check.allocator), ("matrix product", check.product),
            ("kernel cache", check.kernelCache), ("out of memory", check.outOfMemory),
            ("tensor maps", check.tensorMaps), ("faults name their kernel", check.fault),
        ]
        return checks.map { name, body in Outcome(name: name, body) }
    }

    func expect(_ condition: Bool, _ problem: @autoclosure () -> String) throws {
        if !condition { throw Failure(description: problem()) }
    }

    /// Expects `CUDAError` of a kind.
    func expectError(_ what: String, _ isExpected: (CUDAError) -> Bool, _ body: () throws -> Void) throws {
        do {
            try body()
        } catch let error as CUDAError {
            try expect(isExpected(error), "\(what): expected another error than: \(error)")
            return
        }
        throw Failure(description: "\(what): expected an error, found none")
    }

    // MARK: Work for the checks

    /// Sets 32-bit words.
    func fill(_ buffer: CUDABuffer, _ value: UInt32, words: Int, on stream: CUDAStream) throws {
        try kernels.kernel("fill").launch(
            grid: 64, block: 256, on: stream, .buffer(buffer), .value(value), .value(Int64(words)))
    }

    /// Adds to 32-bit words.
    func add(_ buffer: CUDABuffer, _ value: UInt32, words: Int, on stream: CUDAStream) throws {
        try kernels.kernel("add").launch(
            grid: 64, block: 256, on: stream, .buffer(buffer), .value(value), .value(Int64(words)))
    }

    /// Adds to `count` the number of words that are not `value`.
    func countDifferences(
        _ buffer: CUDABuffer, from value: UInt32, words: Int, into count: CUDABuffer, on stream: CUDAStream
    ) throws {
        try kernels.kernel("count_differences").launch(
            grid: 64, block: 256, on: stream, .buffer(buffer), .value(value), .value(Int64(words)), .buffer(count))
    }

    /// Keeps the stream busy.
    func spin(microseconds: Int, on stream: CUDAStream) throws {
        try kernels.kernel("spin").launch(grid: 1, block: 1, on: stream, .value(Int64(microseconds) * 1000))
    }
}
