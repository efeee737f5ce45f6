import ApusAttention
import ApusModels
import ApusPlanning
import ApusTensor
import ApusText
import Testing

@Suite struct ModelShareTests {
    private func share(
        _ model: DecoderConfiguration, tp: Int = 1, dp: Int = 1, shared: Bool = false
    ) throws -> ModelShare {
        try ModelShare(
            model, ServingLayout(tensorParallel: tp, dataParallel: dp, sharesFeedForward: shared))
    }

    private func variants(_ name: String) throws -> [DecoderConfiguration] {
        let model = try NamedModels.configuration(name)
        return try AttentionVariant.allCases.map { variant in
            try model.withAttention(
                variant,
                AttentionWidths(
                    queryHeads: model.queryHeads, kvHeads: variant == .mqa ? 1 : 8, headWidth: 128, latentHeads: 8))
        }
    }

    /// One device holds the whole model, whatever its attention.
    @Test(arguments: ["llama-3-8b", "deepseek-coder-v2"])
    func oneDeviceHoldsEverything(name: String) throws {
        for model in try variants(name) {
            #expect(try share(model).elements == Double(model.parameterCount), "\(model.variantName)")
        }
    }

    @Test func knownModelsHaveTheirParameters() throws {
        #expect(try NamedModels.configuration("smollm2-135m").parameterCount == 134_515_008)
        #expect(try NamedModels.configuration("llama-3-8b").parameterCount == 8_030_261_248)
        #expect(try NamedModels.configuration("llama-3-70b").parameterCount == 70_553_706_496)
        let coder = try NamedModels.configuration("deepseek-coder-v2")
        #expect(abs(Double(coder.parameterCount) / 235.7e9 - 1) < 0.002)
    }

    /// All devices together hold the model once, and again what is replicated: norms, and what every head reads.
    @Test func devicesTogetherHoldTheModel() throws {
        for model in try variants("llama-3-8b") {
            let whole = try share(model)
            for ranks in [2, 4, 8] {
                let part = try share(model, tp: ranks)
                let replicated = part.elements * Double(ranks) - whole.elements
                // MQA's one head, and the projection to MLA's and GLA's query latent, are on every rank.
                let isLatent = model.variant == .mla || model.variant == .gla
                let bound = isLatent ? 0.2 : model.variant == .mqa ? 0.1 : 0.03
                #expect(replicated >= 0 && replicated < bound * whole.elements, "\(model.variantName) over \(ranks)")
                #expect(
                    part.cacheElementsPerToken
                        == (try model.geometry(layer: 0).sharded(over: ranks).local.elementsPerToken) * model.layerCount
                )
            }
        }
    }

    @Test func sharedFeedForwardsAreCutOverAllDevices() throws {
        let model = try NamedModels.configuration("deepseek-coder-v2")
        let (hybrid, whole) = (try share(model, tp: 2, dp: 4, shared: true), try share(model))
        let experts = { (share: ModelShare) in share.layers.compactMap { $0.experts?.elements }.first! }
        #expect(experts(hybrid) * 8 == experts(whole))
        #expect(hybrid.layers.map(\.count) == [1, 59])
        #expect(hybrid.layers[0].attention < whole.layers[0].attention / 1.8)
    }

    @Test func cutsThatDoNotGoAreNamed() throws {
        let model = try NamedModels.configuration("smollm2-135m")
        #expect(throws: GeometryError.ranksDoNotDivideHeads(ranks: 2, queryHeads: 9)) { try share(model, tp: 2) }
        var odd = try NamedModels.configuration("llama-3-8b")
        odd.feedForwardWidth = 14337
        #expect(throws: PlanningError.notDivisible(what: "feed-forward width", size: 14337, ranks: 2)) {
            try share(odd, tp: 2)
        }
    }

    @Test func weightsThatDoNotFitAreAnError() throws {
        let model = try NamedModels.configuration("llama-3-70b")
        #expect(throws: PlanningError.self) {
            try ServingPlan(
                model, on: try DeviceFigures.named("h100"), layout: ServingLayout(), settings: .init(weights: .bf16),
                requestTokens: 4096)
        }
        #expect(
            throws: PlanningError.unknownName(
                kind: "device", expected: ["a100", "h100", "h200", "b200", "a file that apus doctor --json wrote"],
                found: "z80")
        ) { try DeviceFigures.named("z80") }
    }

    /// One decoding row of Llama 3 8B in bf16 reads its weights and its cache, and nothing else counts for much.
    @Test func decodingIsBoundByMemory() throws {
        let model = try NamedModels.configuration("llama-3-8b")
        let plan = try ServingPlan(
            model, on: try DeviceFigures.named("h100"), layout: ServingLayout(), settings: .init(weights: .bf16),
            requestTokens: 8192)
        let step = plan.decodeStep(rows: 1, context: 8192)
        let bytes = 2 * Double(model.parameterCount - 128_256 * 4096) + 8192 * 2 * 32 * 2 * 8 * 128
        #expect(step.bound == .memory)
        #expect(abs(step.memory / (bytes / (0.9 * 3.35e12)) - 1) < 0.01)
        #expect(step.communication == 0)
        let prompt = plan.promptStep(tokens: 8192)
        #expect(prompt.bound == .compute)
        let operations = 2 * 8192 * Double(model.parameterCount - 2 * 128_256 * 4096)
        #expect(prompt.compute > operations / (0.7 * 989e12))
        #expect(prompt.compute < 1.4 * operations / (0.7 * 989e12))
    }

    @Test func doctorsReportsAreDevices() throws {
        func device(_ text: String) throws -> DeviceFigures {
            try DeviceFigures(doctor: JSONNode(try JSONValue(parsing: text), name: "doctor.json"))
        }
        let cpu = try device(
            """
            {"cpu": {"threads": 2, "instructionSet": "avx512", "memoryBytes": 24000000000, "readBytesPerSecond": 4e10,
             "f32OperationsPerSecond": 2e11, "bf16OperationsPerSecond": 4e11, "packedOperationsPerSecond": 5e11},
             "gpus": []}
            """)
        #expect(cpu.readBandwidth == 4e10 && cpu.productRate(weights: .q4_1) == 5e11)
        let gpu = try device(
            """
            {"cpu": {}, "gpus": [{"name": "NVIDIA H100 80GB HBM3", "memoryBytes": 85520809984,
             "copyBytesPerSecond": 3.03e12, "bf16OperationsPerSecond": 7.9e14}]}
            """)
        #expect(gpu.readBandwidth == 3.03e12 && gpu.productRate(weights: .bf16) == 7.9e14)
        #expect(abs(gpu.productRate(weights: .f8e4m3) / 1.58e15 - 1) < 0.001)
        #expect(throws: JSONError.self) { try device("{\"cpu\": {\"threads\": 2}}") }
    }
}
