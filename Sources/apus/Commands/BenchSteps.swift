import ApusEngine
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
            Times the layers over 1 to 512 tokens, the head over 1 to 64 rows, what attention takes for long contexts, and \
            what the engine does beside the model; each figure is the median of the passes.

            EXAMPLES:
              apus bench steps model.gguf --threads 2 --output calibration.json
              apus plan serve model.gguf --calibration calibration.json --concurrency 16
            """)

    @OptionGroup var model: ModelOptions
    @Option(help: "Timed passes over all sizes.") var passes = 7
    @Option(name: .shortAndLong, help: "The file to write; standard output by default.") var output: String?

    func validate() throws {
        guard (1...1000).contains(passes) else {
            throw ValidationError("--passes: expected an integer from 1 to 1000, found \(passes)")
        }
    }

    func run() throws {
        let language = try model.load()
        let decoder = language.decoder
        let cacheType = try model.cacheDType()
        let figures = try StepBenchmark(decoder, cacheType: cacheType).run(passes: passes)
        func points(_ list: StepBenchmark.Points) -> [StepCalibration.Point] {
            list.map { StepCalibration.Point(rows: $0.rows, seconds: $0.seconds) }
        }
        let exact = decoder.exactRows
        let device =
            (decoder.backend as? CPUBackend).map { "CPU, \($0.threads) threads" } ?? "\(decoder.backend.device)"
        var calibration = StepCalibration(
            model: model.model.split(separator: "/").last.map(String.init) ?? model.model,
            device: device, parameters: decoder.configuration.parameterCount,
            layers: points(figures.layers), head: points(figures.head), secondsPerContext: figures.secondsPerContext,
            secondsPerPair: figures.secondsPerPair, exactTokens: exact == .max ? nil : exact)
        try addEngine(to: &calibration, language, cacheType)
        let text = calibration.json.serialized(.pretty) + "\n"
        if let output { try Data(text.utf8).write(to: URL(filePath: output)) } else { try Terminal.out(text) }
    }

    /// What the engine's steps take beyond the model's, from decoding alone and sixteen at once.
    private func addEngine(
        to calibration: inout StepCalibration, _ language: LanguageModel, _ cacheType: DType?
    ) throws {
        let (prompt, generate, many) = (16, 48, 16)
        func beside(_ concurrency: Int) throws -> Double {
            let benchmark = try EngineBenchmark(
                language, prompt: .random(prompt), generate: generate, concurrency: concurrency, cacheType: cacheType)
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
