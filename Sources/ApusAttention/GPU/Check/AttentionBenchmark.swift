import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The time of decode attention on a GPU: `apus bench attention`.
///
/// A ring of caches of at least 512 MB together, so that no launch finds its cache in L2; 20 launches in one CUDA graph;
/// the median of 15 replays.
public final class AttentionBenchmark {
    /// A setting to measure: equal lengths.
    public struct Setting: Sendable {
        /// What the pages hold.
        public var format: GPUCacheFormat
        /// New tokens a sequence.
        public var queryTokens: Int
        /// Tokens in the cache of each sequence, the new ones included.
        public var length: Int
        /// Sequences.
        public var batch: Int

        /// A setting.
        public init(format: GPUCacheFormat, queryTokens: Int, length: Int, batch: Int) {
            self.format = format
            self.queryTokens = queryTokens
            self.length = length
            self.batch = batch
        }
    }

    /// What a setting gave.
    public struct Result: Sendable {
        /// Seconds a launch.
        public let seconds: Double
        /// Bytes of the cache that a launch reads, a key kept once counted once.
        public let cacheBytes: Double
        /// Operations, a multiply and an add being two.
        public let operations: Double
        /// The least seconds that the measured bandwidth and rate allow: cache, queries and outputs, or operations.
        public let floor: Double
    }

    private let stream: CUDAStream
    /// Bytes a second of pure reading, and operations a second of bf16 products of 8192-cubed matrices; measured.
    public let readBandwidth: Double, productRate: Double

    private static let ringBytes = 512 << 20
    private static let launches = 20

    /// Measures the GPU's rates. Takes 6 GB of its memory for a moment.
    public init(device: CUDADevice) throws {
        stream = try CUDAStream(device: device)
        productRate = try CUDAMeasurement(device: device).bf16ProductRate()
        device.allocator.releaseCached()
        let count = min(4 << 30, try device.memory().free / 2)
        let memory = try CUDABuffer(byteCount: count, stream: stream)
        try stream.fill(memory, with: 0x5a)
        let result = try CUDABuffer(byteCount: 4, stream: stream)
        let read = try device.modules.kernel("read_all", in: AttentionSources.source("check.cu"))
        let (own, blocks) = (stream, device.multiprocessorCount * 4)
        let seconds = try Self.median(of: 9, on: stream) {
            try read.launch(
                grid: CUDAExtent(blocks), block: 512, on: own, .buffer(memory), .value(Int64(count / 16)),
                .buffer(result))
        }
        readBandwidth = Double(count) / seconds
    }

    /// Measures one setting. `overlapping`: launches with programmatic stream serialisation.
    public func measure(_ setting: Setting, overlapping: Bool = false) throws -> Result {
        let format = setting.format
        let geometry = format.geometry
        let cacheBytes =
            Double(setting.batch) * Double(setting.length) * Double(format.pageBytes) / Double(format.pageSize)
        let ring = max(1, Int((Double(Self.ringBytes) / cacheBytes).rounded(.up)))
        let step = try GPURandomStep(
            format: format, queryTokens: setting.queryTokens,
            lengths: [Int](repeating: setting.length, count: setting.batch), ring: ring, seed: 1, stream: stream)
        let attention = try GPUDecodeAttention(
            format: format, queryTokens: setting.queryTokens, scale: 1 / Float(geometry.queryWidth).squareRoot(),
            maximumBatch: setting.batch, stream: stream)
        try attention.schedule(lengths: step.deviceLengths.address, batch: setting.batch, on: stream)
        let own = stream
        for i in 0..<3 { try attention.run(step.layer(ring: i % ring), overlapping: overlapping, on: own) }
        let graph = try CUDAGraph(recording: stream) {
            for i in 0..<Self.launches {
                try attention.run(step.layer(ring: i % ring), overlapping: overlapping, on: own)
            }
        }
        let seconds = try Self.median(of: 15, on: stream) { try graph.launch(on: own) } / Double(Self.launches)
        let operations =
            Double(setting.batch) * geometry.operations(context: setting.length, queryTokens: setting.queryTokens)
        let inAndOut = Double(step.queryCount + step.outputCount) * 2
        return Result(
            seconds: seconds, cacheBytes: cacheBytes, operations: operations,
            floor: max((cacheBytes + inAndOut) / readBandwidth, operations / productRate))
    }

    private static func median(of count: Int, on stream: CUDAStream, _ work: () throws -> Void) throws -> Double {
        for _ in 0..<2 { try work() }
        var seconds: [Double] = []
        for _ in 0..<count {
            let (start, end) = (try CUDAEvent(device: stream.device), try CUDAEvent(device: stream.device))
            try start.record(on: stream)
            try work()
            try end.record(on: stream)
            try end.synchronize()
            seconds.append(try end.seconds(since: start))
        }
        return seconds.sorted()[count / 2]
    }
}
