/// Where an ``APIServer`` listens, whom it lets in, and what it bounds.
public struct APIServerConfiguration: Sendable {
    /// Address to listen on.
    public var host = "127.0.0.1"
    /// Port to listen on; 0 takes a free one.
    public var port = 8000
    /// The model's names in requests; the first is the one in responses.
    public var modelNames: [String]
    /// Keys of which a request must bring one (`Authorization: Bearer KEY`); none lets everybody in.
    public var apiKeys: [String] = []
    /// PEM files of certificate chain and private key; nil serves plain HTTP.
    public var tls: (certificate: String, key: String)?
    /// Origins whose pages may call the server; "*" is any.
    public var allowedOrigins: [String] = []
    /// Bytes of a request's body at most.
    public var maxBodyBytes = 4 << 20
    /// Bytes of all of a request's headers at most.
    public var maxHeaderBytes = 32 << 10
    /// Connections at once at most; further ones wait to be accepted.
    public var maxConnections = 4096
    /// So long a request may take, from its arrival to its end.
    public var requestTimeout = Duration.seconds(600)
    /// So long a client may take to send a request's body.
    public var bodyTimeout = Duration.seconds(30)
    /// So long a client may leave what is sent to it unread before its connection is closed.
    public var writeTimeout = Duration.seconds(30)
    /// So long a connection without a request stays open.
    public var idleTimeout = Duration.seconds(75)
    /// After the signal to stop, running requests have so long to finish before they are ended with an error.
    public var drainTimeout = Duration.seconds(30)
    /// The version that the server reports.
    public var version: String

    /// The defaults.
    public init(modelName: String, version: String) {
        modelNames = [modelName]
        self.version = version
    }
}
