import ApusEngine
import ApusModels
import ApusText
import ArgumentParser

/// `apus schema`: what constrained decoding makes of a JSON schema.
struct SchemaCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schema",
        abstract: "Check a JSON schema for constrained decoding, and show what it allows.",
        discussion: """
            Compiles the schema for a model's vocabulary and draws random texts from it, every allowed token being equally \
            likely; the model itself is not run. With --accept, tells of each line of a file (a JSON document) whether the \
            model could write it.

            EXAMPLES:
              apus schema model.gguf person.json
              apus schema model.gguf person.json --accept documents.jsonl --json
            """)

    @Argument(help: "A model whose tokens are to be used: a GGUF file or a Hugging Face directory.")
    var model: String
    @Argument(help: "A file with a JSON schema, or with a JSON array of them.") var schema: String
    @Option(help: "Random texts to draw from each schema.") var samples = 3
    @Option(help: "Tokens of a random text, about.") var tokens = 60
    @Option(help: "Seed of the random texts.") var seed: UInt64 = 0
    @Option(help: "A file with one JSON document a line, to be tried with each schema.") var accept: String?
    @Flag(help: "Allow no white space between the parts of JSON.") var compact = false
    @Flag(help: "Print a JSON array with an object a schema.") var json = false

    func validate() throws {
        for (name, value, least) in [("samples", samples, 0), ("tokens", tokens, 1)]
        where value < least || value > 1 << 20 {
            throw ValidationError("--\(name): expected an integer from \(least) to \(1 << 20), found \(value)")
        }
    }

    func run() throws {
        let vocabulary = try self.vocabulary()
        let value = try JSONValue(parsing: bytes(of: schema))
        let documents = try accept.map { try bytes(of: $0).split(separator: UInt8(ascii: "\n")).map(Array.init) } ?? []
        var results: [JSONValue] = []
        for schema in value.arrayValue ?? [value] {
            switch compile(schema, vocabulary) {
            case .success(let constraint): results.append(.object(examine(constraint, vocabulary, documents)))
            case .failure(let error):
                guard value.arrayValue != nil else { throw error }
                results.append(["error": .string(error.description)])
            }
        }
        if json { return try Terminal.out(JSONValue.array(results).serialized() + "\n") }
        for result in results { try print(result) }
    }

    private func vocabulary() throws -> ConstraintVocabulary {
        let checkpoint = try Checkpoints.open(model)
        let tokenizer = try checkpoint.loadTokenizer()
        return try ConstraintVocabulary(
            tokenizer, endTokens: checkpoint.configuration.eosTokens.map { Int32(clamping: $0) },
            size: checkpoint.configuration.vocabularySize)
    }

    private func compile(
        _ schema: JSONValue, _ vocabulary: ConstraintVocabulary
    ) -> Result<JSONConstraint, JSONSchemaError> {
        Result { () throws(JSONSchemaError) in
            try JSONConstraint(schema: schema, vocabulary: vocabulary, whitespace: compact ? .none : .flexible)
        }
    }

    private func bytes(of path: String) throws -> [UInt8] {
        let source = try ByteSource(path: path)
        var result: [UInt8] = []
        while try source.append(to: &result) {}
        return result
    }

    private func examine(
        _ constraint: JSONConstraint, _ vocabulary: ConstraintVocabulary, _ documents: [[UInt8]]
    ) -> JSONObject {
        var result = JSONObject()
        var sampler = ConstraintSampler(constraint, vocabulary: vocabulary, seed: seed)
        let texts = (0..<samples).map { _ in sampler.text(tokens: tokens).map { String(decoding: $0, as: UTF8.self) } }
        result["samples"] = .array(texts.map { $0.map { .string($0) } ?? .null })
        result["deadEnds"] = .integer(Int64(sampler.deadEnds))
        result["accepted"] = .array(documents.map { .bool(constraint.accepts($0)) })
        for (name, seconds) in [
            ("maskMicroseconds", sampler.maskSeconds.first), ("cachedMaskMicroseconds", sampler.maskSeconds.again),
        ]
        where !seconds.isEmpty {
            let sorted = seconds.sorted()
            result[name] = [
                "mean": .double(seconds.reduce(0, +) / Double(seconds.count) * 1e6),
                "median": .double(sorted[sorted.count / 2] * 1e6), "largest": .double(sorted[sorted.count - 1] * 1e6),
            ]
        }
        return result
    }

    private func print(_ result: JSONValue) throws {
        if let error = result["error"]?.stringValue { try Terminal.out("error: \(error)\n") }
        for text in result["samples"]?.arrayValue ?? [] {
            try Terminal.out((text.stringValue ?? "(no end in sight)") + "\n")
        }
        for accepted in result["accepted"]?.arrayValue ?? [] {
            try Terminal.out(accepted == .bool(true) ? "accepted\n" : "not accepted\n")
        }
    }
}
