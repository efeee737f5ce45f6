import ApusEngine
import NIOCore

/// Writes the events of a request as server-sent events in the form of one endpoint.
protocol StreamEncoder: Sendable {
    /// The request left the queue.
    mutating func started(_ prompt: Int, into json: inout JSONBytes)
    /// The prompt's own log-probabilities, and with them the beginning of the text where it is echoed.
    mutating func prompt(_ prompt: Int, logprobs: [SampledToken], into json: inout JSONBytes)
    /// Output of a sample.
    mutating func piece(_ prompt: Int, _ sample: Int, _ piece: GenerationPiece, into json: inout JSONBytes)
    /// The end of a sample.
    mutating func finished(_ prompt: Int, _ sample: Int, _ reason: FinishReason, into json: inout JSONBytes)
    /// The chunk with what the request used.
    func usage(_ usage: Usage, into json: inout JSONBytes)
}

/// Writes chunks whose beginning and end are the same for all tokens of a request.
struct ChunkFrame: Sendable {
    private let head: [UInt8]
    private let tail: [UInt8]

    /// - Parameter includesUsage: whether each chunk says that its usage is null.
    init(id: String, object: StaticString, created: Int, model: String, includesUsage: Bool) {
        var json = JSONBytes()
        json.raw("data: {\"id\":")
        json.string(id)
        json.raw(",\"object\":\"")
        json.raw(object)
        json.raw("\",\"created\":")
        json.integer(created)
        json.raw(",\"model\":")
        json.string(model)
        json.raw(",\"choices\":[")
        head = Array(json.buffer.readableBytesView)
        tail = Array((includesUsage ? "],\"usage\":null}\n\n" : "]}\n\n").utf8)
    }

    /// Begins a chunk of one choice, an open object with its index.
    func begin(choice: Int, into json: inout JSONBytes) {
        json.raw(head)
        json.raw("{\"index\":")
        json.integer(choice)
    }

    /// Ends the chunk.
    func end(into json: inout JSONBytes) {
        json.raw("}")
        json.raw(tail)
    }

    /// A chunk without choices, with the usage.
    func usage(_ usage: Usage, into json: inout JSONBytes) {
        json.raw(head)
        json.raw("],\"usage\":")
        usage.write(into: &json)
        json.raw("}\n\n")
    }
}

extension FinishReason {
    /// OpenAI's word for it, with quotes.
    var wireName: StaticString {
        switch self {
        case .stop: "\"stop\""
        case .length: "\"length\""
        case .cancelled: "\"abort\""
        }
    }
}
