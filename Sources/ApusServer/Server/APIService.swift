import ApusEngine
import ApusText
import FoundationEssentials
import Synchronization

/// What all routes share: the model, the engine, and what the server has counted.
final class APIService: Sendable {
    let model: LanguageModel
    let engine: Engine
    let configuration: APIServerConfiguration
    let started = Int(Date().timeIntervalSince1970)
    let counters = HTTPCounters()
    let constraints: ConstraintStore
    /// Tokens that prompt and output can have together.
    let context: Int
    private let draining = Atomic<Bool>(false)

    init(engine: Engine, configuration: APIServerConfiguration) {
        model = engine.model
        constraints = ConstraintStore(engine.model)
        context = engine.context
        self.engine = engine
        self.configuration = configuration
    }

    /// Whether new requests are refused, because the server is about to stop.
    var isDraining: Bool { draining.load(ordering: .relaxed) }

    /// Refuses new requests from now on.
    func beginDraining() { draining.store(true, ordering: .relaxed) }

    var tokenNames: TokenNames { TokenNames(tokenizer: model.tokenizer) }

    /// The name of the model that a request asks for.
    /// - Throws: 404 where it is not served here.
    func checkModel(_ name: String?) throws(APIError) {
        guard let name, !configuration.modelNames.contains(name) else { return }
        throw .notFound(
            "model: expected \(configuration.modelNames.joined(separator: " or ")), found \(name)", parameter: "model",
            code: "model_not_found")
    }

    /// Checks token ids of a request.
    func checkTokens(_ tokens: [Int32], _ field: String) throws(APIError) {
        let bound = model.configuration.vocabularySize
        guard let unknown = tokens.first(where: { Int($0) >= bound }) else { return }
        throw .invalid("\(field): expected token ids below \(bound), found \(unknown)", parameter: field)
    }

    /// Gives requests to the engine; all or none.
    func submit(_ requests: [GenerationRequest], promptField: String) throws(APIError) -> [GenerationStream] {
        guard !isDraining else {
            throw .unavailable("the server is about to stop", code: "shutting_down", retryAfter: 5)
        }
        var streams: [GenerationStream] = []
        for request in requests {
            do throws(EngineError) {
                streams.append(try engine.submit(request))
            } catch {
                for stream in streams { stream.cancel() }
                throw APIError(error).naming(prompt: promptField)
            }
        }
        return streams
    }
}
