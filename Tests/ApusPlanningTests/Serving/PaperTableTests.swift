import ApusAttention
import ApusModels
import ApusPlanning
import ApusServeBenchmark
import ApusTensor
import Testing

/// The serving tables of "Hardware-Efficient Attention for Fast Decoding" (arXiv 2505.21487): DeepSeek-Coder-V2's shape with
/// FP8 weights on 8 H100s, pages of 64, prompts in chunks of 8192 tokens, 1280 requests of 8K/4K.
///
/// The paper measured SGLang: the share of memory and the chunks of groups are its defaults at 8 ranks (0.81; 8192 tokens
/// over all groups). Everything else is the planner's, but for two constants in the second test.
@Suite struct PaperTableTests {
    enum Attention: CaseIterable {
        case gla8TP8, mlaTP8, gla2Hybrid, mlaHybrid

        var isHybrid: Bool { self == .gla2Hybrid || self == .mlaHybrid }
        var latents: Int { self == .gla8TP8 ? 8 : self == .gla2Hybrid ? 2 : 1 }
    }

    /// Output tokens a second by concurrency, as printed, in the order of the cases.
    private static let printed: [Int: [Double]] = [
        16: [561, 481, 544, 477], 64: [1461, 859, 1584, 1334], 128: [1363, 859, 2474, 2122],
    ]

    /// What SGLang reaches on those GPUs, from one cell (GLA-8 TP8 at 16): 27.1 ms between tokens, and 3.7 s until half of 16
    /// prompts are computed.
    private static let productShare = 0.067
    private static let layerSeconds = 285e-6

    private static func plan(
        _ attention: Attention, requestTokens: Int = 12288, likeSGLang: Bool
    ) throws -> ServingPlan {
        var model = try NamedModels.configuration("deepseek-coder-v2")
        if attention.latents > 1 {
            model = try model.withAttention(
                .gla,
                AttentionWidths(
                    queryHeads: 128, kvHeads: 128, headWidth: 128, latentHeads: attention.latents, latentWidth: 256,
                    ropeWidth: 64))
        }
        var device = try DeviceFigures.named("h100")
        if likeSGLang {
            device.reached.products = productShare
            device.reached.layerSeconds = layerSeconds
        }
        let layout =
            attention.isHybrid
            ? ServingLayout(tensorParallel: 2, dataParallel: 4, sharesFeedForward: true)
            : ServingLayout(tensorParallel: 8)
        var settings = ServingPlan.Settings(weights: .f8e4m3, stepTokens: attention.isHybrid ? 2048 : 8192)
        settings.utilisation = 0.81
        return try ServingPlan(
            model, on: device, layout: layout, settings: settings, requestTokens: requestTokens)
    }

    private static func throughput(
        _ attention: Attention, prompt: Int = 8192, output: Int = 4096, requests: Int = 1280, concurrency: Int,
        likeSGLang: Bool = false
    ) throws -> Double {
        let workload = try ServingWorkload(
            prompt: prompt...prompt, output: output...output, count: requests,
            arrivals: Arrivals(concurrency: concurrency))
        return try plan(attention, requestTokens: prompt + output, likeSGLang: likeSGLang).simulate(workload)
            .outputThroughput
    }

    private static func relation(_ found: Double, _ other: Double, to printed: Double, _ second: Double) -> Double {
        found / other / (printed / second)
    }

    /// From published figures alone: the fastest layout at each concurrency, and GLA-8 TP8 against each other layout within
    /// 25 %.
    @Test(arguments: [16, 64, 128])
    func ratiosAndWinnersFromPublishedFigures(concurrency: Int) throws {
        let found = try Attention.allCases.map { try Self.throughput($0, concurrency: concurrency) }
        let printed = Self.printed[concurrency]!
        #expect(found.firstIndex(of: found.max()!) == printed.firstIndex(of: printed.max()!))
        for other in 1..<4 {
            let relation = Self.relation(found[0], found[other], to: printed[0], printed[other])
            #expect(abs(relation - 1) < 0.25, "against \(Attention.allCases[other]): \(relation)")
        }
        // Between pairs the paper's winner wins too, but for GLA-8 TP8 against MLA TP2 DP4 at 64: docs/planning.md says why.
        for other in 1..<4 where !(concurrency == 64 && other == 3) {
            #expect((found[0] > found[other]) == (printed[0] > printed[other]))
        }
    }

    /// With two constants from one cell, all twelve are within 20 % in tokens a second.
    @Test(arguments: [16, 64, 128])
    func throughputWithTwoConstantsFromOneCell(concurrency: Int) throws {
        let found = try Attention.allCases.map {
            try Self.throughput($0, concurrency: concurrency, likeSGLang: true)
        }
        let printed = Self.printed[concurrency]!
        #expect(found.firstIndex(of: found.max()!) == printed.firstIndex(of: printed.max()!))
        for (index, (found, printed)) in zip(found, printed).enumerated() {
            #expect(abs(found / printed - 1) < 0.2, "\(Attention.allCases[index]): \(found) for \(printed)")
        }
    }

    /// Long prompts at 16: 395 and 348 tokens/s at 32K, 224 and 209 at 64K.
    @Test(arguments: [(32768, 395.0, 348.0), (65536, 224, 209)])
    func longPrompts(prompt: Int, gla: Double, mla: Double) throws {
        func found(_ attention: Attention) throws -> Double {
            try Self.throughput(attention, prompt: prompt, requests: 160, concurrency: 16, likeSGLang: true)
        }
        let relation = Self.relation(try found(.gla8TP8), try found(.mlaHybrid), to: gla, mla)
        #expect(abs(relation - 1) < 0.25, "\(relation)")
        #expect(abs(try found(.gla8TP8) / gla - 1) < 0.2)
    }

    /// Where the attention decides: 1.7 times the sequences fit with half the cache a device.
    @Test func memoryFollowsTheSharding() throws {
        let plans = try Attention.allCases.map { try Self.plan($0, likeSGLang: false) }
        #expect(plans.map { $0.memory.cacheBytesPerToken } == [38400, 69120, 38400, 69120])
        #expect(plans.map { $0.memory.duplication } == [1, 8, 1, 2])
        // 235.7 B parameters in FP8 over 8 devices; groups of two keep four times the attention of groups of eight.
        #expect(abs(plans[1].memory.weightBytes / 29.5e9 - 1) < 0.03)
        #expect(plans[3].memory.weightBytes > plans[1].memory.weightBytes + 3e9)
    }
}
