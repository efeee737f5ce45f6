import ApusAttention

/// Bytes of a page, or -1: `apus_attention_page_bytes` of `apus_attention.h`.
@_cdecl("apus_attention_page_bytes")
public func pageBytes(
    _ queryHeads: Int32, _ groups: Int32, _ shared: Int32, _ key: Int32, _ keyOnce: Int32, _ value: Int32,
    _ pageSize: Int32, _ fp8: Int32, _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int
) -> Int64 {
    do {
        return Int64(try cacheFormat(queryHeads, groups, shared, key, keyOnce, value, pageSize, fp8).pageBytes)
    } catch {
        return Int64(report(error, message, capacity))
    }
}

/// Makes a plan: `apus_attention_create` of `apus_attention.h`.
@_cdecl("apus_attention_create")
public func createPlan(
    _ queryHeads: Int32, _ groups: Int32, _ shared: Int32, _ key: Int32, _ keyOnce: Int32, _ value: Int32,
    _ pageSize: Int32, _ fp8: Int32, _ queryTokens: Int32, _ maximumBatch: Int32, _ scale: Float, _ device: Int32,
    _ plan: UnsafeMutablePointer<UnsafeMutableRawPointer?>, _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int
) -> Int32 {
    do {
        let handle = try AttentionPlanHandle(
            format: cacheFormat(queryHeads, groups, shared, key, keyOnce, value, pageSize, fp8),
            queryTokens: Int(queryTokens), maximumBatch: Int(maximumBatch), scale: scale, device: Int(device))
        plan.pointee = Unmanaged.passRetained(handle).toOpaque()
        return 0
    } catch {
        return report(error, message, capacity)
    }
}

/// Gives a plan back: `apus_attention_destroy` of `apus_attention.h`.
@_cdecl("apus_attention_destroy")
public func destroyPlan(_ plan: UnsafeMutableRawPointer?) {
    if let plan { Unmanaged<AttentionPlanHandle>.fromOpaque(plan).release() }
}

/// Plans a step: `apus_attention_schedule` of `apus_attention.h`.
@_cdecl("apus_attention_schedule")
public func schedulePlan(
    _ plan: UnsafeMutableRawPointer, _ lengths: UInt, _ batch: Int32, _ stream: UnsafeMutableRawPointer?,
    _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int
) -> Int32 {
    let handle = Unmanaged<AttentionPlanHandle>.fromOpaque(plan).takeUnretainedValue()
    do {
        try handle.attention.schedule(lengths: UInt64(lengths), batch: Int(batch), on: handle.streams.stream(stream))
        return 0
    } catch {
        return report(error, message, capacity)
    }
}

/// Attends in one layer: `apus_attention_run` of `apus_attention.h`.
@_cdecl("apus_attention_run")
public func runPlan(
    _ plan: UnsafeMutableRawPointer, _ query: UInt, _ cache: UInt, _ pages: Int64, _ pageTable: UInt,
    _ pageStride: Int32, _ output: UInt, _ logSumExp: UInt, _ stream: UnsafeMutableRawPointer?,
    _ message: UnsafeMutablePointer<CChar>?, _ capacity: Int
) -> Int32 {
    let handle = Unmanaged<AttentionPlanHandle>.fromOpaque(plan).takeUnretainedValue()
    do {
        let layer = GPUDecodeAttention.Layer(
            query: UInt64(query), cache: UInt64(cache), pageCount: Int(pages), pageTable: UInt64(pageTable),
            pageStride: Int(pageStride), output: UInt64(output), logSumExp: UInt64(logSumExp))
        try handle.attention.run(layer, on: handle.streams.stream(stream))
        return 0
    } catch {
        return report(error, message, capacity)
    }
}
