/// A sequence's place in a cache: its pages, in order, and how many tokens they hold.
///
/// Pages return to the cache when the sequence goes. Unchecked Sendable: whoever steps, truncates or forks a sequence holds
/// it alone meanwhile.
public final class CacheSequence: @unchecked Sendable {
    /// The page table: page `i` holds the tokens `i * pageSize ..< (i + 1) * pageSize`.
    public internal(set) var pages: [Int32] = []
    /// Tokens committed.
    public internal(set) var length = 0
    let allocator: PageAllocator

    init(allocator: PageAllocator) { self.allocator = allocator }

    deinit { allocator.release(pages) }
}
