import ApusAttention
import ApusTensor

/// What an `apus_append_plan` points to.
final class AppendPlanHandle {
    let append: GPUCacheAppend
    let streams: CallerStreams

    init(format: GPUCacheFormat, tokens: Int, rotary: RotaryEmbedding?, norm: Bool, device: Int) throws {
        let stream = try CUDAStream(device: CUDADevice.device(device))
        append = try GPUCacheAppend(format: format, tokens: tokens, rotary: rotary, norm: norm, stream: stream)
        streams = CallerStreams(device: stream.device)
        // The plan's upload is done before any stream of the caller's reads it.
        try stream.synchronize()
    }
}

/// The embedding of the first `width` elements of a key; `divisors` (of the frequencies, `width` / 2) may be nil.
private func rotaryEmbedding(
    width: Int32, interleaved: Int32, theta: Double, divisors: UnsafePointer<Float>?, magnitude: Double
) throws -> RotaryEmbedding? {
    guard width != 0 else { return nil }
    guard width > 0, width % 2 == 0, theta > 0 else {
        throw GPUAttentionError.argument(name: "rotary width and theta", expected: "an even width and a theta above 0")
    }
    let factors = divisors.map { Array(UnsafeBufferPointer(start: $0, count: Int(width) / 2)) }
    let all = factors ?? Array(repeating: 1, count: Int(width) / 2)
    return RotaryEmbedding(
        width: Int(width), theta: theta,
        scaling: .longRope(short: all, long: all, originalContext: .max, attentionFactor: magnitude),
        style: interleaved != 0 ? .interleaved : .halfSplit)
}

/// Makes a plan: `apus_append_create` of `apus_attention.h`.
@_cdecl("apus_append_create")
public func createAppend(
    _ queryHeads: Int32, _ groups: Int32, _ shared: Int32, _ key: Int32, _ keyOnce: Int32, _ value: Int32,
    _ pageSize: Int32, _ fp8: Int32, _ tokens: Int32, _ rotaryWidth: Int32, _ interleaved: Int32, _ theta: Double,
    _ divisors: UnsafePointer<Float>?, _ magnitude: Double, _ norm: Int32, _ device: Int32,
    _ plan: UnsafeMutablePointer<UnsafeMutableRawPointer?>, _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int
) -> Int32 {
    do {
        let handle = try AppendPlanHandle(
            format: cacheFormat(queryHeads, groups, shared, key, keyOnce, value, pageSize, fp8), tokens: Int(tokens),
            rotary: rotaryEmbedding(
                width: rotaryWidth, interleaved: interleaved, theta: theta, divisors: divisors, magnitude: magnitude),
            norm: norm != 0, device: Int(device))
        plan.pointee = Unmanaged.passRetained(handle).toOpaque()
        return 0
    } catch {
        return report(error, message, capacity)
    }
}

/// Gives a plan back: `apus_append_destroy` of `apus_attention.h`.
@_cdecl("apus_append_destroy")
public func destroyAppend(_ plan: UnsafeMutableRawPointer?) {
    if let plan { Unmanaged<AppendPlanHandle>.fromOpaque(plan).release() }
}

/// Appends to one layer: `apus_append_run` of `apus_attention.h`.
@_cdecl("apus_append_run")
public func runAppend(
    _ plan: UnsafeMutableRawPointer, _ rows: UInt, _ key: UInt, _ cache: UInt, _ pageTable: UInt, _ pageStride: Int32,
    _ lengths: UInt, _ batch: Int32, _ normWeight: UInt, _ epsilon: Float, _ stream: UnsafeMutableRawPointer?,
    _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int
) -> Int32 {
    let handle = Unmanaged<AppendPlanHandle>.fromOpaque(plan).takeUnretainedValue()
    do {
        let layer = GPUCacheAppend.Layer(
            rows: UInt64(rows), key: UInt64(key), cache: UInt64(cache), pageTable: UInt64(pageTable),
            pageStride: Int(pageStride), lengths: UInt64(lengths),
            norm: normWeight == 0 ? nil : GPUCacheAppend.Norm(weight: UInt64(normWeight), epsilon: epsilon))
        try handle.append.run(layer, batch: Int(batch), on: handle.streams.stream(stream))
        return 0
    } catch {
        return report(error, message, capacity)
    }
}
