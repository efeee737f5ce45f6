/// The pages of a cache as numbers: who holds each, what full ones contain, and which may be taken.
///
/// A page is held by sequences, free, or reusable: held by none, but with content that a prompt may find again. Taking a
/// page prefers free ones, then the reusable one whose last holder left first. A full page's content is known by its tokens
/// and the content before it, so that equal beginnings of prompts are equal chains of pages. Who holds a page also holds
/// every page before it in its chain, and gives them back last page first: so a chain is taken from its end, and no page
/// outlives the one before it.
///
/// Every operation costs a few array accesses; finding and registering a page hash its tokens once.
package struct PagePool: Sendable {
    /// What a page contains: tokens after the content with a serial number, 0 for nothing.
    private struct Content: Hashable {
        let parent: Int
        let tokens: ArraySlice<Int32>
    }

    /// The end of a chain of known contents; 0 before the first page.
    package typealias Chain = Int

    private static let none: Int32 = -1

    /// Pages in all.
    package let capacity: Int
    /// Tokens of a page.
    package let pageSize: Int
    private var free: [Int32]
    private var holders: [Int32]
    private var pageOfContent: [Content: Int32] = [:]
    private var contents: [Content?]
    private var serials: [Chain]
    private var lastSerial: Chain = 0
    // The reusable pages as a doubly linked list, oldest first.
    private var older: [Int32]
    private var newer: [Int32]
    private var oldest = none
    private var newest = none
    /// Pages that none holds, with content.
    package private(set) var reusableCount = 0

    /// A pool of free pages.
    package init(capacity: Int, pageSize: Int) {
        self.capacity = capacity
        self.pageSize = pageSize
        // Low numbers come first: they are the ones whose memory has been touched already.
        free = (0..<Int32(capacity)).reversed()
        holders = Array(repeating: 0, count: capacity)
        contents = Array(repeating: nil, count: capacity)
        serials = Array(repeating: 0, count: capacity)
        older = Array(repeating: Self.none, count: capacity)
        newer = older
    }

    /// Pages that can be taken.
    package var availableCount: Int { free.count + reusableCount }
    /// Pages that sequences hold.
    package var heldCount: Int { capacity - availableCount }

    /// Pages for `tokens` tokens.
    package func pages(for tokens: Int) -> Int { (tokens + pageSize - 1) / pageSize }

    /// How many hold a page.
    package func holderCount(_ page: Int32) -> Int { Int(holders[Int(page)]) }

    /// A page with one holder and no content, or nil when every page is held.
    package mutating func take() -> Int32? {
        let page: Int32
        if let last = free.popLast() {
            page = last
        } else if oldest != Self.none {
            page = oldest
            unlink(page)
            drop(page)
        } else {
            return nil
        }
        holders[Int(page)] = 1
        return page
    }

    /// One more holder of a page.
    package mutating func retain(_ page: Int32) {
        if holders[Int(page)] == 0 { unlink(page) }
        holders[Int(page)] += 1
    }

    /// One holder less. Precondition: it has one.
    package mutating func release(_ page: Int32) {
        let index = Int(page)
        precondition(holders[index] > 0, "page \(page) is released more often than it was held")
        holders[index] -= 1
        guard holders[index] == 0 else { return }
        if contents[index] == nil { free.append(page) } else { link(page) }
    }

    /// The longest chain of known pages that `tokens` begins with, at most `limit` pages; nobody's hold changes.
    package func find(_ tokens: [Int32], limit: Int) -> (pages: [Int32], end: Chain) {
        var pages: [Int32] = []
        var chain = 0
        while pages.count < limit, (pages.count + 1) * pageSize <= tokens.count {
            let start = pages.count * pageSize
            guard let page = pageOfContent[Content(parent: chain, tokens: tokens[start..<start + pageSize])] else {
                break
            }
            pages.append(page)
            chain = serials[Int(page)]
        }
        return (pages, chain)
    }

    /// Makes a full page's content known, which follows `chain`. Where another page with the same content is known already,
    /// that one takes the place of `page` in its holder's hands.
    /// - Returns: the page its holder has now, and the chain's new end.
    package mutating func register(_ page: Int32, tokens: ArraySlice<Int32>, after chain: Chain) -> (Int32, Chain) {
        precondition(tokens.count == pageSize && holders[Int(page)] > 0)
        let content = Content(parent: chain, tokens: tokens)
        if let known = pageOfContent[content] {
            if known != page {
                retain(known)
                release(page)
            }
            return (known, serials[Int(known)])
        }
        // A slice would keep all of its sequence's tokens alive.
        let own = Content(parent: chain, tokens: Array(tokens)[...])
        lastSerial += 1
        pageOfContent[own] = page
        contents[Int(page)] = own
        serials[Int(page)] = lastSerial
        return (page, lastSerial)
    }

    /// Makes a page's content unknown, for good: nobody finds it or what follows it again.
    package mutating func forget(_ page: Int32) {
        let index = Int(page)
        guard contents[index] != nil else { return }
        drop(page)
        if holders[index] == 0 {
            unlink(page)
            free.append(page)
        }
    }

    /// Makes every page's content unknown.
    package mutating func forgetAll() {
        for page in 0..<Int32(capacity) { forget(page) }
    }

    private mutating func drop(_ page: Int32) {
        guard let content = contents[Int(page)] else { return }
        pageOfContent[content] = nil
        contents[Int(page)] = nil
        serials[Int(page)] = 0
    }

    private mutating func link(_ page: Int32) {
        older[Int(page)] = newest
        newer[Int(page)] = Self.none
        if newest == Self.none { oldest = page } else { newer[Int(newest)] = page }
        newest = page
        reusableCount += 1
    }

    private mutating func unlink(_ page: Int32) {
        let (before, after) = (older[Int(page)], newer[Int(page)])
        if before == Self.none { oldest = after } else { newer[Int(before)] = after }
        if after == Self.none { newest = before } else { older[Int(after)] = before }
        reusableCount -= 1
    }
}

extension PagePool {
    /// Checks the pool against the page tables of all that hold pages.
    /// - Returns: what is wrong, or nil.
    package func inconsistency(tables: [[Int32]]) -> String? {
        var expected = [Int32](repeating: 0, count: capacity)
        for page in tables.joined() { expected[Int(page)] += 1 }
        for page in 0..<capacity where expected[page] != holders[page] {
            return "page \(page): \(holders[page]) holders counted, \(expected[page]) exist"
        }
        var seen = Set(free)
        if seen.count != free.count { return "a page is free twice" }
        var page = oldest
        var count = 0
        while page != Self.none {
            guard let content = contents[Int(page)], pageOfContent[content] == page else {
                return "reusable page \(page) has no content"
            }
            if !seen.insert(page).inserted { return "page \(page) is free and reusable" }
            count += 1
            page = newer[Int(page)]
        }
        if count != reusableCount { return "\(count) pages are reusable, \(reusableCount) counted" }
        if let held = seen.first(where: { holders[Int($0)] > 0 }) { return "held page \(held) can be taken" }
        let unheld = holders.count { $0 == 0 }
        if unheld != seen.count { return "\(unheld) pages are held by none, \(seen.count) can be taken" }
        let known = contents.count { $0 != nil }
        if known != pageOfContent.count { return "\(known) pages with content, \(pageOfContent.count) can be found" }
        return nil
    }
}
