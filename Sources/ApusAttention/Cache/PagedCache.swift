import ApusTensor
import CApusKernels

/// The keys and values of all layers, in pages that sequences take and give back.
///
/// A step is: ``begin(_:)`` finds pages for the new tokens; each layer appends its rows and attends; ``commit(_:)`` makes
/// the tokens part of their sequences. Pages may be shared by sequences (``fork(_:)``); who writes to a shared page gets
/// its own copy first. Memory is committed when it is touched.
public final class PagedCache: Sendable {
    /// What a token leaves in each layer.
    public let geometries: [CacheGeometry]
    /// Dtypes of the parts.
    public let layout: CacheLayout
    /// Tokens of a page.
    public let pageSize: Int

    let memory: PageMemory
    let kernelLayouts: [apus_cache_layout]
    let backend: CPUBackend
    private let allocator: PageAllocator

    /// A cache of `pages` pages.
    /// - Parameters:
    ///   - geometries: one per layer.
    ///   - layout: dtypes of the parts.
    ///   - pageSize: tokens of a page, at least 1.
    ///   - pages: pages shared by all sequences; a page spans all layers.
    ///   - backend: a CPU backend, whose pool shares the work.
    /// - Throws: ``CacheError`` when a number is below one, the backend is on another device or memory cannot be had.
    public init(
        geometries: [CacheGeometry], layout: CacheLayout, pageSize: Int, pages: Int, backend: any Backend
    ) throws {
        for (name, found) in [("layers", geometries.count), ("page size", pageSize), ("pages", pages)] where found < 1 {
            throw CacheError.tooSmall(name: name, found: found)
        }
        guard let backend = backend as? CPUBackend else { throw CacheError.device(backend.device) }
        guard pages <= Int(Int32.max), pageSize <= Int(Int32.max) else { throw CacheError.outOfMemory(bytes: Int.max) }
        self.geometries = geometries
        self.layout = layout
        self.pageSize = pageSize
        self.backend = backend
        kernelLayouts = geometries.map { layout.kernelLayout(of: $0, pageSize: pageSize) }
        memory = try PageMemory(pageBytes: kernelLayouts.map { Int($0.page_bytes) }, pages: pages)
        allocator = PageAllocator(capacity: pages)
    }

    /// Pages in all.
    public var pageCount: Int { allocator.capacity }
    /// Pages that no sequence holds.
    public var freePageCount: Int { allocator.freeCount }
    /// Bytes of a page over all layers.
    public var bytesPerPage: Int { kernelLayouts.reduce(0) { $0 + Int($1.page_bytes) } }

    /// An empty sequence.
    public func makeSequence() -> CacheSequence { CacheSequence(allocator: allocator) }

    /// A sequence with the first `length` tokens of another (all by default), whose pages it shares.
    /// - Throws: ``CacheError/length(found:limit:)``.
    public func fork(_ sequence: CacheSequence, length: Int? = nil) throws -> CacheSequence {
        let length = length ?? sequence.length
        guard (0...sequence.length).contains(length) else {
            throw CacheError.length(found: length, limit: sequence.length)
        }
        let copy = CacheSequence(allocator: allocator)
        copy.pages = Array(sequence.pages.prefix(pagesFor(length)))
        copy.length = length
        allocator.retain(copy.pages)
        return copy
    }

    /// Forgets the tokens of a sequence from `length` on: rejected drafts, or a prompt's divergence.
    /// - Throws: ``CacheError/length(found:limit:)``.
    public func truncate(_ sequence: CacheSequence, to length: Int) throws {
        guard (0...sequence.length).contains(length) else {
            throw CacheError.length(found: length, limit: sequence.length)
        }
        let kept = pagesFor(length)
        allocator.release(sequence.pages.dropFirst(kept))
        sequence.pages.removeLast(max(sequence.pages.count - kept, 0))
        sequence.length = length
    }

    /// Finds pages for the new tokens of a step. A step that is not committed leaves lengths as they were.
    /// - Parameter requests: sequences and how many tokens each gets, at least one.
    /// - Throws: ``CacheError``; nothing has changed then.
    public func begin(_ requests: [(sequence: CacheSequence, tokens: Int)]) throws -> CacheBatch {
        var seen = Set<ObjectIdentifier>()
        var needed = 0
        for (index, (sequence, tokens)) in requests.enumerated() {
            guard sequence.allocator === allocator, seen.insert(ObjectIdentifier(sequence)).inserted else {
                throw CacheError.foreignSequence(index: index)
            }
            guard tokens >= 1 else { throw CacheError.noTokens(index: index) }
            let (length, overflow) = sequence.length.addingReportingOverflow(tokens)
            guard !overflow, length <= Int(Int32.max) else {
                throw CacheError.length(found: length, limit: Int(Int32.max))
            }
            needed += max(pagesFor(length) - sequence.pages.count, 0) + (writesToSharedPage(sequence) ? 1 : 0)
        }
        guard var pages = allocator.take(needed) else {
            throw CacheError.outOfPages(needed: needed, free: allocator.freeCount)
        }
        for (sequence, tokens) in requests {
            if writesToSharedPage(sequence) { replaceLastPage(of: sequence, with: pages.removeFirst()) }
            let missing = max(pagesFor(sequence.length + tokens) - sequence.pages.count, 0)
            sequence.pages += pages.prefix(missing)
            pages.removeFirst(missing)
        }
        allocator.release(pages)
        return CacheBatch(requests)
    }

    /// Makes a step's new tokens part of their sequences.
    public func commit(_ batch: CacheBatch) {
        for (sequence, length) in zip(batch.sequences, batch.lengths) { sequence.length = length }
    }

    /// Copies a page of every layer, for callers that keep page tables themselves (``CacheBatch/init(tables:)``).
    package func copyPage(_ source: Int32, to target: Int32) { memory.copy(page: source, to: target) }

    private func pagesFor(_ length: Int) -> Int { (length + pageSize - 1) / pageSize }

    /// Whether the next token falls into a page that others hold too.
    private func writesToSharedPage(_ sequence: CacheSequence) -> Bool {
        sequence.length % pageSize != 0 && allocator.isShared(sequence.pages[sequence.length / pageSize])
    }

    private func replaceLastPage(of sequence: CacheSequence, with page: Int32) {
        let index = sequence.length / pageSize
        memory.copy(page: sequence.pages[index], to: page)
        allocator.release(CollectionOfOne(sequence.pages[index]))
        sequence.pages[index] = page
    }
}
