import ApusEngine
import ApusModels
import ApusPlanning
import ApusTensor
import ApusText
import ArgumentParser

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// `apus bench steps`: what `apus plan serve --calibration` reads.
struct BenchSteps: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "steps",
        abstract: "Measure single steps of many sizes: a calibration for apus plan serve.",
        discussion: """
            Times the layers over 1 to 512 tokens (8,192 on a GPU), the head over 1 to 64 rows, what attention takes for \
            long contexts, and what the engine does beside the model; each figure is the median of the passes.

            EXAMPLES:
              apus bench steps model.gguf --threads 2 --output calibration.json
              apus bench steps model.gguf --device cuda --output calibration.json
              apus plan serve model.gguf --calibration calibration.json --concurrency 16
            """)

    @OptionGroup var model: ModelOptions
    @Option(help: "What computes steps: cpu or cuda.") var device = ComputeDevice.cpu
    @Option(help: "Timed passes over all sizes.") var passes = 7
    @Option(name: .shortAndLong, help: "The file to write; standard output by default.") var output: String?

    func validate() throws {
        guard (1...1000).contains(passes) else {
            throw ValidationError("--passes: expected an integer from 1 to 1000, found \(passes)")
        }
    }

    func run() throws {
        let language = try model.load(loadsWeights: device == .cpu)
        let cacheType = try model.cacheDType()
        let (figures, name) = device == .cpu ? try onCPU(language.decoder, cacheType) : try onGPU(cacheType)
        let exact = device == .cpu ? language.decoder.exactRows : .max
        var calibration = StepCalibration(
            model: model.model.split(separator: "/").last.map(String.init) ?? model.model, device: name,
            parameters: language.configuration.parameterCount, layers: figures.layers, head: figures.head,
            decoding: figures.decoding, secondsPerContext: figures.secondsPerContext,
            secondsPerPair: figures.secondsPerPair, exactTokens: exact == .max ? nil : exact)
        try addEngine(to: &calibration, language, cacheType)
        let text = calibration.json.serialized(.pretty) + "\n"
        if let output { try Data(text.utf8).write(to: URL(filePath: output)) } else { try Terminal.out(text) }
    }

    private func onCPU(_ decoder: Decoder, _ cacheType: DType?) throws -> (StepBenchmark.Figures, name: String) {
        let figures = try StepBenchmark(decoder, cacheType: cacheType).run(passes: passes)
        return (
            figures,
            (decoder.backend as? CPUBackend).map { "CPU, \($0.threads) threads" } ?? "\(decoder.backend.device)"
        )
    }

    private func onGPU(_ cacheType: DType?) throws -> (StepBenchmark.Figures, name: String) {
        if let cacheType, cacheType != .bf16 {
            throw ValidationError("--cache-type: expected bf16, which decoders on GPUs have, found \(cacheType)")
        }
        let gpu = try CUDADevice.device()
        let decoder = try GPUDecoder(
            checkpoint: Checkpoints.open(model.model), limits: GPUStepBenchmark.limits, device: gpu)
        return (try GPUStepBenchmark(decoder).run(passes: passes), gpu.name)
    }

    /// What the engine's steps take beyond the model's, from decoding alone and sixteen at once.
    private func addEngine(
        to calibration: inout StepCalibration, _ language: LanguageModel, _ cacheType: DType?
    ) throws {
        let (prompt, generate, many) = (16, 48, 16)
        func beside(_ concurrency: Int) throws -> Double {
            let benchmark = try EngineBenchmark(
                language, prompt: .random(prompt), generate: generate, concurrency: concurrency, cacheType: cacheType,
                device: device.device)
            let rates = try benchmark.run(repeats: passes).map(\.generationTokensPerSecond).sorted()
            var work = StepWork()
            for _ in 0..<concurrency { work.addDecode(context: prompt + generate / 2, window: calibration.window) }
            return Double(concurrency) / rates[rates.count / 2] - calibration.seconds(work)
        }
        let (single, several) = (try beside(1), try beside(many))
        calibration.secondsPerDraw = max((several - single) / Double(many - 1), 0)
        calibration.secondsPerStep = max(single - calibration.secondsPerDraw, 0)
    }
}
