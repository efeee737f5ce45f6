import ApusSynchronization
#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Freed blocks kept for reuse, in size classes (powers of two and their halves in between).
///
/// Blocks up to 64 MiB are kept: 256 MiB in all, or as much as was in use at once before beyond what is in use now.
/// So a training step finds the memory of the one before, and what is kept does not raise the peak. Larger blocks go back
/// to the system at once. Taking and giving are a lock and an array operation, about 50 ns.
final class StoragePool: Sendable {
    static let shared = StoragePool()

    private static let keptBlockLimit = 64 << 20
    private static let alwaysKept = 256 << 20

    private struct Free {
        var blocks: [[UnsafeMutableRawPointer]] = Array(repeating: [], count: 128)
        var total = 0
        /// Bytes in use, and the most there ever were.
        var used = 0
        var mostUsed = 0
    }

    // The pointers are owned by the pool alone while they are in the lists, so moving them between threads is safe.
    private struct State: @unchecked Sendable {
        var free = Free()
    }

    private let state = Locked(State())

    /// Size class and its size: 64 B, 96 B, 128 B, 192 B, 256 B ...
    private static func sizeClass(_ bytes: Int) -> (index: Int, size: Int) {
        let needed = max(bytes, 64)
        let log = Int.bitWidth - 1 - (needed - 1 == 0 ? 63 : (needed - 1).leadingZeroBitCount)
        let lower = 1 << log
        let middle = lower + lower / 2
        return needed <= middle ? (2 * log, middle) : (2 * log + 1, 2 * lower)
    }

    func take(_ bytes: Int) -> (UnsafeMutableRawPointer?, Int) {
        guard bytes >= 0, bytes <= Int.max / 4 else { return (nil, 0) }
        if bytes > Self.keptBlockLimit {
            let size = (bytes + 63) & ~63
            return (aligned_alloc(64, size), size)
        }
        let (index, size) = Self.sizeClass(bytes)
        let reused = state.withLock { state -> UnsafeMutableRawPointer? in
            state.free.used += size
            state.free.mostUsed = max(state.free.mostUsed, state.free.used)
            guard let block = state.free.blocks[index].popLast() else { return nil }
            state.free.total -= size
            return block
        }
        return (reused ?? aligned_alloc(64, (size + 63) & ~63), size)
    }

    func give(_ block: UnsafeMutableRawPointer, _ size: Int) {
        guard size <= Self.keptBlockLimit else {
            free(block)
            return
        }
        let (index, _) = Self.sizeClass(size)
        let kept = state.withLock { state -> Bool in
            state.free.used -= size
            let limit = max(Self.alwaysKept, state.free.mostUsed - state.free.used)
            guard state.free.total + size <= limit else { return false }
            state.free.blocks[index].append(block)
            state.free.total += size
            return true
        }
        if !kept { free(block) }
    }
}
