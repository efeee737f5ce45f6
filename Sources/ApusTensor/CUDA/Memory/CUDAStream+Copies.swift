import CApusCUDA

/// Copies and fills, queued in the stream's order. Offsets and counts are in bytes.
extension CUDAStream {
    /// From pinned memory to the GPU, without waiting. The pinned buffer must live until the copy is done.
    public func copy(
        _ count: Int, from source: CUDAHostBuffer, at sourceOffset: Int = 0, to target: CUDABuffer,
        at targetOffset: Int = 0
    ) throws(CUDAError) {
        try source.check("copy from the host", offset: sourceOffset, count: count)
        try target.check("copy to the GPU", offset: targetOffset, count: count)
        target.used(on: self)
        try check(
            "cuMemcpyHtoDAsync",
            try device.current().pointee.cuMemcpyHtoDAsync(
                target.address + UInt64(targetOffset), source.base + sourceOffset, count, handle))
    }

    /// From the GPU to pinned memory, without waiting. The pinned buffer must live until the copy is done.
    public func copy(
        _ count: Int, from source: CUDABuffer, at sourceOffset: Int = 0, to target: CUDAHostBuffer,
        at targetOffset: Int = 0
    ) throws(CUDAError) {
        try source.check("copy from the GPU", offset: sourceOffset, count: count)
        try target.check("copy to the host", offset: targetOffset, count: count)
        source.used(on: self)
        try check(
            "cuMemcpyDtoHAsync",
            try device.current().pointee.cuMemcpyDtoHAsync(
                target.base + targetOffset, source.address + UInt64(sourceOffset), count, handle))
    }

    /// Within the GPU, without waiting. The ranges must not overlap.
    public func copy(
        _ count: Int, from source: CUDABuffer, at sourceOffset: Int = 0, to target: CUDABuffer, at targetOffset: Int = 0
    ) throws(CUDAError) {
        try source.check("copy from the GPU", offset: sourceOffset, count: count)
        try target.check("copy to the GPU", offset: targetOffset, count: count)
        source.used(on: self)
        target.used(on: self)
        try check(
            "cuMemcpyDtoDAsync",
            try device.current().pointee.cuMemcpyDtoDAsync(
                target.address + UInt64(targetOffset), source.address + UInt64(sourceOffset), count, handle))
    }

    /// Sets bytes, without waiting.
    public func fill(_ target: CUDABuffer, at offset: Int = 0, count: Int? = nil, with byte: UInt8) throws(CUDAError) {
        let count = count ?? target.byteCount - offset
        try target.check("fill", offset: offset, count: count)
        target.used(on: self)
        try check(
            "cuMemsetD8Async",
            try device.current().pointee.cuMemsetD8Async(target.address + UInt64(offset), byte, count, handle))
    }

    /// From ordinary memory to a new buffer. The values are staged before this returns.
    public func upload<Element: BitwiseCopyable>(_ values: [Element]) throws -> CUDABuffer {
        try values.withUnsafeBytes { bytes in
            let buffer = try CUDABuffer(byteCount: bytes.count, stream: self)
            try upload(bytes, to: buffer.address)
            return buffer
        }
    }

    /// From ordinary memory to an address. The values are staged before this returns.
    func upload(_ bytes: UnsafeRawBufferPointer, to target: UInt64) throws {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return }
        if try staging.copy(bytes, to: target, on: self) { return }
        try check(
            "cuMemcpyHtoDAsync", try device.current().pointee.cuMemcpyHtoDAsync(target, base, bytes.count, handle))
    }

    /// To ordinary memory, after waiting for the stream. Throws ``CUDAError/range(operation:offset:count:size:)``.
    public func download<Element: BitwiseCopyable>(
        _ source: CUDABuffer, at offset: Int = 0, count: Int, as type: Element.Type = Element.self
    ) throws -> [Element] {
        let byteCount = count * MemoryLayout<Element>.stride
        try source.check("copy from the GPU", offset: offset, count: byteCount)
        source.used(on: self)
        return try [Element](unsafeUninitializedCapacity: count) { elements, initialized in
            if let base = elements.baseAddress, byteCount > 0 {
                try check(
                    "cuMemcpyDtoHAsync",
                    try device.current().pointee.cuMemcpyDtoHAsync(
                        base, source.address + UInt64(offset), byteCount, handle))
            }
            try synchronize()
            initialized = count
        }
    }
}
