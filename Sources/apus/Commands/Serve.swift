import ApusDistributed
import ApusEngine
import ApusServer
import ApusTensor
import ArgumentParser
import Logging

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension StructuredLogHandler.Format: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}

/// `apus serve`: an OpenAI-compatible server.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve a model over an OpenAI-compatible HTTP API.",
        discussion: """
            Answers /v1/models, /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/score, /tokenize, /detokenize, \
            /health, /ready, /version, /metrics (Prometheus), /openapi.json, and has a page to chat at /.

            SIGTERM and SIGINT stop it gracefully: new requests are refused, running ones get --drain-timeout to finish. A \
            second signal ends it at once.

            With --tensor-parallel or --data-parallel this process is a front: it starts the ranks by the launcher, hands them \
            the requests, and starts them again when they end. /ranks tells how they are. With --device cuda every rank takes \
            a GPU.

            EXAMPLES:
              apus serve SmolLM2.gguf
              apus serve ./Qwen3-0.6B --host 0.0.0.0 --port 8080 --api-key-file keys.txt --tls-certificate c.pem --tls-key k.pem
              apus serve ./model --tensor-parallel 2 --data-parallel 2 --launcher "mpirun --bind-to none"
              apus serve ./model --device cuda --tensor-parallel 4 --data-parallel 2
              APUS_API_KEYS=one,two apus serve model.gguf --name my-model --cors-origin https://chat.example
            """)

    @OptionGroup var model: ModelOptions
    @OptionGroup(title: "Server") var server: ServerOptions
    @OptionGroup(title: "Engine") var engine: EngineOptions
    @Option(help: "Ask this over the API once the server runs, and print the answer; without a terminal, end after it.")
    var ask: String?
    @OptionGroup(title: "Ranks") var ranks: FrontOptions

    func validate() throws {
        guard ranks.isFront || ranks.rankPort != nil else { return }
        if ask != nil { throw ValidationError("--ask: expected a server without ranks") }
    }

    func run() async throws {
        if let port = ranks.rankPort {
            let gpu = try Ranks.sharedGPU(on: engine.device, from: ranks.firstGpu)
            return try await Ranks.run(on: try gpu.map { try CUDAStream(device: $0) }) { job in
                let alone: Device = self.engine.device == .cpu ? .cpu : .cuda(ranks.firstGpu)
                try await serve(RankContext(job: job, device: gpu.map { .cuda($0.ordinal) } ?? alone), port: port)
            }
        }
        if ranks.isFront { return try await serveRanks() }
        let languageModel = try model.load(acceptsScoreHead: true, loadsWeights: engine.device == .cpu)
        let loop = APIServer.makeEventLoop()
        var sizes = try engine.configuration(for: languageModel, cacheType: try model.cacheDType())
        sizes.deliver = APIServer.delivery(on: loop)
        let engine = try Engine(languageModel, sizes)
        let configuration = try server.configuration(model: model.model)
        let logger = server.logger()
        let scheme = configuration.tls == nil ? "http" : "https"
        try await APIServer(engine: engine, configuration: configuration, logger: logger).run(on: loop) { port in
            let address = "\(scheme)://\(configuration.host):\(port)"
            try? Terminal.out("serving \(configuration.modelNames[0]) at \(address)\n")
            guard let ask else { return }
            // Away from the event loop, which answers.
            Task.detached { Self.ask(ask, APIQuestion(port: port, key: configuration.apiKeys.first), address) }
        }
    }

    /// The front of the ranks.
    private func serveRanks() async throws {
        let configuration = try server.configuration(model: model.model)
        let loop = APIServer.makeEventLoop()
        let front = RankFront(
            groups: ranks.dataParallel, configuration: configuration, logger: server.logger()
        ) { ranks.command(copy: $0, port: $1, on: engine.device) }
        let scheme = configuration.tls == nil ? "http" : "https"
        try await front.run(on: loop) { port in
            try? Terminal.out("serving \(configuration.modelNames[0]) at \(scheme)://\(configuration.host):\(port)\n")
        }
    }

    /// One of the ranks: the first has the engine and answers the front, the others compute with it.
    private func serve(_ context: RankContext, port: Int) async throws {
        let languageModel = try model.load(acceptsScoreHead: true, loadsWeights: engine.device == .cpu, context)
        var sizes = try engine.configuration(for: languageModel, cacheType: try model.cacheDType())
        sizes.device = context.device
        guard context.isFirst else { return try context.loading { try EngineFollower(languageModel, sizes) }.run() }
        let loop = APIServer.makeEventLoop()
        sizes.deliver = APIServer.delivery(on: loop)
        let engine = try context.loading { try Engine(languageModel, sizes) }
        var configuration = try server.configuration(model: model.model)
        configuration.host = "127.0.0.1"
        configuration.port = port
        configuration.tls = nil
        InputWatch.start()
        try await APIServer(engine: engine, configuration: configuration, logger: server.logger()).run(on: loop)
        engine.shutdown()
        engine.waitUntilEnded()
    }

    private static func ask(_ text: String, _ question: APIQuestion, _ address: String) {
        do {
            try Terminal.out("\n> \(text)\n")
            let figures = try question.ask(text) { try Terminal.out($0) }
            let rate = figures.seconds > 0 ? Double(figures.tokens - 1) / figures.seconds : 0
            try Terminal.out(
                "\n\n\(figures.tokens) tokens, \(fixed(rate, 1)) tokens/s, first token after "
                    + "\(fixed(figures.secondsToFirst, 3)) s\n")
            if Terminal.inputIsTerminal { try Terminal.out("chat with it at \(address)/; Ctrl-C ends\n") }
        } catch {
            Terminal.error("error: \(error)\n")
        }
        if !Terminal.inputIsTerminal { kill(getpid(), SIGTERM) }
    }
}
