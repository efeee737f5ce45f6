import ApusTensor

/// Looking for NaN and infinity.
///
/// A float is neither exactly when its exponent is not all ones. Adding the exponent's lowest bit to the absolute value
/// carries into the sign bit exactly when it is, so that a run of elements needs only and, add and or.
extension Tensor {
    /// Row-major index of the first element that is NaN or infinite, or nil. Of packed dtypes every block's scales are
    /// checked, and the index is that of the block's first element. Other dtypes have no such value. Precondition:
    /// contiguous.
    public func firstNotFinite() -> Int? {
        precondition(isContiguous, "a scan of a tensor with gaps")
        return withContiguousBytes { bytes in
            switch dtype {
            case .f64: scan(bytes.bindMemory(to: UInt64.self), magnitude: ~0 >> 1, carry: 1 << 52)
            case .f32: scan(bytes.bindMemory(to: UInt32.self), magnitude: ~0 >> 1, carry: 1 << 23)
            case .f16: scan(bytes.bindMemory(to: UInt16.self), magnitude: ~0 >> 1, carry: 1 << 10)
            case .bf16: scan(bytes.bindMemory(to: UInt16.self), magnitude: ~0 >> 1, carry: 1 << 7)
            // The format has no infinity, and NaN is the one pattern with all bits but the sign set.
            case .f8e4m3: scan(bytes.bindMemory(to: UInt8.self), magnitude: ~0 >> 1, carry: 1)
            case .q8_0, .q4_0: scanBlocks(bytes, scalesAt: 0)
            case .q4_1, .q4_K: scanBlocks(bytes, scalesAt: 0, 2)
            case .q6_K: scanBlocks(bytes, scalesAt: 208)
            case .i64, .i32, .i16, .i8, .u8, .bool: nil
            }
        }
    }

    private func scan<T: FixedWidthInteger>(_ elements: UnsafeBufferPointer<T>, magnitude: T, carry: T) -> Int? {
        let run = 4096
        let sign = ~magnitude
        func carried(_ element: T) -> T { (element & magnitude) &+ carry }
        var start = 0
        while start < elements.count {
            let end = min(start + run, elements.count)
            var seen: T = 0
            for index in start..<end { seen |= carried(elements[index]) }
            if seen & sign != 0 { return (start..<end).first { carried(elements[$0]) & sign != 0 } }
            start = end
        }
        return nil
    }

    private func scanBlocks(_ bytes: UnsafeRawBufferPointer, scalesAt offsets: Int...) -> Int? {
        let step = dtype.bytesPerBlock
        for offset in offsets {
            var seen: UInt16 = 0
            for block in stride(from: offset, to: bytes.count, by: step) {
                seen |= (bytes.loadUnaligned(fromByteOffset: block, as: UInt16.self) & 0x7fff) &+ 0x400
            }
            guard seen & 0x8000 != 0 else { continue }
            // Rare: look again, for the first bad block over all scales.
            for block in 0..<bytes.count / step {
                for offset in offsets {
                    let scale = bytes.loadUnaligned(fromByteOffset: block * step + offset, as: UInt16.self)
                    if scale & 0x7c00 == 0x7c00 { return block * dtype.blockSize }
                }
            }
        }
        return nil
    }
}
