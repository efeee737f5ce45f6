import ApusTensor

extension Checkpoint {
    /// What tells models apart at the cost of a few page reads: a hash over names, shapes and dtypes of all weights and some
    /// bytes of each.
    /// - Throws: file errors.
    public func fingerprint() throws -> String {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        func add(_ byte: UInt8) { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        for name in tensorNames.sorted() {
            let tensor = try tensor(named: name)
            "\(name) \(tensor.shape) \(tensor.dtype)".utf8.forEach(add)
            let bytes = UnsafeRawBufferPointer(start: tensor.rawPointer, count: tensor.byteCount)
            for start in [0, bytes.count / 2, max(bytes.count - 64, 0)] {
                bytes[start..<min(start + 64, bytes.count)].forEach(add)
            }
            withExtendedLifetime(tensor) {}
        }
        return String(hash, radix: 16)
    }
}
