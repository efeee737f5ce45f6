/// What a changed value means for a run that is to be resumed.
public enum ResumeEffect: String, Sendable {
    /// The run stays the same: how often to log, where to write.
    case none
    /// The checkpoint can be continued, but the run is another one from here on.
    case trajectory
    /// The checkpoint cannot be continued: its tensors or its place in the data would not fit.
    case impossible
}

/// A key of a recipe: its place in the file, its type, what it means.
struct RecipeField: Sendable {
    /// "model.hidden_size".
    let path: String
    let expected: String
    let effect: ResumeEffect
    let meaning: String
    /// Sets the value; false where it has another type.
    let set: @Sendable (inout Recipe, RecipeValue) -> Bool
    let yaml: @Sendable (Recipe) -> String

    init<Value: RecipeConvertible>(
        _ path: String, _ key: any WritableKeyPath<Recipe, Value> & Sendable, _ effect: ResumeEffect, _ meaning: String
    ) {
        self.path = path
        expected = Value.expected
        self.effect = effect
        self.meaning = meaning
        set = { recipe, value in
            guard let typed = Value(value) else { return false }
            recipe[keyPath: key] = typed
            return true
        }
        yaml = { $0[keyPath: key].yaml }
    }

    /// The part before the dot; empty for a key outside sections.
    var section: Substring { path.contains(".") ? path.prefix { $0 != "." } : "" }
    var name: Substring { section.isEmpty ? path[...] : path.dropFirst(section.count + 1) }
}

extension Recipe {
    /// Every key, in the order of the canonical file.
    static let fields: [RecipeField] =
        taskFields + modelFields + dataFields + rewardFields + policyGradientFields + optimizerFields + trainingFields

    private static let taskFields = [
        RecipeField(
            "task", \.task, .impossible, "what is learnt; null: sft where data.chat names conversations, else pretrain")
    ]

    private static let modelFields = [
        RecipeField(
            "model.from", \.model.from, .trajectory,
            "a model to start from, a GGUF file or a Hugging Face folder; the other keys of this section are then its own"
        ),
        RecipeField("model.attention", \.model.attention, .impossible, "the attention variant"),
        RecipeField("model.hidden_size", \.model.hiddenSize, .impossible, "width of the residual stream"),
        RecipeField("model.layers", \.model.layers, .impossible, "decoder layers"),
        RecipeField("model.heads", \.model.heads, .impossible, "query heads"),
        RecipeField(
            "model.kv_heads", \.model.kvHeads, .impossible,
            "KV heads of gqa and gta; null: a quarter of the heads, at least 2"),
        RecipeField(
            "model.head_width", \.model.headWidth, .impossible, "width of a head; null: hidden_size over heads"),
        RecipeField("model.latent_heads", \.model.latentHeads, .impossible, "latent heads of gla and gla_q"),
        RecipeField(
            "model.latent_width", \.model.latentWidth, .impossible,
            "width of a latent; null: 4 head widths for mla, 2 for gla and gla_q"),
        RecipeField(
            "model.rope_width", \.model.ropeWidth, .impossible,
            "rotated width of gta, mla, gla and gla_q; null: half the head width"),
        RecipeField(
            "model.query_rank", \.model.queryRank, .impossible,
            "width of the low-rank query of mla, gla and gla_q, 0 for a full query; null: 8 head widths where that is "
                + "less than hidden_size, else 0 (half of hidden_size for gla_q)"),
        RecipeField(
            "model.feed_forward_width", \.model.feedForwardWidth, .impossible,
            "width of the SwiGLU network; null: 8/3 of hidden_size, rounded up to a multiple of 64"),
        RecipeField("model.vocabulary", \.model.vocabulary, .impossible, "tokens; null: the tokenizer's"),
        RecipeField("model.tie_embeddings", \.model.tieEmbeddings, .impossible, "the input table is also the output's"),
        RecipeField("model.rope_theta", \.model.ropeTheta, .impossible, "base of the rotary embedding"),
        RecipeField("model.norm_epsilon", \.model.normEpsilon, .impossible, "epsilon of RMSNorm"),
        RecipeField(
            "model.init_std", \.model.initStd, .trajectory, "standard deviation of the weights at the start"),
    ]

    private static let dataFields = [
        RecipeField("data.path", \.data.path, .trajectory, "a folder that `apus data prepare` wrote"),
        RecipeField(
            "data.text", \.data.text, .trajectory, "files of text, which are prepared first where path is null"),
        RecipeField("data.validation_text", \.data.validationText, .trajectory, "files of text that are held out"),
        RecipeField(
            "data.validation_fraction", \.data.validationFraction, .trajectory,
            "share of the documents that is held out where there are no such files"),
        RecipeField("data.field", \.data.field, .trajectory, "member of JSON Lines rows that holds the text"),
        RecipeField(
            "data.separator", \.data.separator, .trajectory, "paragraph that separates documents in text files"),
        RecipeField(
            "data.tokenizer", \.data.tokenizer, .impossible,
            "a tokenizer.json, a folder that holds one, or a GGUF file, to prepare text with"),
        RecipeField(
            "data.train_vocabulary", \.data.trainVocabulary, .impossible,
            "tokens of a vocabulary that is trained on the text where tokenizer is null"),
        RecipeField(
            "data.chat", \.data.chat, .trajectory,
            "JSON Lines of conversations, in place of text: the model learns the answers"),
        RecipeField("data.chat_validation", \.data.chatValidation, .trajectory, "conversations that are held out"),
        RecipeField(
            "data.chat_template", \.data.chatTemplate, .trajectory, "a Jinja file in place of the model's own template"),
        RecipeField("data.sequence_length", \.data.sequenceLength, .impossible, "tokens of a sequence"),
        RecipeField("data.batch_size", \.data.batchSize, .impossible, "sequences of a micro-batch"),
        RecipeField(
            "data.accumulation", \.data.accumulation, .impossible, "micro-batches whose gradients make one step"),
        RecipeField(
            "data.across_documents", \.data.acrossDocuments, .trajectory,
            "a token attends to earlier documents in its sequence"),
    ]

    private static let optimizerFields = [
        RecipeField("optimizer.learning_rate", \.optimizer.learningRate, .trajectory, "peak learning rate of AdamW"),
        RecipeField("optimizer.betas", \.optimizer.betas, .trajectory, "decay rates of the two moments"),
        RecipeField("optimizer.epsilon", \.optimizer.epsilon, .trajectory, "added to the root of the second moment"),
        RecipeField(
            "optimizer.weight_decay", \.optimizer.weightDecay, .trajectory, "decoupled decay; none on norms and biases"),
        RecipeField(
            "optimizer.clip", \.optimizer.clip, .trajectory, "largest norm of all gradients together, 0 for any"),
        RecipeField("schedule.kind", \.schedule.kind, .trajectory, "the learning rate after the warm-up"),
        RecipeField(
            "schedule.warmup_steps", \.schedule.warmupSteps, .trajectory,
            "steps of linear warm-up; null: a tenth of the run, at most 100"),
        RecipeField("schedule.min_ratio", \.schedule.minRatio, .trajectory, "share of the peak at the end"),
        RecipeField(
            "schedule.decay_fraction", \.schedule.decayFraction, .trajectory,
            "share of all steps in which wsd decays"),
    ]

    private static let trainingFields = [
        RecipeField("training.steps", \.training.steps, .trajectory, "optimiser steps; null with tokens null: 1000"),
        RecipeField(
            "training.tokens", \.training.tokens, .trajectory,
            "tokens to train on, in place of steps; rounded up to steps"),
        RecipeField("training.seed", \.training.seed, .impossible, "seed of the weights and of the data's order"),
        RecipeField(
            "training.device", \.training.device, .trajectory,
            "where the model is trained: cpu, or cuda (cuda:N) on a Hopper GPU"),
        RecipeField("training.compute", \.training.compute, .trajectory, "arithmetic of products"),
        RecipeField(
            "training.gradient_checkpointing", \.training.gradientCheckpointing, .none,
            "compute layers twice instead of keeping what the backward pass needs"),
        RecipeField(
            "training.evaluate_every", \.training.evaluateEvery, .none, "steps between evaluations, 0: only at the end"),
        RecipeField(
            "training.evaluate_windows", \.training.evaluateWindows, .none,
            "sequences of an evaluation; null: all held-out text"),
        RecipeField(
            "training.checkpoint_every", \.training.checkpointEvery, .none,
            "steps between checkpoints, 0: only at the end"),
        RecipeField(
            "training.patience", \.training.patience, .none,
            "evaluations without a better one after which the run ends, the best model being kept in checkpoints/best; 0: "
                + "the best is kept, and the run goes on; null: 3 for reward, none for other tasks"),
        RecipeField("training.keep_checkpoints", \.training.keepCheckpoints, .none, "checkpoints that are kept"),
        RecipeField("training.log_every", \.training.logEvery, .none, "steps between lines of the log"),
        RecipeField(
            "training.spike_threshold", \.training.spikeThreshold, .none,
            "stops where the loss exceeds its recent mean by so many nats, 0: never"),
        RecipeField("training.output", \.training.output, .none, "folder of checkpoints and logs"),
        RecipeField(
            "training.peak_flops", \.training.peakFlops, .none,
            "the machine's peak in FLOP/s, to show the share that is reached; null: the measured rate of large products"
        ),
        RecipeField("compare.attention", \.compare.attention, .none, "variants that `apus compare` trains"),
        RecipeField("compare.seeds", \.compare.seeds, .none, "a run of each variant for each seed"),
        RecipeField(
            "compare.match_parameters", \.compare.matchParameters, .none,
            "change feed-forward widths so that all variants have as many parameters as the first"),
    ]

    /// The keys as a Markdown table: key, type, default, meaning.
    public static var reference: String {
        let defaults = Recipe()
        // A bar would end the cell, even within code.
        func escaped(_ value: String) -> String { value.map { $0 == "|" ? "\\|" : String($0) }.joined() }
        let rows = fields.map {
            "| `\($0.path)` | \($0.expected) | `\(escaped($0.yaml(defaults)))` | \($0.meaning) |"
        }
        return (["| key | type | default | meaning |", "|---|---|---|---|"] + rows).joined(separator: "\n") + "\n"
    }
}
