/// The sizes that the allocator rounds requests to.
///
/// Up to 64 MiB there are eight sizes to a doubling, so at most an eighth is wasted above 4 KiB; beyond, sizes are
/// multiples of 2 MiB, the driver's own granule. Blocks of up to 512 KiB are cut from segments of 2 MiB.
enum CUDASizeClass {
    static let alignment = 512
    static let segmentBytes = 2 << 20
    private static let largestCut = 512 << 10
    private static let largestStepped = 64 << 20

    /// The size that a request is rounded to, or nil when no memory could hold it.
    static func size(for byteCount: Int) -> Int? {
        guard byteCount >= 0, byteCount < 1 << 56 else { return nil }
        let needed = max(byteCount, 1)
        let step: Int
        if needed > largestStepped {
            step = segmentBytes
        } else {
            let power = Int.bitWidth - 1 - needed.leadingZeroBitCount
            step = max(alignment, (1 << power) / 8)
        }
        return (needed + step - 1) / step * step
    }

    /// Blocks of that size that one allocation of the driver holds.
    static func blocksPerSegment(size: Int) -> Int {
        size <= largestCut ? segmentBytes / size : 1
    }

    /// The largest cached block that a request of this size may take.
    static func largestFit(size: Int) -> Int {
        size > largestStepped ? size + size / 8 : size
    }
}
