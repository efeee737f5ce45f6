import ApusEngine
import ApusText
import ArgumentParser

/// `apus chat`: a conversation in the terminal.
struct Chat: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Talk with a model, turn by turn.",
        discussion: """
            Each line is a message; end a line with \\ to go on in the next. Ctrl-C stops the answer and keeps the chat. \
            Commands: /clear forgets the conversation, /undo takes the last turn back, /history prints it, /exit ends \
            (so does Ctrl-D).

            EXAMPLES:
              apus chat SmolLM2.gguf
              apus chat ./Qwen3-0.6B --system "Answer in one sentence." --temperature 0.7 --top-p 0.9
            """)

    @OptionGroup var model: ModelOptions
    @OptionGroup var sampling: SamplingOptions
    @Option(help: "System message.") var system: String?
    @Option(help: "Tokens the context holds.") var context: Int?
    @Option(help: "What computes: cpu or cuda.") var device = ComputeDevice.cpu

    func run() throws {
        let languageModel = try model.load(loadsWeights: device == .cpu)
        let session = try TextSession(
            languageModel, context: context, cacheType: try model.cacheDType(), device: device.device)
        let parameters = try sampling.parameters(defaults: languageModel.samplingDefaults)
        var conversation = Conversation(system: system)
        Interrupt.listen()
        while let line = readMessage() {
            switch line {
            case "": continue
            case "/exit", "/quit": return
            case "/clear": conversation.clear()
            case "/undo": conversation.undo()
            case "/history": try Terminal.out(conversation.transcript)
            default: try answer(line, languageModel, session, parameters, &conversation)
            }
        }
    }

    private func answer(
        _ line: String, _ languageModel: LanguageModel, _ session: TextSession, _ parameters: SamplingParameters,
        _ conversation: inout Conversation
    ) throws {
        conversation.append(user: line)
        Interrupt.clear()
        do {
            let tokens = try languageModel.chatTokens(conversation.messages)
            let result = try session.generate(tokens, parameters) { piece in
                try? Terminal.out(piece.text)
                return !Interrupt.isPending
            }
            conversation.append(answer: result.text)
            let note = result.finishReason == .stop ? "" : " [\(result.finishReason.rawValue)]"
            try Terminal.out(note + "\n")
        } catch let error as GenerationError {
            conversation.undo()
            Terminal.error("\(error)\n")
        }
        Interrupt.clear()
    }

    /// The next message, or nil at the end of input.
    private func readMessage() -> String? {
        var message = ""
        while true {
            if Terminal.inputIsTerminal { Terminal.error(message.isEmpty ? "> " : "… ") }
            guard let line = Terminal.readLine() else {
                return message.isEmpty ? nil : message
            }
            if line.hasSuffix("\\") {
                message += line.dropLast() + "\n"
            } else {
                return message + line
            }
        }
    }
}
