import ApusEngine
import ApusModels
import ApusPlanning
import ApusServeBenchmark
import ApusTensor
import ApusText
import ArgumentParser

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// `apus plan serve`: memory, bounds and a simulated workload of a serving layout.
struct PlanServe: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract:
            "Plan serving: memory of each device, what bounds a step, and a simulation of the engine's scheduler.",
        discussion: """
            Devices are a100, h100, h200 and b200 by their published figures, cpu, or a file that apus doctor --json wrote on \
            another machine. Steps' times are computed from bytes, operations and messages, or taken from a file that \
            apus bench steps wrote. The requests are those that apus bench serve sends for the same lengths, arrivals and seed. \
            Models with experts, and others with --shared-feed-forward, share feed-forwards over all devices; otherwise \
            --dp makes replicas. docs/planning.md says what is computed.

            EXAMPLES:
              apus plan serve --shape deepseek-coder-v2 --weights f8e4m3 --device h100 --tp 8 --prompt 8192 \
            --generate 4096 --requests 1280 --concurrency 16 --concurrency 64 --concurrency 128
              apus plan serve --shape deepseek-coder-v2 --variant gla --latent-heads 8 --latent-width 256 \
            --weights f8e4m3 --tp 8 --html plan.html
              apus plan serve model.gguf --calibration calibration.json --prompt 128 --generate 128 --concurrency 16
            """)

    @OptionGroup var model: PlanModelOptions
    @Option(
        help: ArgumentHelp(
            "a100, h100, h200, b200, cpu (measured now), or a file that apus doctor --json wrote; "
                + "h100, or cpu with a calibration, by default.")) var device: String?
    @Option(help: "Tensor-parallel devices.") var tp = 1
    @Option(help: "Data-parallel groups of them.") var dp = 1
    @Flag(inversion: .prefixedNo, help: "Whether all groups share feed-forwards; the default for models with experts.")
    var sharedFeedForward: Bool?
    @Option(help: "Type of the weights: f32, bf16, f16, f8e4m3, q8_0, q4_0, q4_1, q4_K, q6_K; the model's, or bf16.")
    var weights: String?
    @Option(help: "Type of the cache: f32, bf16, f16, q8_0 or f8e4m3; f32 for f32 weights, otherwise bf16.")
    var cacheType: String?
    @Option(help: "Share of the memory that weights, activations and cache may take.") var utilisation = 0.9
    @Option(help: "Tokens of each group's cache; by default what fits.") var cacheTokens: Int?
    @Option(help: "Tokens of a cache page.") var pageSize = 64
    @Option(help: "Sequences that each group runs at once; by default as many as fit with all they generate.")
    var maxSequences: Int?
    @Option(help: "Tokens of a step; 512 with a calibration of a CPU, otherwise 8192.") var stepTokens: Int?
    @Option(help: "Prompt tokens of a step in which others decode; with a calibration the engine's default.")
    var promptTokensBesideDecoding: Int?
    @Option(help: "Tokens of a prompt: a number, or a range as 1:131072.") var prompt = LengthRange(8192)
    @Option(help: "Tokens to generate: a number, or a range.") var generate = LengthRange(4096)
    @Option(help: "Lengths vary by this share of themselves, as in apus bench serve.") var spread = 0.0
    @Option(help: "Requests.") var requests = 1280
    @Option(help: "Requests at once; may be given several times.") var concurrency: [Int] = []
    @Option(help: "Requests a second, at random times.") var rate: Double?
    @Option(help: "Seed of lengths and times.") var seed: UInt64 = 0
    @Option(help: "Seconds that a request is on its way.") var roundTrip = 0.001
    @Option(help: "A file that apus bench steps wrote: measured times of steps.") var calibration: String?
    @Option(help: "Share of the device's peak that products with weights reach; 0.7 of published peaks by default.")
    var productShare: Double?
    @Option(help: "Microseconds that a layer takes beside its bytes and operations; 40 on GPUs by default.")
    var layerMicroseconds: Double?
    @Flag(help: "Leave the simulation out.") var noSimulation = false
    @Flag(help: "Print one JSON object.") var json = false
    @Option(help: "Write a page with the figures and drawings to this file.") var html: String?

    func validate() throws {
        for (name, value, most) in [
            ("tp", tp, 1 << 12), ("dp", dp, 1 << 12), ("page-size", pageSize, 1 << 16), ("requests", requests, 1 << 20),
            ("max-sequences", maxSequences ?? 1, 1 << 16), ("step-tokens", stepTokens ?? 1, 1 << 20),
            ("cache-tokens", cacheTokens ?? 1, 1 << 40), ("concurrency", concurrency.min() ?? 1, 1 << 20),
            ("concurrency", concurrency.max() ?? 1, 1 << 20),
            ("prompt-tokens-beside-decoding", promptTokensBesideDecoding ?? 1, 1 << 20),
        ] where !(1...most).contains(value) {
            throw ValidationError("--\(name): expected an integer from 1 to \(most), found \(value)")
        }
        guard utilisation > 0, utilisation <= 1 else {
            throw ValidationError("--utilisation: expected a number above 0 and at most 1, found \(utilisation)")
        }
        if let productShare, !(productShare > 0 && productShare <= 1) {
            throw ValidationError("--product-share: expected a number above 0 and at most 1, found \(productShare)")
        }
        if let layerMicroseconds, !(layerMicroseconds >= 0 && layerMicroseconds < 1e9) {
            throw ValidationError("--layer-microseconds: expected 0 or more, found \(layerMicroseconds)")
        }
        guard roundTrip >= 0, roundTrip < 1e3 else {
            throw ValidationError("--round-trip: expected seconds from 0 to below 1000, found \(roundTrip)")
        }
        if spread != 0, prompt.isRange || generate.isRange {
            throw ValidationError("--spread: expected lengths that are numbers beside it, found a range")
        }
        if let stepTokens, let maxSequences, stepTokens < maxSequences {
            throw ValidationError(
                "--step-tokens: expected at least --max-sequences (\(maxSequences)), found \(stepTokens)")
        }
    }

    func run() throws {
        let configuration = try model.configuration()
        let calibration = try self.calibration.map { try StepCalibration(json: try PlanFiles.json($0)) }
        if let calibration, calibration.parameters != configuration.parameterCount {
            throw PlanningError.calibration(
                expected: "one of a model of \(configuration.parameterCount) parameters",
                found: "\(calibration.model) of \(calibration.parameters)")
        }
        let layout = ServingLayout(
            tensorParallel: tp, dataParallel: dp, sharesFeedForward: sharedFeedForward ?? (configuration.experts != nil)
        )
        var figures = try PlanFiles.device(device ?? (calibration == nil ? "h100" : "cpu"))
        if let productShare { figures.reached.products = productShare }
        if let layerMicroseconds { figures.reached.layerSeconds = layerMicroseconds * 1e-6 }
        let workloads = try loads.map { ($0, try workload($0)) }
        let plan = try ServingPlan(
            configuration, on: figures, layout: layout,
            settings: try settings(configuration, calibration),
            requestTokens: workloads.map(\.1.longest).max() ?? prompt.most + generate.most, calibration: calibration)
        let runs = try workloads.map { load, workload in
            ServingReport.Run(name: load.name, concurrency: load.concurrency, result: try plan.simulate(workload))
        }
        let report = ServingReport(
            model: model.name, plan: plan,
            workload: "\(requests) requests of \(prompt) tokens in and \(generate) out"
                + (spread > 0 ? ", lengths within \(spread) of that" : ""),
            promptTokens: prompt.most, runs: runs)
        if let html { try Data(report.html.utf8).write(to: URL(filePath: html)) }
        try Terminal.out(json ? report.json.serialized() + "\n" : report.text)
    }

    /// A concurrency, or a rate.
    private struct Load {
        let name: String
        let arrivals: Arrivals
        var concurrency: Int? { arrivals.concurrency }
    }

    private var loads: [Load] {
        if noSimulation { return [] }
        if let rate {
            let bounds: [Int?] = concurrency.isEmpty ? [nil] : concurrency
            return bounds.map { Load(name: "\(rate)/s", arrivals: Arrivals(rate: rate, concurrency: $0)) }
        }
        return (concurrency.isEmpty ? [16] : concurrency).map {
            Load(name: "\($0) at once", arrivals: Arrivals(concurrency: $0))
        }
    }

    private func workload(_ load: Load) throws -> ServingWorkload {
        if prompt.isRange || generate.isRange {
            return try ServingWorkload(
                prompt: prompt.range, output: generate.range, count: requests, arrivals: load.arrivals, seed: seed)
        }
        return try ServingWorkload(
            .random(prompt: prompt.most, output: generate.most, spread: spread), count: requests,
            arrivals: load.arrivals, seed: seed)
    }

    private func settings(
        _ configuration: DecoderConfiguration, _ calibration: StepCalibration?
    ) throws -> ServingPlan.Settings {
        let weights = try PlanTypes.weights(self.weights) ?? configuration.weightDType ?? .bf16
        // What apus serve takes on the device of the calibration.
        var engine: EngineConfiguration?
        if let calibration {
            var measured = EngineConfiguration()
            measured.stepTokens = 512
            if !calibration.decoding.isEmpty { measured.takeGPUSteps() }
            engine = measured
        }
        var settings = ServingPlan.Settings(
            weights: weights, cacheType: try PlanTypes.cache(cacheType) ?? (weights == .f32 ? .f32 : .bf16),
            stepTokens: stepTokens ?? engine?.stepTokens ?? 8192)
        settings.utilisation = utilisation
        settings.cacheTokens = cacheTokens
        settings.pageSize = pageSize
        settings.maxSequences = maxSequences
        settings.promptTokensBesideDecoding =
            promptTokensBesideDecoding ?? engine?.promptTokensBesideDecoding
        settings.exactTokens = calibration?.exactTokens
        settings.roundTrip = roundTrip
        return settings
    }
}

/// Types of weights and caches by name.
enum PlanTypes {
    static func weights(_ name: String?) throws -> DType? {
        try type(name, "weights", [.f32, .bf16, .f16, .f8e4m3, .q8_0, .q4_0, .q4_1, .q4_K, .q6_K])
    }

    static func cache(_ name: String?) throws -> DType? {
        try type(name, "cache-type", [.f32, .bf16, .f16, .q8_0, .f8e4m3])
    }

    private static func type(_ name: String?, _ option: String, _ known: [DType]) throws -> DType? {
        guard let name else { return nil }
        guard let type = DType(rawValue: name), known.contains(type) else {
            let names = known.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--\(option): expected one of \(names), found \(name)")
        }
        return type
    }
}

/// A number of tokens, or a range of them: `8192` or `1:131072`.
struct LengthRange: ExpressibleByArgument, CustomStringConvertible {
    let range: ClosedRange<Int>

    init(_ length: Int) { range = length...length }

    init?(argument: String) {
        let parts = argument.split(separator: ":", omittingEmptySubsequences: false).map { Int($0) }
        guard parts.count <= 2, let first = parts[0], let last = parts[parts.count - 1], first >= 1, first <= last,
            last <= 1 << 24
        else { return nil }
        range = first...last
    }

    var isRange: Bool { range.count > 1 }
    var most: Int { range.upperBound }
    var description: String { isRange ? "\(range.lowerBound):\(range.upperBound)" : "\(range.lowerBound)" }
    var defaultValueDescription: String { description }
}
