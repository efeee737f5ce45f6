import ApusModels
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Which part of the data a document belongs to.
public enum TokenSplit: String, Sendable, Hashable, CaseIterable {
    /// What a model learns from.
    case train
    /// What is held out.
    case validation
}

/// What lies in a folder of prepared data: `manifest.json`.
public struct TokenManifest: Sendable, Equatable {
    /// A file of tokens.
    public struct Shard: Sendable, Equatable {
        /// The name in the folder.
        public var file: String
        /// The part of the data.
        public var split: TokenSplit
        /// Tokens.
        public var tokens: Int
        /// Documents that start in it.
        public var documents: Int
    }

    /// A file of text that was read.
    public struct Source: Sendable, Equatable {
        /// The path as given.
        public var path: String
        /// Size in bytes.
        public var byteCount: Int
        /// Time of the last change, in nanoseconds since 1970.
        public var modified: Int
        /// The part of the data; nil where documents are drawn for validation.
        public var split: TokenSplit?
    }

    /// The vocabulary's hash.
    public var vocabularyHash: VocabularyHash
    /// Ids are below this.
    public var vocabularySize: Int
    /// The token after each document, where there is one.
    public var endToken: Int32?
    /// The tokenizer: a name in the folder, or a path elsewhere.
    public var tokenizer: String
    /// How documents stand in the sources, and how they are split, in words: part of what a resume must find unchanged.
    public var settings: [String]
    /// The sources in order.
    public var sources: [Source]
    /// Blocks of the sources that the shards hold.
    public var blocks: Int
    /// Bytes of text in the shards.
    public var textByteCount: Int
    /// The shards in order.
    public var shards: [Shard]
    /// Whether all sources have been read.
    public var isComplete: Bool

    static let fileName = "manifest.json"
    private static let format = "apus tokens 1"

    /// The tokens of a part.
    public func tokenCount(_ split: TokenSplit) -> Int {
        shards.filter { $0.split == split }.reduce(0) { $0 + $1.tokens }
    }

    /// The documents of a part.
    public func documentCount(_ split: TokenSplit) -> Int {
        shards.filter { $0.split == split }.reduce(0) { $0 + $1.documents }
    }

    // MARK: The file

    /// Reads the manifest of a folder.
    /// - Throws: `ModelFileError.system`, `JSONError`, ``TokenDataError``.
    public init(folder: String) throws {
        let path = folder + "/" + Self.fileName
        let bytes = try MappedFile(path: path)
        let value: JSONValue
        do {
            value = try JSONValue(parsing: bytes.bytes(0..<bytes.byteCount))
        } catch {
            throw TokenDataError.malformed(file: path, place: "text", expected: "JSON", found: "\(error)")
        }
        let root = JSONNode(value, name: path)
        let format = try root.string("format")
        guard format == Self.format else {
            throw TokenDataError.malformed(file: path, place: "format", expected: Self.format, found: format)
        }
        guard let hash = VocabularyHash(hexadecimal: try root.string("vocabulary_hash")) else {
            throw TokenDataError.malformed(
                file: path, place: "vocabulary_hash", expected: "32 hexadecimal digits",
                found: try root.string("vocabulary_hash"))
        }
        let counts = 0...(1 << 60)
        vocabularyHash = hash
        vocabularySize = try root.child("vocabulary_size").int(in: 1...(1 << 31))
        endToken = try root.optional("end_token").map { Int32(try $0.int(in: 0...Int(Int32.max))) }
        tokenizer = try root.string("tokenizer")
        settings = try root.child("settings").elements().map { try $0.string() }
        blocks = try root.child("blocks").int(in: counts)
        textByteCount = try root.child("text_bytes").int(in: counts)
        isComplete = try root.bool("complete")
        sources = try root.child("sources").elements().map { node in
            Source(
                path: try node.string("path"), byteCount: try node.int("bytes"), modified: try node.int("modified"),
                split: try Self.split(node))
        }
        shards = try root.child("shards").elements().map { node in
            let file = try node.string("file")
            guard !file.contains("/"), let split = try Self.split(node) else {
                throw node.error(expected: "a file name without folders and a split")
            }
            return Shard(
                file: file, split: split, tokens: try node.child("tokens").int(in: counts),
                documents: try node.child("documents").int(in: counts))
        }
    }

    init(
        vocabularyHash: VocabularyHash, vocabularySize: Int, endToken: Int32?, tokenizer: String, settings: [String],
        sources: [Source]
    ) {
        self.vocabularyHash = vocabularyHash
        self.vocabularySize = vocabularySize
        self.endToken = endToken
        self.tokenizer = tokenizer
        self.settings = settings
        self.sources = sources
        blocks = 0
        textByteCount = 0
        shards = []
        isComplete = false
    }

    private static func split(_ node: JSONNode) throws -> TokenSplit? {
        guard let child = try node.optional("split") else { return nil }
        guard let split = TokenSplit(rawValue: try child.string()) else {
            throw child.error(expected: "train or validation")
        }
        return split
    }

    /// Writes the manifest beside the old one and renames it.
    func write(to folder: String) throws {
        func int(_ value: Int) -> JSONValue { .integer(Int64(value)) }
        let root: JSONValue = [
            "format": .string(Self.format),
            "complete": .bool(isComplete),
            "tokenizer": .string(tokenizer),
            "vocabulary_hash": .string(vocabularyHash.description),
            "vocabulary_size": int(vocabularySize),
            "end_token": endToken.map { int(Int($0)) } ?? .null,
            "settings": .array(settings.map { .string($0) }),
            "sources": .array(
                sources.map {
                    [
                        "path": .string($0.path), "bytes": int($0.byteCount), "modified": int($0.modified),
                        "split": $0.split.map { .string($0.rawValue) } ?? .null,
                    ]
                }),
            "blocks": int(blocks),
            "text_bytes": int(textByteCount),
            "shards": .array(
                shards.map {
                    [
                        "file": .string($0.file), "split": .string($0.split.rawValue), "tokens": int($0.tokens),
                        "documents": int($0.documents),
                    ]
                }),
        ]
        let file = try AtomicFile(path: folder + "/" + Self.fileName)
        try file.write(Array((root.serialized() + "\n").utf8))
        try file.publish()
    }
}
