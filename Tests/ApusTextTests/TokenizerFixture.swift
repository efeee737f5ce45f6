import ApusText
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Tests/Fixtures/tokenizers.json: small tokenizers and what the Python package `tokenizers` makes of texts with them.
struct TokenizerFixture: Sendable, CustomTestStringConvertible {
    let name: String
    let json: String
    let texts: [String]
    let size: Int
    let ids: [[Int32]]
    /// Without special tokens, where that differs.
    let plain: [[Int32]]
    let decoded: [(ids: [Int32], skipping: String, keeping: String)]

    var testDescription: String { name }

    func tokenizer() throws -> Tokenizer {
        var json = json
        return try json.withUTF8 { try Tokenizer(tokenizerJSON: UnsafeRawBufferPointer($0)) }
    }

    static let all: [TokenizerFixture] = {
        do { return try read() } catch { fatalError("tokenizers.json: \(error)") }
    }()

    private static func root() throws -> JSONNode {
        let path = #filePath.split(separator: "/").dropLast(2).joined(separator: "/")
        let data = try Data(contentsOf: URL(filePath: "/\(path)/Fixtures/tokenizers.json"))
        return JSONNode(try data.withUnsafeBytes { try JSONValue(parsing: $0) }, name: "tokenizers.json")
    }

    /// What `BpeTrainer` made of a corpus.
    static func training() throws -> (corpus: [String], size: Int, tokens: [String], merges: [[String]]) {
        let node = try root().child("training")
        func strings(_ node: JSONNode) throws -> [String] { try node.elements().map { try $0.string() } }
        return (
            try strings(node.child("corpus")), try node.int("size"), try strings(node.child("tokens")),
            try node.child("merges").elements().map(strings)
        )
    }

    private static func read() throws -> [TokenizerFixture] {
        let root = try root()
        let texts = try root.child("texts").elements().map { try $0.string() }
        let models = try root.child("models")
        return try root.child("tokenizers").elements().map { node in
            var model = try models.child(try node.string("model")).object()
            for change in try node.child("changes").members() { model[change.key] = change.node.value }
            var whole = try node.child("parts").object()
            whole["model"] = .object(model)
            let ids = try node.child("ids").elements().map(Self.ids)
            var plain = ids
            for member in try node.child("plain").members() { plain[Int(member.key)!] = try Self.ids(member.node) }
            return TokenizerFixture(
                name: try node.string("name"), json: JSONValue.object(whole).serialized(), texts: texts,
                size: try node.int("size"), ids: ids, plain: plain,
                decoded: try node.child("decoded").elements().map { triple in
                    let parts = try triple.elements()
                    return (try Self.ids(parts[0]), try parts[1].string(), try parts[2].string())
                })
        }
    }

    private static func ids(_ node: JSONNode) throws -> [Int32] { try node.elements().map { Int32(try $0.int()) } }
}
