import ApusEngine
import ArgumentParser

/// Flags of every command that generates text.
struct SamplingOptions: ParsableArguments {
    @Option(name: [.customShort("n"), .long], help: "Tokens to generate at most.")
    var maxTokens: Int?

    @Option(help: "0 takes the most likely token; 1 samples from the model's distribution.")
    var temperature: Double?

    @Option(help: "Keep the K most likely tokens; 0 keeps all.")
    var topK: Int?

    @Option(help: "Keep the most likely tokens that together reach this probability.")
    var topP: Double?

    @Option(help: "Drop tokens less likely than this share of the most likely one.")
    var minP: Double?

    @Option(help: "Penalise tokens seen in prompt or output; 1 is off.")
    var repetitionPenalty: Double?

    @Option(help: "Penalise tokens already generated.")
    var presencePenalty: Double?

    @Option(help: "Penalise tokens by how often they were generated.")
    var frequencyPenalty: Double?

    @Option(help: "Seed of the draws: the same seed gives the same text. Random when left out.")
    var seed: UInt64?

    @Option(help: "End the text before this string; may be given several times.")
    var stop: [String] = []

    @Option(help: "Report log-probabilities, with this many alternatives a token.")
    var logprobs: Int?

    @Flag(help: "Do not end at the end-of-sequence token.")
    var ignoreEos = false

    /// The parameters: flags over the model's own defaults over greedy.
    func parameters(defaults: SamplingParameters = SamplingParameters()) throws -> SamplingParameters {
        var result = defaults
        result.maxTokens = maxTokens ?? defaults.maxTokens
        result.temperature = temperature ?? defaults.temperature
        result.topK = topK ?? defaults.topK
        result.topP = topP ?? defaults.topP
        result.minP = minP ?? defaults.minP
        result.repetitionPenalty = repetitionPenalty ?? defaults.repetitionPenalty
        result.presencePenalty = presencePenalty ?? defaults.presencePenalty
        result.frequencyPenalty = frequencyPenalty ?? defaults.frequencyPenalty
        result.seed = seed ?? UInt64.random(in: 0...UInt64.max)
        result.stop = stop
        result.logprobs = logprobs
        result.ignoreEndOfSequence = ignoreEos
        do { try result.validate() } catch { throw ValidationError("\(error)") }
        return result
    }
}
