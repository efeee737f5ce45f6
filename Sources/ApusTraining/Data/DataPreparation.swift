import ApusText

/// Turns files of text into a folder of token shards: what `apus data prepare` does.
///
/// ```swift
/// var preparation = DataPreparation(folder: "books", sources: ["train.txt.zst"], tokenizer: .trained(size: 4096))
/// preparation.validationSources = ["valid.txt.zst"]
/// let manifest = try preparation.run()
/// ```
///
/// Preparing again in the same folder goes on where it was broken off, at any moment, after the last finished shard.
public struct DataPreparation: Sendable {
    /// The tokenizer to use.
    public enum TokenizerChoice: Sendable, Equatable {
        /// A tokenizer.json, a folder that holds one, or a GGUF file.
        case file(String)
        /// A byte-level BPE vocabulary of this size, trained on the training text (on the first GiB of it, if there is
        /// more).
        case trained(size: Int)
    }

    /// The folder to write: a new one, an empty one, or one of a preparation.
    public var folder: String
    /// The files of text.
    public var sources: [String]
    /// The files of text that are held out.
    public var validationSources: [String] = []
    /// The share of the documents that is held out where there are no such files.
    public var validationFraction = 0.01
    /// The seed of the draw of those.
    public var seed = 0
    /// How documents stand in the files.
    public var layout = TextLayout()
    /// The tokenizer.
    public var tokenizer: TokenizerChoice
    /// The spelling of the token after each document; nil takes the one spelled as the layout's separator,
    /// `<|endoftext|>`, or the tokenizer's end of text, and none where it has none of them.
    public var endToken: String?
    /// Bytes of text in a shard: so much work is lost at most when the preparation is broken off.
    public var shardByteCount = 64 << 20

    /// A preparation with the default settings.
    public init(folder: String, sources: [String], tokenizer: TokenizerChoice) {
        self.folder = folder
        self.sources = sources
        self.tokenizer = tokenizer
    }

    /// The preparation that a recipe's `data.text` asks for.
    public init(_ data: Recipe.TrainingData, folder: String) {
        self.folder = folder
        sources = data.text
        validationSources = data.validationText
        validationFraction = data.validationFraction
        layout = TextLayout(separator: data.separator, field: data.field)
        tokenizer = data.tokenizer.map { .file($0) } ?? .trained(size: data.trainVocabulary ?? 4096)
    }

    /// How far a preparation is.
    public struct Progress: Sendable {
        /// What is being done.
        public enum Phase: Sendable {
            /// Counting the words that a vocabulary is trained on, and learning it.
            case vocabulary
            /// Turning text into tokens.
            case tokens
        }

        /// What is being done.
        public var phase: Phase
        /// Bytes of the source files that have been read, and that there are.
        public var sourceBytes: (read: Int, total: Int)
        /// Bytes of text done in this run.
        public var textBytes: Int
        /// Tokens made in this run.
        public var tokens: Int
        /// Seconds since the phase began.
        public var seconds: Double
        /// Seconds until the phase is over, at the rate so far; nil until there is one.
        public var secondsLeft: Double?
    }

    /// Checks the settings, the sources and the folder, then prepares what is not done yet.
    /// - Parameters:
    ///   - progress: called now and then by the calling thread.
    /// - Returns: what the folder holds.
    /// - Throws: ``TokenDataError``, `TextDataError`, `TokenizerError`, `ModelFileError`, `JSONError`.
    public func run(_ progress: (Progress) -> Void = { _ in }) throws -> TokenManifest {
        try checkSettings()
        let sources = try sourceList()
        // What is finished is only read, by any number of processes at once.
        if let found = try PreparationFolder.manifest(in: self.folder), found.isComplete {
            try check(found, settings: settingList, sources: sources)
            return found
        }
        let folder = try PreparationFolder(self.folder)
        var manifest = try folder.manifest()
        let tokenizer: Tokenizer
        if let found = manifest {
            try check(found, settings: settingList, sources: sources)
            if found.isComplete { return found }
            tokenizer = try self.tokenizer(of: found)
        } else {
            let new: (tokenizer: Tokenizer, name: String)
            switch self.tokenizer {
            case .file(let path): new = (try Tokenizer(model: path), try folder.copyTokenizer(path))
            case .trained(let size): new = try trainTokenizer(size, sources, folder, progress)
            }
            tokenizer = new.tokenizer
            manifest = TokenManifest(
                vocabularyHash: VocabularyHash(tokenizer), vocabularySize: tokenizer.idBound,
                endToken: try endTokenID(tokenizer), tokenizer: new.name, settings: settingList, sources: sources)
            try manifest!.write(to: self.folder)
        }
        var writer = PreparationWriter(preparation: self, tokenizer: tokenizer, manifest: manifest!)
        return try writer.run(progress)
    }

    // MARK: Checks

    private func checkSettings() throws(TokenDataError) {
        guard !sources.isEmpty else { throw .setting("expected at least one file of text, found none") }
        guard validationFraction >= 0, validationFraction < 1 else {
            throw .setting("validation fraction: expected a number from 0 to below 1, found \(validationFraction)")
        }
        guard shardByteCount >= 1 else {
            throw .setting("shard size: expected at least 1 byte, found \(shardByteCount)")
        }
        if case .trained(let size) = tokenizer, size < 257 {
            throw .setting("vocabulary: expected at least 257 tokens (the bytes and the end of text), found \(size)")
        }
        var seen: Set<String> = []
        for path in sources + validationSources where !seen.insert(path).inserted {
            throw .setting("expected each file once, found \(path) twice")
        }
    }

    private func sourceList() throws -> [TokenManifest.Source] {
        try sources.map { try TokenManifest.Source(path: $0, split: validationSources.isEmpty ? nil : .train) }
            + validationSources.map { try TokenManifest.Source(path: $0, split: .validation) }
    }

    /// What, besides sources and tokenizer, decides about the shards.
    private var settingList: [String] {
        var result = [
            "form \(layout.form)", "separator \(layout.separator)", "field \(layout.field)",
            "shard size \(shardByteCount)", "end token \(endToken ?? "automatic")",
        ]
        if validationSources.isEmpty { result += ["validation fraction \(validationFraction)", "seed \(seed)"] }
        if case .trained(let size) = tokenizer { result.append("trained vocabulary \(size)") }
        return result
    }

    private func check(
        _ found: TokenManifest, settings: [String], sources: [TokenManifest.Source]
    ) throws(TokenDataError) {
        var changes: [String] = []
        for setting in found.settings where !settings.contains(setting) {
            let name = setting.split(separator: " ").dropLast().joined(separator: " ")
            changes.append(settings.first { $0.hasPrefix(name) }.map { "\(setting) -> \($0)" } ?? setting)
        }
        if changes.isEmpty { changes = settings.filter { !found.settings.contains($0) } }
        for source in found.sources where !sources.contains(source) {
            changes.append(
                sources.contains { $0.path == source.path }
                    ? "\(source.path) was written to" : "\(source.path) is left out")
        }
        for source in sources where !found.sources.contains(where: { $0.path == source.path }) {
            changes.append("\(source.path) is new")
        }
        if changes.isEmpty, found.sources != sources { changes.append("the order of the files") }
        guard changes.isEmpty else { throw .changed(folder: folder, what: changes) }
    }

    // MARK: The tokenizer

    /// The tokenizer that a preparation was begun with.
    private func tokenizer(of manifest: TokenManifest) throws -> Tokenizer {
        let path: String
        switch tokenizer {
        case .file(let given): path = given
        case .trained: path = manifest.tokenizerPath(in: folder)
        }
        let result = try Tokenizer(model: path)
        guard VocabularyHash(result) == manifest.vocabularyHash else {
            throw TokenDataError.changed(folder: folder, what: ["the vocabulary of \(path)"])
        }
        return result
    }

    private func trainTokenizer(
        _ size: Int, _ sources: [TokenManifest.Source], _ folder: PreparationFolder, _ progress: (Progress) -> Void
    ) throws -> (Tokenizer, String) {
        let end = layout.separator.isEmpty ? "<|endoftext|>" : layout.separator
        let trainer = BPETrainer(vocabularySize: size, specialTokens: [end])
        let training = sources.filter { $0.split != .validation }
        let trained = try withoutActuallyEscaping(progress) { progress in
            let texts = TrainingTexts(
                PreparationStream(training, layout), isTraining: { self.split($0, $1, training) != .validation },
                progress)
            let result = try trainer.train(utf8: texts)
            if let failure = texts.failure { throw failure }
            return result
        }
        try folder.write(trained.json, to: TokenManifest.tokenizerFileName)
        let name = JSONValue.string(end)
        let config: JSONValue = ["tokenizer_class": "PreTrainedTokenizerFast", "bos_token": name, "eos_token": name]
        try folder.write(config.serialized(), to: "tokenizer_config.json")
        return (try Tokenizer(contentsOf: self.folder), TokenManifest.tokenizerFileName)
    }

    private func endTokenID(_ tokenizer: Tokenizer) throws -> Int32? {
        if let endToken {
            guard let id = tokenizer.id(of: endToken) else {
                throw TokenDataError.setting("end token: expected a token of the vocabulary, found \(endToken)")
            }
            return id
        }
        return tokenizer.id(of: layout.separator) ?? tokenizer.id(of: "<|endoftext|>") ?? tokenizer.namedTokens.eos
    }

    // MARK: The split

    /// The part that a document belongs to.
    func split(_ source: Int, _ document: Int, _ sources: [TokenManifest.Source]) -> TokenSplit {
        if let split = sources[source].split { return split }
        let mixed = WindowOrder.mix(UInt64(bitPattern: Int64(seed)) &+ WindowOrder.mix(UInt64(source)))
        let draw = WindowOrder.mix(mixed &+ UInt64(document) &* 0x9E37_79B9_7F4A_7C15) >> 11
        return Double(draw) * 0x1p-53 < validationFraction ? .validation : .train
    }
}
