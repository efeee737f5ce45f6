import ApusAttention
import Testing

@Suite struct GPUCacheFormatTests {
    private func gla(_ heads: Int, latents: Int = 2, width: Int = 256, rope: Int = 64) throws -> CacheGeometry {
        try .gla(queryHeads: heads, latentHeads: latents, latentWidth: width, ropeWidth: rope)
    }

    @Test func bytesOfAPage() throws {
        let bf16 = try GPUCacheFormat(geometry: gla(128), pageSize: 64)
        #expect(bf16.pageBytes == 64 * (2 * 256 + 64) * 2)
        let fp8 = try GPUCacheFormat(geometry: gla(128), pageSize: 64, element: .f8e4m3)
        #expect(fp8.pageBytes == 64 * (2 * 256 + 64 * 2 + 2 * 4))
        let gqa = try GPUCacheFormat(geometry: .gqa(queryHeads: 32, kvHeads: 8, headWidth: 128), pageSize: 1)
        #expect(gqa.pageBytes == 8 * 256 * 2)
    }

    @Test func whatTheKernelsDoNotReadIsRefusedByName() throws {
        let gqa = try CacheGeometry.gqa(queryHeads: 32, kvHeads: 8, headWidth: 128)
        for (geometry, page, element, name) in [
            (try gla(128, width: 250), 64, GPUCacheFormat.Element.bf16, "shared width"),
            (try gla(128, width: 640), 64, .bf16, "output width"), (try gla(128, rope: 128), 64, .bf16, "key width"),
            (try gla(128), 0, .bf16, "page size"), (try gla(128), 3, .f8e4m3, "page size"),
            (gqa, 64, .f8e4m3, "groups with their own key"), (try gla(128), 1, .f8e4m3, "page size"),
        ] {
            #expect {
                try GPUCacheFormat(geometry: geometry, pageSize: page, element: element)
            } throws: { error in
                guard case GPUAttentionError.unsupported(name, _, _) = error else { return false }
                return true
            }
        }
        #expect(throws: GPUAttentionError.self) {
            try GPUDecodeSettings(format: GPUCacheFormat(geometry: gqa, pageSize: 64), queryTokens: 17)
        }
    }

    /// Every variant that a format can get fits the shared memory of a multiprocessor.
    @Test func settingsFitSharedMemory() throws {
        var geometries: [CacheGeometry] = []
        for heads in [1, 8, 12, 16, 64, 128] {
            for (width, rope) in [(128, 32), (192, 32), (192, 48), (256, 32), (256, 64), (384, 32), (512, 64)] {
                geometries.append(try gla(2 * heads, width: width, rope: rope))
            }
            for width in [64, 96, 128] {
                geometries.append(try .gta(queryHeads: 4 * heads, kvHeads: 4, headWidth: width))
            }
            for width in [64, 96, 128, 256] {
                geometries.append(try .gqa(queryHeads: 4 * heads, kvHeads: 4, headWidth: width))
            }
        }
        for geometry in geometries {
            for element in GPUCacheFormat.Element.allCases {
                for page in [1, 16, 64] {
                    guard let format = try? GPUCacheFormat(geometry: geometry, pageSize: page, element: element)
                    else { continue }
                    for tokens in [1, 2, 16] {
                        let settings = try GPUDecodeSettings(format: format, queryTokens: tokens)
                        let taken = (settings.sharedMemory + 1024 + settings.staticMemory) * settings.residentBlocks
                        #expect(taken <= 228 << 10, "\(format), \(tokens) query tokens")
                        #expect(settings.rowTiles * settings.tileRows >= geometry.headsPerGroup * tokens)
                        #expect((settings.rowTiles - 1) * settings.tileRows < geometry.headsPerGroup * tokens)
                    }
                }
            }
        }
    }
}
