import ApusSynchronization
/// Hands out page numbers and counts who holds them; a page returns to the free list when nobody does.
///
/// A page number stands for the same page in every layer. Taking and giving cost a lock and an array operation.
final class PageAllocator: Sendable {
    private struct State {
        var free: [Int32]
        var holders: [Int32]
    }

    /// Pages in all.
    let capacity: Int
    private let state: Locked<State>

    init(capacity: Int) {
        self.capacity = capacity
        // Low numbers come first: they are the ones that have been touched already.
        let free = (0..<Int32(capacity)).reversed().map { $0 }
        state = Locked(State(free: free, holders: Array(repeating: 0, count: capacity)))
    }

    var freeCount: Int { state.withLock { $0.free.count } }

    /// `count` pages with one holder each, or nil when fewer are free.
    func take(_ count: Int) -> [Int32]? {
        state.withLock { state in
            guard state.free.count >= count else { return nil }
            let pages = Array(state.free.suffix(count).reversed())
            state.free.removeLast(count)
            for page in pages { state.holders[Int(page)] = 1 }
            return pages
        }
    }

    /// One more holder for each page.
    func retain(_ pages: some Sequence<Int32>) {
        state.withLock { state in
            for page in pages { state.holders[Int(page)] += 1 }
        }
    }

    /// One holder less for each page.
    func release(_ pages: some Sequence<Int32>) {
        state.withLock { state in
            for page in pages {
                state.holders[Int(page)] -= 1
                if state.holders[Int(page)] == 0 { state.free.append(page) }
            }
        }
    }

    func isShared(_ page: Int32) -> Bool { state.withLock { $0.holders[Int(page)] > 1 } }
}
