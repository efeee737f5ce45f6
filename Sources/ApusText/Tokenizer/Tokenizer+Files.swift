#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

extension Tokenizer {
    /// Reads a `tokenizer.json`.
    /// - Parameters:
    ///   - bytes: the file's bytes, read only during the call.
    ///   - name: what errors call it.
    /// - Throws: `TokenizerError`, which names an unsupported component or the place of what is wrong.
    public convenience init(tokenizerJSON bytes: UnsafeRawBufferPointer, name: String = "tokenizer.json")
        throws(TokenizerError)
    {
        self.init(try TokenizerJSON.load(bytes, name: name))
    }

    /// The same, with the tokens that another file names: a `tokenizer.json` itself names none.
    /// - Throws: `TokenizerError`.
    public convenience init(
        tokenizerJSON bytes: UnsafeRawBufferPointer, name: String, namedTokens: NamedTokens
    ) throws(TokenizerError) {
        var components = try TokenizerJSON.load(bytes, name: name)
        components.namedTokens = namedTokens
        self.init(components)
    }

    /// Reads a `tokenizer.json`, or the one in a folder. A `tokenizer_config.json` beside it names the tokens that
    /// begin and end a text.
    /// - Throws: `TokenizerError`.
    public convenience init(contentsOf path: String) throws(TokenizerError) {
        var isFolder = false
        let file: String
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
            throw .unreadable(file: path, reason: "there is no such file")
        }
        file = isFolder ? path + "/tokenizer.json" : path
        let data = try Self.read(file)
        let result = data.withUnsafeBytes { bytes in
            Result { () throws(TokenizerError) in try TokenizerJSON.load(bytes, name: file) }
        }
        var components = try result.get()
        let folder =
            isFolder
            ? path : file.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        let config = (folder.isEmpty ? (path.hasPrefix("/") ? "" : ".") : folder) + "/tokenizer_config.json"
        if FileManager.default.fileExists(atPath: config) {
            components.namedTokens = try Self.namedTokens(config, components)
        }
        self.init(components)
    }

    private static func read(_ file: String) throws(TokenizerError) -> Data {
        do {
            return try Data(contentsOf: URL(filePath: file))
        } catch {
            throw .unreadable(file: file, reason: String(describing: error))
        }
    }

    private static func namedTokens(
        _ file: String, _ components: TokenizerComponents
    ) throws(TokenizerError) -> NamedTokens {
        let data = try read(file)
        do {
            let value = try data.withUnsafeBytes { try JSONValue(parsing: $0) }
            let root = JSONNode(value, name: file)
            func token(_ key: String) throws -> Int32? {
                guard let node = try root.optional(key) else { return nil }
                let content = try node.value.stringValue ?? node.string("content")
                return components.addedTokens.first { $0.content.hasSameScalars(as: content) }?.id
                    ?? components.model.vocabulary.id(of: content)
            }
            return NamedTokens(
                bos: try token("bos_token"), eos: try token("eos_token"),
                unknown: try token("unk_token") ?? components.namedTokens.unknown, padding: try token("pad_token"))
        } catch let error as JSONError {
            throw .json(file: file, error)
        } catch {
            throw .invalid(String(describing: error), at: file)
        }
    }
}

/// Builds a tokenizer from arbitrary bytes and, if they are one, encodes and decodes with it. For fuzzing.
package func fuzzTokenizerJSON(_ bytes: UnsafeRawBufferPointer) {
    guard let tokenizer = try? Tokenizer(tokenizerJSON: bytes) else { return }
    let texts = [
        "", "Hello, it's 2024!\r\n  x", "\u{E9}e\u{301} \u{4F60}\u{597D}\u{2581}\u{1F469}\u{200D}\u{1F680}<s>",
    ]
    for text in texts {
        let ids = tokenizer.encode(text, addSpecialTokens: true)
        _ = tokenizer.decode(ids)
        var stream = tokenizer.streamingDetokenizer(skipSpecialTokens: true)
        for id in ids { _ = stream.append(id) }
        _ = stream.finish()
    }
}
