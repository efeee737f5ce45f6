#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The bytes behind the pages of all layers: one anonymous mapping, whose memory the system commits when it is touched.
///
/// Unchecked Sendable: the mapping never moves; a step writes only to pages that its sequences hold alone.
final class PageMemory: @unchecked Sendable {
    /// Kernels may read this far beyond the last page.
    private static let slack = 128
    private let base: UnsafeMutableRawPointer
    private let mapped: Int
    private let layerOffsets: [Int]
    private let pageBytes: [Int]

    /// Room for `pages` pages of each layer.
    init(pageBytes: [Int], pages: Int) throws {
        var offset = 0
        var offsets: [Int] = []
        for bytes in pageBytes {
            offsets.append(offset)
            let (region, overflow) = bytes.multipliedReportingOverflow(by: pages)
            let (end, overflowToo) = offset.addingReportingOverflow(region)
            guard !overflow, !overflowToo, end < Int.max / 2 else { throw CacheError.outOfMemory(bytes: Int.max) }
            offset = end
        }
        let size = offset + Self.slack
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let address = mmap(nil, size, PROT_READ | PROT_WRITE, flags, -1, 0), address != MAP_FAILED else {
            throw CacheError.outOfMemory(bytes: size)
        }
        base = address
        mapped = size
        layerOffsets = offsets
        self.pageBytes = pageBytes
    }

    deinit { munmap(base, mapped) }

    /// The first page of a layer.
    func pages(ofLayer layer: Int) -> UnsafeMutableRawPointer { base + layerOffsets[layer] }

    /// Copies a page of every layer.
    func copy(page source: Int32, to target: Int32) {
        for (layer, bytes) in pageBytes.enumerated() {
            let first = pages(ofLayer: layer)
            (first + Int(target) * bytes).copyMemory(from: first + Int(source) * bytes, byteCount: bytes)
        }
    }
}
