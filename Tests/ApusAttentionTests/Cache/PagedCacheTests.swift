import ApusAttention
import ApusTensor
import Testing

/// Pages, sequences and their errors.
@Suite struct PagedCacheTests {
    private func makeCache(pages: Int, pageSize: Int = 4) throws -> PagedCache {
        try PagedCache(
            geometries: [try .mqa(queryHeads: 2, headWidth: 8)], layout: CacheLayout(dtype: .f32), pageSize: pageSize,
            pages: pages, backend: CPUBackend.shared)
    }

    private func grow(_ cache: PagedCache, _ sequence: CacheSequence, _ tokens: Int, value: Float = 1) throws {
        let batch = try cache.begin([(sequence, tokens)])
        let rows = Tensor(Array(repeating: value, count: tokens * 8), shape: [tokens, 1, 8])
        cache.append(layer: 0, batch: batch, shared: nil, key: rows, value: rows)
        cache.commit(batch)
    }

    /// What one query reads when every key is equal: the mean of the values.
    private func mean(_ cache: PagedCache, _ sequence: CacheSequence) throws -> Float {
        let copy = try cache.fork(sequence, length: sequence.length - 1)
        let batch = try cache.begin([(copy, 1)])
        let rows = Tensor(Array(repeating: Float(0), count: 8), shape: [1, 1, 8])
        cache.append(layer: 0, batch: batch, shared: nil, key: rows, value: rows)
        let query = Tensor(Array(repeating: Float(0), count: 16), shape: [1, 2, 8])
        let result = cache.attend(query, layer: 0, batch: batch, parameters: AttentionParameters(scale: 1))
        return result.output.floats[0]
    }

    @Test func pagesAreTakenAndGivenBack() throws {
        let cache = try makeCache(pages: 5)
        do {
            let a = cache.makeSequence()
            try grow(cache, a, 9)
            #expect(a.pages.count == 3 && a.length == 9 && cache.freePageCount == 2)
            try cache.truncate(a, to: 4)
            #expect(a.pages.count == 1 && cache.freePageCount == 4)
            try grow(cache, a, 1)
            #expect(a.pages.count == 2 && a.length == 5)
        }
        #expect(cache.freePageCount == 5)
    }

    @Test func aStepThatDoesNotFitChangesNothing() throws {
        let cache = try makeCache(pages: 3)
        let (a, b) = (cache.makeSequence(), cache.makeSequence())
        try grow(cache, a, 4)
        #expect(throws: CacheError.outOfPages(needed: 3, free: 2)) { try cache.begin([(a, 4), (b, 5)]) }
        #expect(cache.freePageCount == 2 && a.length == 4 && a.pages.count == 1 && b.pages.isEmpty)
        try grow(cache, b, 8)
        #expect(cache.freePageCount == 0)
    }

    @Test func badStepsAreNamed() throws {
        let cache = try makeCache(pages: 3)
        let other = try makeCache(pages: 3)
        let (a, foreign) = (cache.makeSequence(), other.makeSequence())
        #expect(throws: CacheError.foreignSequence(index: 1)) { try cache.begin([(a, 1), (foreign, 1)]) }
        #expect(throws: CacheError.foreignSequence(index: 1)) { try cache.begin([(a, 1), (a, 1)]) }
        #expect(throws: CacheError.noTokens(index: 0)) { try cache.begin([(a, 0)]) }
        #expect(throws: CacheError.length(found: 1, limit: 0)) { try cache.truncate(a, to: 1) }
        #expect(throws: CacheError.length(found: -1, limit: 0)) { try cache.fork(a, length: -1) }
        #expect(throws: CacheError.outOfPages(needed: 4, free: 3)) { try cache.begin([(a, 13)]) }
        #expect(throws: CacheError.dtype(.f64)) { try CacheLayout(dtype: .f64) }
        #expect(throws: CacheError.tooSmall(name: "page size", found: 0)) { try makeCache(pages: 3, pageSize: 0) }
        #expect(throws: CacheError.tooSmall(name: "pages", found: 0)) { try makeCache(pages: 0) }
        #expect(throws: CacheError.self) { try makeCache(pages: Int(Int32.max), pageSize: 1 << 30) }
    }

    @Test func forksShareUntilTheyWrite() throws {
        let cache = try makeCache(pages: 8)
        let a = cache.makeSequence()
        try grow(cache, a, 6, value: 3)
        let b = try cache.fork(a)
        #expect(b.pages == a.pages && cache.freePageCount == 6)
        try grow(cache, b, 1, value: 10)
        #expect(b.pages[0] == a.pages[0] && b.pages[1] != a.pages[1] && cache.freePageCount == 5)
        try grow(cache, a, 1, value: -4)
        #expect(abs(try mean(cache, a) - 18 / 7) < 1e-6)
        #expect(abs(try mean(cache, b) - 18 / 7) < 1e-6)
        try grow(cache, a, 1)
        try grow(cache, b, 1)
        #expect(abs(try mean(cache, a) - 14 / 8) < 1e-6)
        #expect(abs(try mean(cache, b) - 28 / 8) < 1e-6)
    }

    @Test func anUncommittedStepCanBeRepeated() throws {
        let cache = try makeCache(pages: 2)
        let a = cache.makeSequence()
        _ = try cache.begin([(a, 7)])
        #expect(a.length == 0)
        try grow(cache, a, 8)
        #expect(a.length == 8 && a.pages.count == 2)
    }

    @Test func layoutsAreAligned() throws {
        for (name, geometry) in try oddGeometries() {
            for dtype in CacheLayout.dtypes {
                for pageSize in [1, 3, 16, 64] {
                    let layout = try CacheLayout(dtype: dtype)
                    let bytes = layout.pageBytes(of: geometry, pageSize: pageSize)
                    let elements = geometry.elementsPerToken * pageSize
                    let exact = dtype == .q8_0 ? elements : elements * dtype.bytesPerBlock
                    #expect(bytes % 128 == 0 && bytes >= exact, "\(name) \(dtype) \(pageSize)")
                }
            }
        }
        let gqa = try CacheGeometry.gqa(queryHeads: 9, kvHeads: 3, headWidth: 64)
        #expect(try CacheLayout(dtype: .bf16).bytesPerToken(of: gqa, pageSize: 16) == 768)
        #expect(try CacheLayout(dtype: .q8_0).bytesPerToken(of: gqa, pageSize: 16) == 3 * 144)
    }
}
