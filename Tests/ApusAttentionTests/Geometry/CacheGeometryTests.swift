import ApusAttention
import Testing

@Suite struct CacheGeometryTests {
    @Test func widthsOfTheSixVariants() throws {
        let (h, d) = (12, 64)
        let mha = try CacheGeometry.mha(queryHeads: h, headWidth: d)
        #expect(mha.elementsPerToken == 2 * h * d && mha.groups == h && mha.headsPerGroup == 1)
        let gqa = try CacheGeometry.gqa(queryHeads: h, kvHeads: 4, headWidth: d)
        #expect(gqa.elementsPerToken == 2 * 4 * d && gqa.headsPerGroup == 3)
        let mqa = try CacheGeometry.mqa(queryHeads: h, headWidth: d)
        #expect(mqa.elementsPerToken == 2 * d && mqa.stateMultiplicity == 2)
        let gta = try CacheGeometry.gta(queryHeads: h, kvHeads: 4, headWidth: d)
        #expect(gta.elementsPerToken == 4 * d + d / 2 && gta.queryWidth == d && gta.outputWidth == d)
        let mla = try CacheGeometry.mla(queryHeads: h, latentWidth: 4 * d, ropeWidth: 32)
        #expect(mla.elementsPerToken == 4 * d + 32 && mla.queryWidth == 4 * d + 32 && mla.outputWidth == 4 * d)
        let gla = try CacheGeometry.gla(queryHeads: h, latentHeads: 2, latentWidth: 2 * d, ropeWidth: 32)
        #expect(gla.elementsPerToken == 2 * 2 * d + 32 && gla.stateMultiplicity == 1 && gla.headsPerGroup == 6)
    }

    @Test func badWidthsAreNamed() {
        #expect(throws: GeometryError.groupsDoNotDivideHeads(queryHeads: 9, groups: 4)) {
            try CacheGeometry.gqa(queryHeads: 9, kvHeads: 4, headWidth: 64)
        }
        #expect(throws: GeometryError.tooSmall(name: "groups", found: 0, atLeast: 1)) {
            try CacheGeometry.gqa(queryHeads: 9, kvHeads: 0, headWidth: 64)
        }
        #expect(throws: GeometryError.tooSmall(name: "key width", found: -1, atLeast: 0)) {
            try CacheGeometry.mla(queryHeads: 4, latentWidth: 64, ropeWidth: -1)
        }
        #expect(throws: GeometryError.tooSmall(name: "shared + value width", found: 0, atLeast: 1)) {
            try CacheGeometry(queryHeads: 1, groups: 1, shared: 0, key: 4, keyKept: .once, value: 0)
        }
        #expect(throws: GeometryError.ropeWidth(found: 64, headWidth: 64)) {
            try CacheGeometry.gta(queryHeads: 4, kvHeads: 2, headWidth: 64, ropeWidth: 64)
        }
    }

    @Test func ranksThatDoNotFitAreNamed() throws {
        let gqa = try CacheGeometry.gqa(queryHeads: 12, kvHeads: 4, headWidth: 64)
        #expect(throws: GeometryError.ranksDoNotDivideHeads(ranks: 8, queryHeads: 12)) { try gqa.sharded(over: 8) }
        #expect(throws: GeometryError.ranksDoNotFitGroups(ranks: 3, groups: 4)) { try gqa.sharded(over: 3) }
        #expect(throws: GeometryError.tooSmall(name: "ranks", found: 0, atLeast: 1)) { try gqa.sharded(over: 0) }
    }

    @Test func shardsCoverHeadsAndGroups() throws {
        for (heads, groups) in [(12, 4), (16, 1), (16, 2), (32, 8), (8, 8)] {
            let whole = try CacheGeometry.gqa(queryHeads: heads, kvHeads: groups, headWidth: 8)
            for ranks in 1...heads {
                guard let sharded = try? whole.sharded(over: ranks) else { continue }
                for rank in 0..<ranks {
                    let owned = sharded.groups(ofRank: rank)
                    for head in sharded.queryHeads(ofRank: rank) {
                        #expect(owned.contains(head / whole.headsPerGroup), "rank \(rank) of \(ranks), head \(head)")
                    }
                    #expect(owned.count == sharded.local.groups && owned.upperBound <= groups)
                }
                let product = ranks * whole.headsPerGroup
                #expect(sharded.duplication == (product + heads - 1) / heads)
                #expect((sharded.duplication == 1) == (whole.headsPerGroup <= heads / ranks))
            }
        }
    }
}
