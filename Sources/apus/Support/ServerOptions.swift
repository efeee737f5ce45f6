import ApusServer
import ArgumentParser
import FoundationEssentials
import Logging

/// Flags of the HTTP server.
struct ServerOptions: ParsableArguments {
    @Option(help: "Address to listen on; 0.0.0.0 for all.") var host = "127.0.0.1"
    @Option(help: "Port to listen on; 0 takes a free one.") var port = 8000
    @Option(help: "Name of the model in requests; its file's by default. May be given several times.")
    var name: [String] = []
    @Option(
        help: "Key that lets requests in; may be given several times. Also from APUS_API_KEYS, separated by commas.")
    var apiKey: [String] = []
    @Option(help: "File of keys, one a line.") var apiKeyFile: String?
    @Option(help: "PEM file of the certificate chain, for TLS.") var tlsCertificate: String?
    @Option(help: "PEM file of the private key, for TLS.") var tlsKey: String?
    @Option(help: "Origin whose pages may call the server, * for any; may be given several times.")
    var corsOrigin: [String] = []
    @Option(help: "Bytes of a request's body at most.") var maxBodyBytes = 4 << 20
    @Option(help: "Bytes of a request's headers at most.") var maxHeaderBytes = 32 << 10
    @Option(help: "Connections at once at most.") var maxConnections = 4096
    @Option(help: "Seconds that a request may take.") var requestTimeout = 600.0
    @Option(help: "Seconds that a client may take to send a body.") var bodyTimeout = 30.0
    @Option(help: "Seconds that a client may leave its answer unread.") var writeTimeout = 30.0
    @Option(help: "Seconds that a connection stays open without a request.") var idleTimeout = 75.0
    @Option(help: "Seconds that running requests get to finish when the server is told to stop.")
    var drainTimeout = 30.0
    @Option(help: "Log lines on standard error: text or json.") var logFormat = StructuredLogHandler.Format.text
    @Option(help: "Least level that is logged.") var logLevel = Logger.Level.info

    func validate() throws {
        if !(0...65535).contains(port) { throw ValidationError("--port: expected 0 to 65535, found \(port)") }
        for (name, value) in [
            ("max-body-bytes", maxBodyBytes), ("max-header-bytes", maxHeaderBytes), ("max-connections", maxConnections),
        ] where !(1...1 << 30).contains(value) {
            throw ValidationError("--\(name): expected an integer from 1 to \(1 << 30), found \(value)")
        }
        for (name, value) in [
            ("request-timeout", requestTimeout), ("body-timeout", bodyTimeout), ("write-timeout", writeTimeout),
            ("idle-timeout", idleTimeout), ("drain-timeout", drainTimeout),
        ] where !(value > 0 && value <= 1e6) {
            throw ValidationError("--\(name): expected seconds above 0 and at most 1e6, found \(value)")
        }
        if (tlsCertificate == nil) != (tlsKey == nil) {
            throw ValidationError("--tls-certificate and --tls-key: expected both or none")
        }
    }

    /// The server's configuration for the model at a path.
    func configuration(model path: String) throws -> APIServerConfiguration {
        let last = path.split(separator: "/").last.map(String.init) ?? path
        let base = last.hasSuffix(".gguf") ? String(last.dropLast(5)) : last
        var result = APIServerConfiguration(modelName: base, version: Apus.configuration.version)
        if !name.isEmpty { result.modelNames = name }
        result.host = host
        result.port = port
        result.apiKeys = try keys()
        if let tlsCertificate, let tlsKey { result.tls = (tlsCertificate, tlsKey) }
        result.allowedOrigins = corsOrigin
        result.maxBodyBytes = maxBodyBytes
        result.maxHeaderBytes = maxHeaderBytes
        result.maxConnections = maxConnections
        result.requestTimeout = .seconds(requestTimeout)
        result.bodyTimeout = .seconds(bodyTimeout)
        result.writeTimeout = .seconds(writeTimeout)
        result.idleTimeout = .seconds(idleTimeout)
        result.drainTimeout = .seconds(drainTimeout)
        return result
    }

    /// A logger as the flags ask for.
    func logger() -> Logger {
        var logger = Logger(label: "apus") { [logFormat] _ in StructuredLogHandler(format: logFormat) }
        logger.logLevel = logLevel
        return logger
    }

    private func keys() throws -> [String] {
        var result = apiKey
        if let text = ProcessInfo.processInfo.environment["APUS_API_KEYS"] {
            result += text.split(separator: ",").map { Self.trimmed($0) }
        }
        if let apiKeyFile {
            guard let data = FileManager.default.contents(atPath: apiKeyFile),
                let text = String(validating: data, as: UTF8.self)
            else { throw ValidationError("--api-key-file: cannot read \(apiKeyFile) as text") }
            result += text.split(whereSeparator: \.isNewline).map { Self.trimmed($0) }
        }
        result.removeAll(where: \.isEmpty)
        let asked = !apiKey.isEmpty || apiKeyFile != nil
        if asked && result.isEmpty { throw ValidationError("API keys: expected at least one that is not empty") }
        return result
    }

    private static func trimmed(_ text: Substring) -> String {
        var text = text
        while text.first?.isWhitespace == true { text.removeFirst() }
        while text.last?.isWhitespace == true { text.removeLast() }
        return String(text)
    }
}
