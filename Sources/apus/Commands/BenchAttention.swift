import ApusAttention
import ApusTensor
import ApusText
import ArgumentParser

extension GPUCacheFormat.Element: ExpressibleByArgument {}

/// `apus bench attention`: decode attention on the GPU.
struct BenchAttention: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attention",
        abstract: "Measure decode attention on this machine's GPU.",
        discussion: """
            Equal lengths, shuffled pages, a ring of caches of at least 512 MB, 20 launches in a CUDA graph, the median of \
            15 replays. The floor is what the bandwidth and the product rate measured beforehand allow. Needs a Hopper GPU.

            --width is the head's width, or the latent's (512 for MLA, 256 for GLA by default).

            EXAMPLES:
              apus bench attention --variant gla --query-heads 128 --groups 2 --length 8192 --batch 128 --peer 513
              apus bench attention --variant gta --query-heads 64 --groups 4 --width 128 --batch 64 --cache f8e4m3
            """)

    @Option(help: "mha, mqa, gqa, gta, mla or gla.") var variant = AttentionVariant.gla
    @Option(help: "Query heads.") var queryHeads = 128
    @Option(help: "KV heads of GQA and GTA, latent heads of GLA; 2 by default.") var groups: Int?
    @Option(help: "Width of a head, or of a latent.") var width: Int?
    @Option(help: "Width of the RoPE key of MLA and GLA (64 by default) and GTA (half a head).") var ropeWidth: Int?
    @Option(help: "New tokens a sequence (repeat for several).") var queryTokens: [Int] = []
    @Option(help: "Tokens in the cache of each sequence (repeat for several).") var length: [Int] = []
    @Option(help: "Sequences (repeat for several).") var batch: [Int] = []
    @Option(help: "Tokens of a page.") var pageSize = 64
    @Option(help: "bf16 or f8e4m3.") var cache = GPUCacheFormat.Element.bf16
    @Option(help: "A peer's microseconds for the same setting; the ratio is printed.") var peer: Double?
    @Flag(help: "Let each launch begin while the one before it ends.") var overlap = false
    @Flag(help: "Print a JSON array with an object a row.") var json = false

    func validate() throws {
        let counts = [("query-tokens", queryTokens.min()), ("length", length.min()), ("batch", batch.min())]
        for (name, value) in counts + [("query-heads", queryHeads), ("page-size", pageSize)] {
            if let value, !(1...1 << 24).contains(value) {
                throw ValidationError("--\(name): expected an integer between 1 and 2^24, found \(value)")
            }
        }
        if let peer, !(peer > 0) { throw ValidationError("--peer: expected microseconds, found \(peer)") }
    }

    func run() throws {
        let format = try GPUCacheFormat(geometry: geometry(), pageSize: pageSize, element: cache)
        let benchmark = try AttentionBenchmark(device: CUDADevice.device())
        if !json {
            try Terminal.out(
                "read \(fixed(benchmark.readBandwidth / 1e12, 2)) TB/s, bf16 product "
                    + "\(fixed(benchmark.productRate / 1e12, 0)) TFLOP/s\n\n"
                    + "| setting | tokens, length, batch | us | GB/s | TFLOP/s | floor us | of the floor |"
                    + "\(peer == nil ? "" : " peer / us |")\n|---|---|---|---|---|---|---|\(peer == nil ? "" : "---|")\n"
            )
        }
        var objects: [JSONValue] = []
        for batch in batch.isEmpty ? [128] : batch {
            for length in length.isEmpty ? [8192] : length {
                for tokens in queryTokens.isEmpty ? [1] : queryTokens {
                    let setting = AttentionBenchmark.Setting(
                        format: format, queryTokens: tokens, length: length, batch: batch)
                    let result = try benchmark.measure(setting, overlapping: overlap)
                    if json {
                        objects.append(object(setting, result))
                    } else {
                        try Terminal.out(row(setting, result))
                    }
                }
            }
        }
        if json { try Terminal.out(JSONValue.array(objects).serialized() + "\n") }
    }

    private func geometry() throws -> CacheGeometry {
        let groups = groups ?? 2
        return switch variant {
        case .mha: try .mha(queryHeads: queryHeads, headWidth: width ?? 128)
        case .mqa: try .mqa(queryHeads: queryHeads, headWidth: width ?? 128)
        case .gqa: try .gqa(queryHeads: queryHeads, kvHeads: groups, headWidth: width ?? 128)
        case .gta: try .gta(queryHeads: queryHeads, kvHeads: groups, headWidth: width ?? 128, ropeWidth: ropeWidth)
        case .mla: try .mla(queryHeads: queryHeads, latentWidth: width ?? 512, ropeWidth: ropeWidth ?? 64)
        case .gla:
            try .gla(
                queryHeads: queryHeads, latentHeads: groups, latentWidth: width ?? 256, ropeWidth: ropeWidth ?? 64)
        }
    }

    private func row(_ setting: AttentionBenchmark.Setting, _ result: AttentionBenchmark.Result) -> String {
        let microseconds = result.seconds * 1e6
        var row =
            "| \(variant.rawValue) \(queryHeads), page \(pageSize), \(cache.rawValue) "
            + "| \(setting.queryTokens), \(setting.length), \(setting.batch) | \(fixed(microseconds, 1)) "
            + "| \(fixed(result.cacheBytes / result.seconds / 1e9, 0)) "
            + "| \(fixed(result.operations / result.seconds / 1e12, 0)) | \(fixed(result.floor * 1e6, 1)) "
            + "| \(fixed(100 * result.floor / result.seconds, 0)) % |"
        if let peer { row += " \(fixed(peer / microseconds, 2)) |" }
        return row + "\n"
    }

    private func object(
        _ setting: AttentionBenchmark.Setting, _ result: AttentionBenchmark.Result
    ) -> JSONValue {
        let microseconds = result.seconds * 1e6
        var object = JSONObject([
            ("variant", .string(variant.rawValue)), ("queryHeads", .integer(Int64(queryHeads))),
            ("pageSize", .integer(Int64(pageSize))), ("cache", .string(cache.rawValue)),
            ("queryTokens", .integer(Int64(setting.queryTokens))), ("length", .integer(Int64(setting.length))),
            ("batch", .integer(Int64(setting.batch))), ("microseconds", .double(microseconds)),
            ("bytesPerSecond", .double(result.cacheBytes / result.seconds)),
            ("operationsPerSecond", .double(result.operations / result.seconds)),
            ("floorMicroseconds", .double(result.floor * 1e6)),
        ])
        if let peer { object["peerRatio"] = .double(peer / microseconds) }
        return .object(object)
    }
}
