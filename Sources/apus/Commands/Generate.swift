import ApusEngine
import ApusModels
import ApusTensor
import ApusText
import ArgumentParser

/// `apus generate`: continues a prompt.
struct Generate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Answer a prompt, streaming the text.",
        discussion: """
            The prompt goes through the model's chat template when it has one; --raw continues the text as it stands. \
            Without a prompt, standard input is read.

            EXAMPLES:
              apus generate SmolLM2.gguf "Why is the sky blue?"
              apus generate ./Llama-3.2-1B --raw "Once upon a time" -n 64 --temperature 0.8 --seed 7
              echo "Translate to French: good morning" | apus generate SmolLM2.gguf
              apus generate ./model --tokens 1,2,3 -n 16
              apus generate ./model "Why is the sky blue?" --device cuda
              mpirun -n 2 apus generate ./model "Why is the sky blue?" --tensor-parallel 2
              apus launch -n 2 apus generate ./model "Why is the sky blue?" --device cuda
            """)

    @OptionGroup var model: ModelOptions
    @Argument(help: "The prompt; standard input when it is left out.") var prompt: String?
    @OptionGroup var sampling: SamplingOptions
    @Flag(help: "Continue the prompt without chat template.") var raw = false
    @Option(help: "Token ids, separated by commas, instead of a text: prints the generated ids; needs no tokenizer.")
    var tokens: TokenList?
    @Option(help: "System message for the chat template.") var system: String?
    @Option(help: "Tokens the context holds.") var context: Int?
    @Option(help: "What computes: cpu or cuda.") var device = ComputeDevice.cpu
    @Flag(help: "Print the text only, without figures.") var quiet = false
    @Flag(help: "Print one JSON object with text, tokens, log-probabilities and figures instead of streaming.")
    var json =
        false
    @OptionGroup var ranks: RankOptions

    func validate() throws {
        if tokens != nil && (prompt != nil || system != nil || raw) {
            throw ValidationError("--tokens replaces the prompt: expected no text, --system or --raw beside it")
        }
    }

    func run() throws { try ranks.run(on: device, generate) }

    private func generate(_ context: RankContext) throws {
        if let tokens { return try generate(tokens.ids, context) }
        let start = ContinuousClock.now
        // Launchers hand standard input to the first rank alone.
        let text = try prompt ?? context.shared(standardInputText)
        let languageModel = try model.load(loadsWeights: device == .cpu, context)
        let loaded = ContinuousClock.now - start
        let tokens = try languageModel.promptTokens(text, system: system, raw: raw)
        let session = try TextSession(
            languageModel, context: self.context, cacheType: try model.cacheDType(), device: context.device)
        let parameters = try parameters(context, defaults: languageModel.samplingDefaults)
        // Of several ranks each would stop at a token of its own: there the launcher ends them all.
        if !context.isShared { Interrupt.listen() }
        var writeError: (any Error)?
        let result = try session.generate(tokens, parameters) { piece in
            if !json {
                do { try context.out(piece.text) } catch { writeError = error }
            }
            return !Interrupt.isPending && writeError == nil
        }
        if let writeError { throw writeError }
        if json {
            try context.out(GenerationReport(result, loadSeconds: loaded.inSeconds).json + "\n")
        } else {
            try context.out("\n")
            if !quiet, context.isFirst { Terminal.error(GenerationReport(result, loadSeconds: loaded.inSeconds).lines) }
        }
        if result.finishReason == .cancelled { throw ExitCode(130) }
    }
}

extension Generate {
    /// Continues token ids and prints the new ones, as a JSON array.
    private func generate(_ ids: [Int32], _ context: RankContext) throws {
        let cacheType = try model.cacheDType()
        let session =
            if case .cuda(let ordinal) = context.device {
                try DecodeSession(
                    path: model.model, device: ordinal, context: self.context, cacheType: cacheType,
                    ranks: try context.cut(Checkpoints.open(model.model)))
            } else {
                try DecodeSession(try model.loadDecoder(context), context: self.context, cacheType: cacheType)
            }
        let parameters = try parameters(context)
        var sampler = try Sampler(parameters, prompt: ids)
        let ends = Set(sampling.ignoreEos ? [] : session.configuration.eosTokens)
        var (logits, _) = try session.start(ids)
        var generated: [Int32] = []
        while generated.count < parameters.maxTokens {
            let token = try logits.withMutableElements(of: Float.self) { try sampler.next($0) }.token
            generated.append(token)
            guard !ends.contains(Int(token)), generated.count < parameters.maxTokens, session.hasRoom else { break }
            logits = try session.append(token)
        }
        try context.out("\(generated)\n")
    }

    /// The parameters, with the seed of the first rank.
    private func parameters(
        _ context: RankContext, defaults: SamplingParameters = SamplingParameters()
    ) throws -> SamplingParameters {
        var result = try sampling.parameters(defaults: defaults)
        result.seed = UInt64(try context.shared { "\(result.seed)" }) ?? result.seed
        return result
    }
}

/// All of standard input as text.
/// - Throws: a validation error that names the offset of the first byte that is no UTF-8.
func standardInputText() throws -> String {
    if Terminal.inputIsTerminal { Terminal.error("reading the prompt from standard input, end with Ctrl-D\n") }
    let bytes = Terminal.readAll()
    guard let text = String(validating: bytes, as: UTF8.self) else {
        throw ValidationError("standard input: expected UTF-8, found an invalid byte at offset \(invalidOffset(bytes))")
    }
    return text
}

/// Offset of the first byte at which `bytes` stops being UTF-8.
func invalidOffset(_ bytes: [UInt8]) -> Int {
    var iterator = bytes.makeIterator()
    var decoder = UTF8()
    var offset = 0
    while true {
        switch decoder.decode(&iterator) {
        case .scalarValue(let scalar): offset += UTF8.width(scalar)
        case .emptyInput, .error: return offset
        }
    }
}
