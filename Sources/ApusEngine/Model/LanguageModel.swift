import ApusModels
import ApusTensor
import ApusText

/// A decoder with its tokenizer, chat template and defaults: what a path to a model gives.
public final class LanguageModel: Sendable {
    /// What the network is.
    public let configuration: DecoderConfiguration
    /// Where text is drawn, and where the network computes unless a GPU does.
    public let backend: any Backend
    private let loadedDecoder: Decoder?
    /// Text to tokens and back.
    public let tokenizer: Tokenizer
    /// The model's own chat template, where it has one.
    public let chatTemplate: ChatTemplate?
    /// The model's own sampling defaults, greedy where it has none.
    public let samplingDefaults: SamplingParameters
    let endTokens: Set<Int32>
    /// Where it was loaded from; nil for a model made of parts.
    public let path: String?
    /// The ranks that the network is cut over; nil where this process has all of it.
    public let tensorParallel: TensorParallel?

    /// A model of its parts.
    /// - Parameter endTokens: tokens that end an answer.
    package convenience init(
        decoder: Decoder, tokenizer: Tokenizer, chatTemplate: ChatTemplate?, samplingDefaults: SamplingParameters,
        endTokens: Set<Int32>, path: String? = nil
    ) {
        self.init(
            configuration: decoder.configuration, backend: decoder.backend, decoder: decoder, tokenizer: tokenizer,
            chatTemplate: chatTemplate, samplingDefaults: samplingDefaults, endTokens: endTokens, path: path)
    }

    /// A model of its parts; without a decoder, one whose weights a GPU has.
    package init(
        configuration: DecoderConfiguration, backend: any Backend, decoder: Decoder?, tokenizer: Tokenizer,
        chatTemplate: ChatTemplate?, samplingDefaults: SamplingParameters, endTokens: Set<Int32>, path: String?,
        tensorParallel: TensorParallel? = nil
    ) {
        self.configuration = configuration
        self.backend = backend
        loadedDecoder = decoder
        self.tokenizer = tokenizer
        self.chatTemplate = chatTemplate
        self.samplingDefaults = samplingDefaults
        self.endTokens = endTokens
        self.path = path
        self.tensorParallel = decoder?.tensorParallel ?? tensorParallel
    }

    /// Whether this process has the network's weights in its own memory.
    public var hasWeights: Bool { loadedDecoder != nil }

    /// The network. Precondition: ``hasWeights``.
    public var decoder: Decoder {
        guard let loadedDecoder else { preconditionFailure("the model was loaded without its weights, for a GPU") }
        return loadedDecoder
    }

    /// Whether a token ends an answer.
    public func endsSequence(_ token: Int32) -> Bool { endTokens.contains(token) }

    /// Tokens of one prompt: through the chat template as a user's message, or as it stands.
    /// - Parameters:
    ///   - system: a system message; only with the template.
    ///   - raw: continue the text as it stands, after the tokens a text begins with.
    public func promptTokens(_ text: String, system: String? = nil, raw: Bool = false) throws -> [Int32] {
        if raw || chatTemplate == nil {
            return tokenizer.encode(text, addSpecialTokens: true, parseSpecialTokens: true)
        }
        var conversation = Conversation(system: system)
        conversation.append(user: text)
        return try chatTokens(conversation.messages)
    }

    /// Tokens of a conversation, ready for the model's answer.
    /// - Throws: ``TemplateError``; ``ModelError/noChatTemplate`` where the model has none.
    public func chatTokens(_ messages: [ChatMessage], tools: JSONValue? = nil) throws -> [Int32] {
        guard let chatTemplate else { throw ModelError.noChatTemplate }
        var extra: [String: JSONValue] = [:]
        for (name, id) in [("bos_token", tokenizer.namedTokens.bos), ("eos_token", tokenizer.namedTokens.eos)] {
            guard let id, let spelling = tokenizer.spelling(id) else { continue }
            extra[name] = .string(String(decoding: spelling, as: UTF8.self))
        }
        let text = try chatTemplate.render(messages: messages, tools: tools, addGenerationPrompt: true, extra: extra)
        return tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: true)
    }
}

/// What a model lacks for what is asked of it.
public enum ModelError: Error, Equatable, CustomStringConvertible {
    /// No chat template in the model's files.
    case noChatTemplate
    /// The tokenizer has tokens the model's embedding lacks.
    case vocabularyMismatch(tokenizer: Int, model: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .noChatTemplate: "the model's files hold no chat template; use a raw prompt"
        case .vocabularyMismatch(let tokenizer, let model):
            "the tokenizer has \(tokenizer) tokens, the model's embedding only \(model)"
        }
    }
}
