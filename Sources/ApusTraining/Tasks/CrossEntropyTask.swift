import ApusModels
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// Predicting text, or the answers of conversations: the tasks `pretrain` and `sft`.
public struct CrossEntropyTask: TrainingTask {
    /// The task.
    public init() {}

    /// Prepares text or conversations; data that the recipe names as text is prepared in the run's folder.
    /// - Throws: ``TrainerError``, ``ChatDataError``, errors of data and files.
    public func prepare(_ context: TaskContext) throws -> TaskMaterials {
        context.recipe.data.chat.isEmpty ? try text(context) : try chat(context)
    }

    private func text(_ context: TaskContext) throws -> TaskMaterials {
        let recipe = context.recipe
        let folder = recipe.data.path ?? "\(context.folder)/data"
        if recipe.data.path == nil {
            var data = recipe.data
            if data.tokenizer == nil, data.trainVocabulary == nil { data.tokenizer = context.startFolder }
            _ = try DataPreparation(data, folder: folder).run(context.progress)
        }
        let train = try TokenDataset(folder: folder, split: .train)
        let hasValidation = train.manifest.tokenCount(.validation) > recipe.data.sequenceLength
        let validation = hasValidation ? try TokenDataset(folder: folder, split: .validation) : nil
        let batches = try TextBatches(train: train, validation: validation, recipe: recipe)
        let path = train.manifest.tokenizerPath(in: folder)
        let files =
            if let start = context.startFolder {
                context.companionFiles(of: start)
            } else if path.hasSuffix(".json"), let contents = FileManager.default.contents(atPath: path) {
                [(name: "tokenizer.json", contents: Array(contents))]
            } else {
                [(name: String, contents: [UInt8])]()
            }
        return TaskMaterials(
            tokenizer: try train.loadTokenizer(), tokenizerSource: folder,
            vocabulary: train.manifest.vocabularySize, endToken: train.manifest.endToken, files: files,
            summary: Self.summary((train.tokenCount, validation?.tokenCount ?? 0))
        ) {
            CrossEntropyObjective(
                $0, data: batches, accumulation: recipe.data.accumulation, share: context.share)
        }
    }

    private func chat(_ context: TaskContext) throws -> TaskMaterials {
        let recipe = context.recipe
        let (tokenizer, source) = try context.tokenizer()
        guard let template = try context.chatTemplate() else { throw ChatDataError.noTemplate(model: source) }
        let batches = try chatBatches(recipe, ChatEncoder(template: template, tokenizer: tokenizer))
        let omitted =
            batches.omitted > 0
            ? "; \(batches.omitted) longer than \(recipe.data.sequenceLength) tokens are left out" : ""
        return TaskMaterials(
            tokenizer: tokenizer, tokenizerSource: source, vocabulary: tokenizer.idBound,
            endToken: tokenizer.namedTokens.eos, files: context.companionFiles(of: source),
            summary: Self.summary(batches.tokenCounts),
            notes: [
                "\(batches.counts.train) conversations to train on, \(batches.counts.validation) held out" + omitted
            ]
        ) {
            CrossEntropyObjective(
                $0, data: batches, accumulation: recipe.data.accumulation, share: context.share)
        }
    }

    private static func summary(_ tokens: (train: Int, validation: Int)) -> String {
        "\(tokens.train) tokens to train on, \(tokens.validation) held out"
    }

    private func chatBatches(_ recipe: Recipe, _ encoder: ChatEncoder) throws -> ChatBatches {
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
        if validation.isEmpty {
            (train, validation) = HeldOut.split(train, fraction: data.validationFraction, seed: recipe.training.seed)
        }
        return try ChatBatches(
            train: train, validation: validation, length: data.sequenceLength, rows: data.batchSize,
            accumulation: data.accumulation, seed: recipe.training.seed, files: data.chat)
    }
}

/// Draws what is held out.
package enum HeldOut {
    /// Takes a share of examples away, drawn by their places, so that a resumed run draws the same ones; at least one stays.
    package static func split<Element>(
        _ examples: [Element], fraction: Double, seed: Int
    ) -> (train: [Element], validation: [Element]) {
        guard examples.count > 1 else { return (examples, []) }
        let count = Int(Double(examples.count) * fraction)
        let order = WindowOrder(count: examples.count, seed: UInt64(seed))
        let held = Set((0..<count).map { order[$0] })
        return (
            examples.indices.filter { !held.contains($0) }.map { examples[$0] },
            examples.indices.filter(held.contains).map { examples[$0] }
        )
    }
}
