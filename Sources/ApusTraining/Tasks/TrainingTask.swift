import ApusModels
import ApusTensor
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// How the data and the objective of a run come out of a recipe.
public protocol TrainingTask {
    /// Reads and checks everything a run needs before there is a model.
    /// - Throws: what is wrong with the recipe's data and models.
    func prepare(_ context: TaskContext) throws -> TaskMaterials
}

/// What a run works with before there is a model.
public struct TaskMaterials {
    /// Turns text into the model's tokens.
    public var tokenizer: Tokenizer
    /// The folder or file of the tokenizer, for messages.
    public var tokenizerSource: String
    /// Tokens that the model must have at least.
    public var vocabulary: Int
    /// The token that ends a document; nil where the model's own says.
    public var endToken: Int32?
    /// What goes into every checkpoint beside the weights.
    public var files: [(name: String, contents: [UInt8])]
    /// Steps that the data make, where the recipe says neither steps nor tokens; nil for the recipe's default.
    public var steps: Int?
    /// What there is to learn from: "8000 pairs to train on, 400 held out".
    public var summary: String
    /// What people should know of the data.
    public var notes: [String]
    /// Evaluations without a better one after which the run ends, where the recipe does not say; nil for never.
    public var patience: Int?
    /// Changes what the model is: a score head in place of the language model's.
    public var configure: (_ configuration: inout DecoderConfiguration) throws -> Void
    /// The objective of the run's model.
    public var objective: (_ model: TrainableDecoder) throws -> any TrainingObjective

    /// Materials of a run.
    public init(
        tokenizer: Tokenizer, tokenizerSource: String, vocabulary: Int, endToken: Int32? = nil,
        files: [(name: String, contents: [UInt8])], steps: Int? = nil, summary: String, notes: [String] = [],
        patience: Int? = nil,
        configure: @escaping (_ configuration: inout DecoderConfiguration) throws -> Void = { _ in },
        objective: @escaping (_ model: TrainableDecoder) throws -> any TrainingObjective
    ) {
        self.tokenizer = tokenizer
        self.tokenizerSource = tokenizerSource
        self.vocabulary = vocabulary
        self.endToken = endToken
        self.files = files
        self.steps = steps
        self.summary = summary
        self.notes = notes
        self.patience = patience
        self.configure = configure
        self.objective = objective
    }
}

/// What a task prepares a run from.
public struct TaskContext {
    /// The recipe.
    public let recipe: Recipe
    /// The run's folder; it exists.
    public var folder: String { recipe.training.output }
    /// The model to start from; nil for fresh weights.
    public let start: (any Checkpoint)?
    /// Its Hugging Face folder; a GGUF file's model is expanded into one.
    public let startFolder: String?
    /// Where the run computes what it computes on the CPU.
    public let backend: CPUBackend
    /// Where the model is trained.
    public let operations: DifferentiableOperations
    /// Told how far the preparation of data is.
    public let progress: (DataPreparation.Progress) -> Void
    /// The part of each batch that this process computes.
    public let share: BatchShare

    /// Files of a Hugging Face folder that belong to the model but are no weights.
    private static let companions = [
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
    ]

    /// Opens the model that the recipe starts from.
    init(
        _ recipe: Recipe, backend: CPUBackend, operations: DifferentiableOperations, share: BatchShare = .whole,
        progress: @escaping (DataPreparation.Progress) -> Void
    ) throws {
        self.recipe = recipe
        self.share = share
        self.backend = backend
        self.operations = operations
        self.progress = progress
        startFolder = try recipe.model.from.map {
            try Self.huggingFaceFolder($0, run: recipe.training.output, backend: backend)
        }
        start = try startFolder.map { try Checkpoints.open($0) }
    }

    /// The tokenizer of the model that the run starts from, or else the recipe's, and where it stands.
    /// - Throws: ``TrainerError/noTokenizer`` where there is neither.
    public func tokenizer() throws -> (Tokenizer, source: String) {
        guard let source = startFolder ?? recipe.data.tokenizer else { throw TrainerError.noTokenizer }
        return (try start?.loadTokenizer() ?? Tokenizer(model: source), source)
    }

    /// The recipe's chat template, or else that of the model that the run starts from; nil where there is neither.
    public func chatTemplate() throws -> ChatTemplate? {
        if let path = recipe.data.chatTemplate { return try ChatTemplate(source: try Self.text(path)) }
        return try start?.chatTemplate().map { try ChatTemplate(source: $0) }
    }

    /// The files of a folder (or beside a JSON file) that belong to a model but are no weights, and the recipe's chat template
    /// in place of the model's.
    public func companionFiles(of source: String) -> [(name: String, contents: [UInt8])] {
        let folder = source.hasSuffix(".json") ? FilePath.folder(of: source) : source
        var names = Self.companions
        var result: [(name: String, contents: [UInt8])] = []
        if let path = recipe.data.chatTemplate, let contents = FileManager.default.contents(atPath: path) {
            names.removeAll { $0 == "chat_template.jinja" }
            result.append(("chat_template.jinja", Array(contents)))
        }
        for name in names {
            if let contents = FileManager.default.contents(atPath: "\(folder)/\(name)") {
                result.append((name, Array(contents)))
            }
        }
        return result
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

    private static func text(_ path: String) throws -> String {
        guard let contents = FileManager.default.contents(atPath: path) else {
            throw ModelFileError.system(file: path, operation: "read the file", code: 2)
        }
        guard let text = String(validating: contents, as: UTF8.self) else {
            throw TextDataError.invalidUTF8(file: path, offset: 0, byte: contents.first ?? 0)
        }
        return text
    }
}
