import ApusAttention
import ApusTensor

/// What an `apus_attention_plan` points to.
final class AttentionPlanHandle {
    let attention: GPUDecodeAttention
    let streams: CallerStreams

    init(format: GPUCacheFormat, queryTokens: Int, maximumBatch: Int, scale: Float, device: Int) throws {
        let stream = try CUDAStream(device: CUDADevice.device(device))
        attention = try GPUDecodeAttention(
            format: format, queryTokens: queryTokens, scale: scale, maximumBatch: maximumBatch, stream: stream)
        streams = CallerStreams(device: stream.device)
    }
}

/// The streams of the caller's that have been used, wrapped.
final class CallerStreams {
    private let device: CUDADevice
    private var known: [UInt: CUDAStream] = [:]

    init(device: CUDADevice) {
        self.device = device
    }

    func stream(_ handle: UnsafeMutableRawPointer?) -> CUDAStream {
        let key = UInt(bitPattern: handle)
        if let stream = known[key] { return stream }
        let made = CUDAStream(borrowing: handle, device: device)
        known[key] = made
        return made
    }
}

/// Writes a reason into the caller's room, cut to fit, and gives the code of failure.
func report(_ error: any Error, _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int) -> Int32 {
    if let message, capacity > 0 {
        let bytes = Array("\(error)".utf8.prefix(capacity - 1))
        for (i, byte) in bytes.enumerated() { message[i] = CChar(bitPattern: byte) }
        message[bytes.count] = 0
    }
    return -1
}

/// The format of a geometry given in numbers.
func cacheFormat(
    _ queryHeads: Int32, _ groups: Int32, _ shared: Int32, _ key: Int32, _ keyOnce: Int32, _ value: Int32,
    _ pageSize: Int32, _ fp8: Int32
) throws -> GPUCacheFormat {
    try GPUCacheFormat(
        geometry: CacheGeometry(
            queryHeads: Int(queryHeads), groups: Int(groups), shared: Int(shared), key: Int(key),
            keyKept: keyOnce != 0 ? .once : .perGroup, value: Int(value)),
        pageSize: Int(pageSize), element: fp8 != 0 ? .f8e4m3 : .bf16)
}
