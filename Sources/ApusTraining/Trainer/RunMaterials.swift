import ApusModels
import ApusTensor
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// What a run works with before there is a model: batches, tokenizer, and the model it starts from.
struct RunMaterials {
    let batches: any BatchSource
    let tokenizer: Tokenizer
    /// Tokens to train on, and held out.
    let tokenCounts: (train: Int, validation: Int)
    /// Tokens that the model must have at least.
    let vocabulary: Int
    let endToken: Int32?
    /// The model to start from; nil for fresh weights.
    let start: (any Checkpoint)?
    /// What goes into every checkpoint beside the weights.
    let files: [(name: String, contents: [UInt8])]
    /// What people should know of the data.
    let notes: [String]
    /// The folder or file of the tokenizer, for messages.
    let tokenizerSource: String

    /// Files of a Hugging Face folder that belong to the model but are no weights.
    private static let companions = [
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
    ]

    /// Gathers them; data that the recipe names as text is prepared in the run's folder.
    init(_ recipe: Recipe, backend: CPUBackend, progress: (DataPreparation.Progress) -> Void) throws {
        let folder = recipe.training.output
        let startFolder = try recipe.model.from.map { try Self.huggingFaceFolder($0, run: folder, backend: backend) }
        let start = try startFolder.map { try Checkpoints.open($0) }
        self.start = start
        if recipe.data.chat.isEmpty {
            let dataFolder = recipe.data.path ?? "\(folder)/data"
            if recipe.data.path == nil {
                var data = recipe.data
                if data.tokenizer == nil, data.trainVocabulary == nil { data.tokenizer = startFolder }
                _ = try DataPreparation(data, folder: dataFolder).run(progress)
            }
            let train = try TokenDataset(folder: dataFolder, split: .train)
            let hasValidation = train.manifest.tokenCount(.validation) > recipe.data.sequenceLength
            let validation = hasValidation ? try TokenDataset(folder: dataFolder, split: .validation) : nil
            batches = try TextBatches(train: train, validation: validation, recipe: recipe)
            tokenizer = try train.loadTokenizer()
            tokenCounts = (train.tokenCount, validation?.tokenCount ?? 0)
            vocabulary = train.manifest.vocabularySize
            endToken = train.manifest.endToken
            tokenizerSource = dataFolder
            notes = []
            let path = train.manifest.tokenizerPath(in: dataFolder)
            files =
                startFolder.map(Self.files) ?? (path.hasSuffix(".json") ? Self.files([("tokenizer.json", path)]) : [])
        } else {
            guard let source = startFolder ?? recipe.data.tokenizer else {
                throw TrainerError.noTokenizer
            }
            tokenizer = try start?.loadTokenizer() ?? Tokenizer(model: source)
            let template: ChatTemplate
            if let path = recipe.data.chatTemplate {
                template = try ChatTemplate(source: try Self.text(path))
            } else if let text = try start?.chatTemplate() {
                template = try ChatTemplate(source: text)
            } else {
                throw ChatDataError.noTemplate(model: source)
            }
            let encoder = ChatEncoder(template: template, tokenizer: tokenizer)
            let chat = try Self.chatBatches(recipe, encoder)
            batches = chat
            tokenCounts = chat.tokenCounts
            vocabulary = tokenizer.idBound
            endToken = tokenizer.namedTokens.eos
            tokenizerSource = source
            notes = [
                "\(chat.counts.train) conversations to train on, \(chat.counts.validation) held out"
                    + (chat.omitted > 0
                        ? "; \(chat.omitted) longer than \(recipe.data.sequenceLength) tokens are left out" : "")
            ]
            files = Self.files(startFolder ?? source)
        }
    }

    /// The folder itself, or a GGUF file's model as one, written once into the run's folder.
    private static func huggingFaceFolder(_ path: String, run folder: String, backend: CPUBackend) throws -> String {
        guard path.hasSuffix(".gguf") else { return path }
        let start = "\(folder)/start"
        if !FileManager.default.fileExists(atPath: start) {
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            _ = try CheckpointConverter(Checkpoints.open(path), format: .f32, backend: backend).writeHuggingFace(
                to: start)
        }
        return start
    }

    private static func files(_ folder: String) -> [(name: String, contents: [UInt8])] {
        files(companions.map { ($0, "\(folder)/\($0)") })
    }

    private static func files(_ paths: [(name: String, path: String)]) -> [(name: String, contents: [UInt8])] {
        paths.compactMap { name, path in FileManager.default.contents(atPath: path).map { (name, Array($0)) } }
    }

    private static func text(_ path: String) throws -> String {
        guard let contents = FileManager.default.contents(atPath: path) else {
            throw ModelFileError.system(file: path, operation: "read the file", code: 2)
        }
        guard let text = String(validating: contents, as: UTF8.self) else {
            throw TextDataError.invalidUTF8(file: path, offset: 0, byte: contents.first ?? 0)
        }
        return text
    }

    private static func chatBatches(_ recipe: Recipe, _ encoder: ChatEncoder) throws -> ChatBatches {
        let data = recipe.data
        func examples(_ files: [String]) throws -> [ChatExample] {
            var result: [ChatExample] = []
            try ChatRows.forEach(in: files) { messages, file, line in
                if let example = try encoder.encode(messages, file: file, line: line) { result.append(example) }
            }
            return result
        }
        var train = try examples(data.chat)
        var validation = try examples(data.chatValidation)
        if validation.isEmpty, train.count > 1 {
            // Drawn by their place, so that a resumed run draws the same ones.
            let count = Int(Double(train.count) * data.validationFraction)
            let order = WindowOrder(count: train.count, seed: UInt64(recipe.training.seed))
            let held = Set((0..<count).map { order[$0] })
            validation = train.indices.filter(held.contains).map { train[$0] }
            train = train.indices.filter { !held.contains($0) }.map { train[$0] }
        }
        return try ChatBatches(
            train: train, validation: validation, length: data.sequenceLength, rows: data.batchSize,
            accumulation: data.accumulation, seed: recipe.training.seed, files: data.chat)
    }
}
