import ApusAttention
import ApusPlanning
import Testing

/// Every figure of the sharding tables of "Hardware-Efficient Attention for Fast Decoding" (arXiv 2505.21487).
@Suite struct AttentionPlanTests {
    /// 1.47B parameters: 16 query heads of 128.
    private let extraLarge = AttentionWidths(queryHeads: 16, kvHeads: 4, headWidth: 128)
    /// 433M parameters: 16 query heads of 64.
    private let medium = AttentionWidths(queryHeads: 16, kvHeads: 4, headWidth: 64)
    /// Llama-3-8B: 32 query heads of 128, 8 KV heads.
    private let llama = AttentionWidths(queryHeads: 32, kvHeads: 8, headWidth: 128)

    private func devices(
        _ widths: AttentionWidths, _ variant: AttentionVariant, _ ranks: [Int]
    ) throws -> [AttentionPlan.Device] {
        let plan = try widths.plans([variant], setting: AttentionPlan.Setting(ranks: ranks))[0]
        return try plan.devices.map { try $0.get() }
    }

    @Test(arguments: [
        (AttentionVariant.mha, "MHA", [8192.0, 4096, 2048, 1024]), (.gqa, "GQA-4", [2048, 1024, 512, 512]),
        (.gta, "GTA-4", [1152, 640, 384, 384]), (.gla, "GLA-2", [1152, 640, 640, 640]),
        (.mla, "MLA", [1152, 1152, 1152, 1152]),
    ]) func bytesOfTheExtraLargeModel(variant: AttentionVariant, name: String, bytes: [Double]) throws {
        #expect(extraLarge.name(of: variant) == name)
        #expect(try devices(extraLarge, variant, [1, 2, 4, 8]).map(\.bytesPerToken) == bytes)
    }

    @Test(arguments: [
        (AttentionVariant.gla, [576.0, 320]), (.mqa, [256, 256]), (.gqa, [1024, 512]), (.gta, [576, 320]),
        (.mla, [576, 576]), (.mha, [4096, 2048]),
    ]) func bytesOfTheMediumModel(variant: AttentionVariant, bytes: [Double]) throws {
        #expect(try devices(medium, variant, [1, 2]).map(\.bytesPerToken) == bytes)
    }

    @Test(arguments: [
        (AttentionVariant.mha, [64.0, 32, 16, 8]), (.gqa, [16, 8, 4, 2]), (.mqa, [2, 2, 2, 2]),
        (.mla, [4.5, 4.5, 4.5, 4.5]), (.gla, [4.5, 2.5, 2.5, 2.5]), (.gta, [8.5, 4.5, 2.5, 1.5]),
    ]) func elementsOfTheLlamaShapeInHeadWidths(variant: AttentionVariant, widths: [Double]) throws {
        let found = try devices(llama, variant, [1, 2, 4, 8]).map { Double($0.elementsPerToken) / 128 }
        #expect(found == widths)
    }

    @Test func elementsFollowTheFormulas() throws {
        for widths in [extraLarge, medium, llama] {
            let (heads, states, width) = (Double(widths.queryHeads), Double(widths.kvHeads), Double(widths.headWidth))
            let latents = Double(widths.latentHeads)
            for ranks in [1, 2, 4, 8] {
                let n = Double(ranks)
                let expected: [AttentionVariant: Double] = [
                    .mha: 2 * width * max(heads / n, 1), .gqa: 2 * width * max(states / n, 1), .mqa: 2 * width,
                    .gta: width * max(states / n, 1) + width / 2, .mla: 4 * width + width / 2,
                    .gla: 2 * width * max(latents / n, 1) + width / 2,
                ]
                for variant in AttentionVariant.allCases {
                    #expect(try Double(devices(widths, variant, [ranks])[0].elementsPerToken) == expected[variant])
                }
            }
        }
    }

    @Test func duplicationFollowsTheFormula() throws {
        for widths in [extraLarge, medium, llama] {
            for variant in AttentionVariant.allCases {
                let geometry = try widths.geometry(of: variant)
                for device in try devices(widths, variant, [1, 2, 4, 8]) {
                    let (n, perGroup, heads) = (device.ranks, geometry.headsPerGroup, geometry.queryHeads)
                    #expect(device.duplication == (n * perGroup + heads - 1) / heads)
                    #expect((device.duplication == 1) == (perGroup <= heads / n))
                }
            }
        }
    }

    @Test func intensityFollowsTheFormulas() throws {
        let expected: [AttentionVariant: Double] = [.mha: 1, .gqa: 4, .mqa: 16, .gta: 8, .mla: 32, .gla: 16]
        for variant in AttentionVariant.allCases {
            let geometry = try extraLarge.geometry(of: variant)
            let (heads, perGroup) = (16.0, Double(geometry.headsPerGroup))
            let multiplicity = variant == .mha || variant == .gqa || variant == .mqa ? 2.0 : 1.0
            #expect(Double(geometry.stateMultiplicity) == multiplicity)
            for queryTokens in [1, 2, 5] {
                let plan = try extraLarge.plans([variant], setting: .init(queryTokens: queryTokens))[0]
                #expect(plan.nominalIntensity == expected[variant]! * Double(queryTokens))
                #expect(plan.nominalIntensity == 2 * perGroup / multiplicity * Double(queryTokens))
                for context in [1, 100, 8192, 10_000_000] {
                    let length = Double(context)
                    let formula = 2 * length * heads / (2 * heads + multiplicity * heads / perGroup * length)
                    let found = geometry.nominalIntensity(context: context, queryTokens: queryTokens)
                    #expect(abs(found - formula * Double(queryTokens)) < 1e-9 * found)
                }
                let limit = geometry.nominalIntensity(context: 1 << 40, queryTokens: queryTokens)
                #expect(abs(limit / plan.nominalIntensity - 1) < 1e-6)
            }
        }
    }

    /// Where key and value are separate and equally wide, counting real widths gives the paper's formula.
    @Test func exactIntensityAgreesWhereTheFormulaIsExact() throws {
        for variant in [AttentionVariant.mha, .gqa, .mqa] {
            let geometry = try llama.geometry(of: variant)
            for context in [1, 64, 8192] {
                let exact = geometry.arithmeticIntensity(context: context)
                #expect(abs(exact - geometry.nominalIntensity(context: context)) < 1e-9 * exact)
            }
        }
        // A latent's score and output read d_c + d_R and d_c of its d_c + d_R cached elements.
        let latent = try llama.geometry(of: .mla)
        let limit = 32.0 * Double(512 + 64 + 512) / Double(512 + 64)
        #expect(abs(latent.arithmeticIntensity(context: 1 << 40) / limit - 1) < 1e-6)
    }

    @Test func layersAddUpAndBadCutsAreNamed() throws {
        let widths = AttentionWidths(queryHeads: 9, kvHeads: 3, headWidth: 64)
        let plan = try widths.plans([.gqa], layers: 30)[0]
        #expect(try plan.devices[0].get().bytesPerToken == 30 * 3 * 2 * 64 * 2)
        #expect(plan.devices[1] == .failure(.ranksDoNotDivideHeads(ranks: 2, queryHeads: 9)))
        let table = AttentionPlan.table([plan])
        #expect(table.contains("23040") && table.contains("expected a divisor of 9 query heads, found 2 ranks"))
        let mixed = AttentionPlan(
            name: "mixed", geometries: [try widths.geometry(of: .gqa), try widths.geometry(of: .mqa)],
            setting: .init(ranks: [1, 3]))
        #expect(try mixed.devices.map { try $0.get().elementsPerToken } == [3 * 128 + 128, 128 + 128])
        #expect(try mixed.devices.map { try $0.get().duplication } == [1, 3])
    }
}
