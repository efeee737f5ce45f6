import ApusSynchronization
import CApusCUDA

/// Pinned memory that values pass on their way to the GPU on one stream.
///
/// The driver stages up to 64 KiB of memory that may be paged by itself; for more it first waits until the stream has done
/// everything queued, and the GPU idles until the next launch. What is larger than 8 MiB is left to it all the same.
final class CUDAStaging: Sendable {
    /// Sizes that pass here.
    private static let sizes = (64 << 10) + 1...8 << 20
    /// Most pieces that are kept.
    private static let most = 16

    private struct Piece: Sendable {
        var memory: CUDAHostBuffer
        /// Behind the last copy from it.
        var copied: CUDAEvent
    }

    private let pieces = Locked<[Piece]>([])

    /// Queues the copy and returns once the bytes may change; false where the driver is to do it.
    func copy(_ bytes: UnsafeRawBufferPointer, to target: UInt64, on stream: CUDAStream) throws -> Bool {
        guard Self.sizes.contains(bytes.count) else { return false }
        return try pieces.withLock { pieces in
            let fit = try pieces.indices.first {
                try pieces[$0].memory.byteCount >= bytes.count && pieces[$0].copied.isComplete()
            }
            guard fit != nil || pieces.count < Self.most else { return false }
            let piece =
                try fit.map { pieces.remove(at: $0) }
                ?? Piece(
                    memory: CUDAHostBuffer(byteCount: Self.rounded(bytes.count), device: stream.device),
                    copied: CUDAEvent(device: stream.device, timing: false))
            piece.memory.bytes.copyMemory(from: bytes)
            try stream.check(
                "cuMemcpyHtoDAsync",
                try stream.device.current().pointee.cuMemcpyHtoDAsync(
                    target, piece.memory.base, bytes.count, stream.handle))
            try piece.copied.record(on: stream)
            pieces.append(piece)
            return true
        }
    }

    deinit {
        pieces.withLock { for piece in $0 { try? piece.copied.synchronize() } }
    }

    /// The next power of two.
    private static func rounded(_ count: Int) -> Int { 1 << (Int.bitWidth - (count - 1).leadingZeroBitCount) }
}
