import ApusTensor

/// Random queries and pages of a step on the GPU, for checks and measurements.
final class GPURandomStep {
    let format: GPUCacheFormat
    let queryTokens: Int
    let lengths: [Int32]
    let stream: CUDAStream
    /// Pages of all caches together, one more than they use.
    let pageCount: Int
    /// Entries of the page table a sequence.
    let pageStride: Int
    let deviceLengths: CUDABuffer
    let query: CUDABuffer
    let cache: CUDABuffer
    /// `[cache of the ring][sequence][pageStride]`.
    let pageTable: CUDABuffer
    let hostPageTable: [Int32]
    let output: CUDABuffer
    let logSumExp: CUDABuffer

    /// Elements of queries, outputs, and rows of log-sum-exp.
    var queryCount: Int { rows * format.geometry.queryWidth }
    var outputCount: Int { rows * format.geometry.outputWidth }
    var rows: Int { lengths.count * queryTokens * format.geometry.queryHeads }

    /// A step whose pages lie shuffled, in `ring` caches. What no token fills is NaN, unused pages too, and entries of the
    /// page table behind a sequence's end point nowhere.
    init(
        format: GPUCacheFormat, queryTokens: Int, lengths: [Int], ring: Int = 1, gain: Float = 1, seed: UInt64,
        stream: CUDAStream
    ) throws {
        self.format = format
        self.queryTokens = queryTokens
        self.lengths = lengths.map(Int32.init)
        self.stream = stream
        let page = format.pageSize
        let used = lengths.map { ($0 + page - 1) / page }
        let pages = used.reduce(0, +) * ring + 1
        let stride = max(used.max() ?? 0, 1)
        var random = SplitMix64(state: seed)
        var order = Array(0..<Int32(pages))
        order.shuffle(using: &random)
        var table = [Int32](repeating: 1 << 30, count: ring * lengths.count * stride)
        var next = 0
        for cache in 0..<ring {
            for (sequence, count) in used.enumerated() {
                for i in 0..<count {
                    table[(cache * lengths.count + sequence) * stride + i] = order[next]
                    next += 1
                }
            }
        }
        pageCount = pages
        pageStride = stride
        hostPageTable = table
        deviceLengths = try stream.upload(self.lengths)
        pageTable = try stream.upload(table)
        cache = try CUDABuffer(byteCount: pages * format.pageBytes, stream: stream)
        let rows = lengths.count * queryTokens * format.geometry.queryHeads
        query = try CUDABuffer(byteCount: rows * format.geometry.queryWidth * 2, stream: stream)
        output = try CUDABuffer(byteCount: rows * format.geometry.outputWidth * 2, stream: stream)
        logSumExp = try CUDABuffer(byteCount: rows * 4, stream: stream)
        try stream.fill(cache, with: 0xff)
        try fill(seed: seed, gain: gain, ring: ring)
    }

    private struct Pages: BitwiseCopyable {
        var cache: UInt64, pageTable: UInt64, lengths: UInt64
        var pageBytes: Int64
        var pageStride: Int32, pageSize: Int32, groups: Int32, rowWidth: Int32, keyWidth: Int32, fp8: Int32
    }

    private func fill(seed: UInt64, gain: Float, ring: Int) throws {
        let source = AttentionSources.source("check.cu")
        let modules = stream.device.modules
        try modules.kernel("fill_random", in: source).launch(
            grid: 1024, block: 256, on: stream, .buffer(query), .value(Int64(queryCount)), .value(seed), .value(gain))
        let fillPages = try modules.kernel("fill_pages", in: source)
        for i in 0..<ring {
            let pages = Pages(
                cache: cache.address, pageTable: tableAddress(i), lengths: deviceLengths.address,
                pageBytes: Int64(format.pageBytes), pageStride: Int32(pageStride), pageSize: Int32(format.pageSize),
                groups: Int32(format.geometry.groups), rowWidth: Int32(format.rowWidth),
                keyWidth: Int32(format.keyIsOnce ? format.geometry.key : 0), fp8: format.element == .f8e4m3 ? 1 : 0)
            try fillPages.launch(
                grid: CUDAExtent(4096, lengths.count), block: 256, on: stream, .value(pages),
                .value(seed &+ UInt64(i) + 1))
        }
    }

    private func tableAddress(_ ring: Int) -> UInt64 {
        pageTable.address + UInt64(ring * lengths.count * pageStride * 4)
    }

    /// The step's addresses, in the `ring`-th cache.
    func layer(ring: Int = 0) -> GPUDecodeAttention.Layer {
        GPUDecodeAttention.Layer(
            query: query.address, cache: cache.address, pageCount: pageCount, pageTable: tableAddress(ring),
            pageStride: pageStride, output: output.address, logSumExp: logSumExp.address)
    }

    private struct NaiveGeometry: BitwiseCopyable {
        var queryHeads: Int32, groups: Int32, shared: Int32, key: Int32, value: Int32, keyOnce: Int32, pageSize: Int32
        var fp8: Int32
    }

    /// Outputs and log-sum-exps of the naive kernel, which computes in float64.
    func naive(scale: Float) throws -> (output: [Float], logSumExp: [Float]) {
        let geometry = format.geometry
        let exact = try CUDABuffer(byteCount: outputCount * 4, stream: stream)
        let exactLogSumExp = try CUDABuffer(byteCount: rows * 4, stream: stream)
        let kernel = try stream.device.modules.kernel("naive_decode", in: AttentionSources.source("naive_decode.cu"))
        try kernel.launch(
            grid: CUDAExtent(geometry.queryHeads, queryTokens, lengths.count), block: 128, on: stream, .buffer(query),
            .buffer(cache), .buffer(pageTable), .value(Int32(pageStride)), .buffer(deviceLengths), .buffer(exact),
            .buffer(exactLogSumExp),
            .value(
                NaiveGeometry(
                    queryHeads: Int32(geometry.queryHeads), groups: Int32(geometry.groups),
                    shared: Int32(geometry.shared), key: Int32(geometry.key), value: Int32(geometry.value),
                    keyOnce: format.keyIsOnce ? 1 : 0, pageSize: Int32(format.pageSize),
                    fp8: format.element == .f8e4m3 ? 1 : 0)), .value(Int32(queryTokens)), .value(scale))
        return (
            try stream.download(exact, count: outputCount), try stream.download(exactLogSumExp, count: rows)
        )
    }
}
