import ApusAttention

extension Recipe {
    /// Sizes beyond which a number in a recipe is a slip of the hand, and sums of products still fit 64 bits.
    private static let largestSize = 1 << 24

    /// What no run can have, each problem at the place where its key was given.
    func problems(given places: [String: RecipePlace]) -> [RecipeProblem] {
        var checks = RecipeChecks(places: places)
        checkRanges(&checks)
        // What follows divides by these.
        if checks.problems.isEmpty {
            checkAttention(&checks)
            checkRun(&checks)
        }
        return checks.problems
    }

    private func checkRanges(_ checks: inout RecipeChecks) {
        let sizes = 1...Self.largestSize
        checks.require("model.hidden_size", model.hiddenSize, in: sizes)
        checks.require("model.layers", model.layers, in: 1...4096)
        checks.require("model.heads", model.heads, in: sizes)
        checks.require("model.kv_heads", model.kvHeads, in: sizes)
        checks.require("model.head_width", model.headWidth, in: sizes)
        checks.require("model.latent_heads", model.latentHeads, in: sizes)
        checks.require("model.latent_width", model.latentWidth, in: sizes)
        checks.require("model.rope_width", model.ropeWidth, in: sizes)
        checks.require("model.query_rank", model.queryRank, in: 0...Self.largestSize)
        checks.require("model.feed_forward_width", model.feedForwardWidth, in: sizes)
        checks.require("model.vocabulary", model.vocabulary, in: sizes)
        checks.require("model.rope_theta", model.ropeTheta, "a number above 0") { $0 > 0 }
        checks.require("model.norm_epsilon", model.normEpsilon, "a number above 0") { $0 > 0 }
        checks.require("model.init_std", model.initStd, "a number above 0") { $0 > 0 }

        checks.require("data.sequence_length", data.sequenceLength, in: sizes)
        checks.require("data.batch_size", data.batchSize, in: 1...(1 << 20))
        checks.require("data.accumulation", data.accumulation, in: 1...(1 << 20))
        checks.require("data.validation_fraction", data.validationFraction, "a number from 0 to below 1") {
            $0 >= 0 && $0 < 1
        }
        checks.require("data.train_vocabulary", data.trainVocabulary, in: 257...Self.largestSize)

        checks.require("optimizer.learning_rate", optimizer.learningRate, "a number above 0") { $0 > 0 }
        let betas = optimizer.betas
        if betas.count != 2 || betas.contains(where: { $0 < 0 || $0 >= 1 }) {
            checks.add("optimizer.betas", "two numbers from 0 to below 1", betas.yaml)
        }
        checks.require("optimizer.epsilon", optimizer.epsilon, "a number above 0") { $0 > 0 }
        checks.require("optimizer.weight_decay", optimizer.weightDecay, "a number of at least 0") { $0 >= 0 }
        checks.require("optimizer.clip", optimizer.clip, "a number of at least 0") { $0 >= 0 }
        checks.require("schedule.warmup_steps", schedule.warmupSteps, in: 0...(1 << 40))
        checks.require("schedule.min_ratio", schedule.minRatio, "a number from 0 to 1") { $0 >= 0 && $0 <= 1 }
        checks.require("schedule.decay_fraction", schedule.decayFraction, "a number from 0 to 1") { $0 >= 0 && $0 <= 1 }

        checks.require("training.steps", training.steps, in: 1...(1 << 40))
        checks.require("training.tokens", training.tokens, in: 1...(1 << 60))
        checks.require("training.seed", training.seed, in: 0...Int.max)
        checks.require("training.evaluate_every", training.evaluateEvery, in: 0...(1 << 40))
        checks.require("training.evaluate_windows", training.evaluateWindows, in: 1...(1 << 40))
        checks.require("training.checkpoint_every", training.checkpointEvery, in: 0...(1 << 40))
        checks.require("training.patience", training.patience, in: 0...(1 << 40))
        checks.require("training.keep_checkpoints", training.keepCheckpoints, in: 1...(1 << 20))
        checks.require("training.log_every", training.logEvery, in: 1...(1 << 40))
        checks.require("training.spike_threshold", training.spikeThreshold, "a number of at least 0") { $0 >= 0 }
        checks.require("training.peak_flops", training.peakFlops ?? 1, "a number above 0") { $0 > 0 }
        if compare.attention.isEmpty { checks.add("compare.attention", "at least one variant", "none") }
        if Set(compare.attention).count < compare.attention.count {
            checks.add("compare.attention", "each variant once", compare.attention.yaml)
        }
        if compare.seeds.isEmpty || compare.seeds.contains(where: { $0 < 0 }) {
            checks.add("compare.seeds", "at least one integer, none below 0", compare.seeds.yaml)
        }
        if Set(compare.seeds).count < compare.seeds.count {
            checks.add("compare.seeds", "each seed once", compare.seeds.yaml)
        }
    }

    private func checkAttention(_ checks: inout RecipeChecks) {
        let m = model
        if m.headWidth == nil, m.hiddenSize % m.heads != 0 {
            checks.add("model.heads", "a divisor of hidden_size \(m.hiddenSize) where head_width is null", "\(m.heads)")
            return
        }
        let headWidth = m.resolvedHeadWidth
        switch m.attention {
        case .mha, .mqa, .gqa, .gta:
            if m.heads % m.resolvedKVHeads != 0 {
                checks.add(
                    "model.kv_heads", "a divisor of heads \(m.heads)",
                    "\(m.resolvedKVHeads)" + (m.kvHeads == nil ? ", the default" : ""))
            }
        case .mla, .gla, .glaQ:
            if m.heads % m.resolvedLatentHeads != 0 {
                checks.add("model.latent_heads", "a divisor of heads \(m.heads)", "\(m.resolvedLatentHeads)")
            }
        }
        let rope = m.resolvedRopeWidth
        if rope < 2 || rope % 2 != 0 {
            let key = m.ropeWidth == nil || rope == headWidth ? "model.head_width" : "model.rope_width"
            checks.add(
                key, "an even number of rotated elements, at least 2", "\(rope) (of a head width of \(headWidth))")
        } else if m.attention == .gta, rope >= headWidth {
            checks.add("model.rope_width", "less than the head width \(headWidth) for gta", "\(rope)")
        }
        if m.attention == .glaQ {
            if let rank = m.resolvedQueryRank, rank % m.latentHeads == 0, rank > 0 {
                // The query latent is split evenly.
            } else {
                checks.add(
                    "model.query_rank", "a multiple of latent_heads \(m.latentHeads) above 0 for gla_q",
                    "\(m.resolvedQueryRank ?? 0)")
            }
        }
    }

    private func checkRun(_ checks: inout RecipeChecks) {
        if training.steps != nil, training.tokens != nil {
            checks.add("training.tokens", "steps or tokens, not both", "both")
        }
        if resolvedWarmupSteps > resolvedSteps {
            checks.add("schedule.warmup_steps", "at most the run's \(resolvedSteps) steps", "\(resolvedWarmupSteps)")
        }
        if schedule.kind == .wsd {
            let decay = (Double(resolvedSteps) * schedule.decayFraction).rounded()
            if Double(resolvedWarmupSteps) + decay > Double(resolvedSteps) {
                checks.add(
                    "schedule.decay_fraction", "warm-up and decay within the run's \(resolvedSteps) steps",
                    "\(resolvedWarmupSteps) + \(Int(decay)) steps")
            }
        }
        checkReward(&checks)
        checkPolicyGradient(&checks)
        if resolvedTask.isCrossEntropy { checkTextData(&checks) } else { checkNoTextData(&checks) }
        if model.from != nil {
            for key in changedKeys(of: "model") where key != "model.from" {
                checks.add(key, "nothing, since the model of model.from has its own", "a value")
            }
        }
    }

    /// Keys of a section that do not have their default.
    func changedKeys(of section: String) -> [String] {
        let defaults = Recipe()
        return Self.fields.filter { $0.section == section && $0.yaml(self) != $0.yaml(defaults) }.map(\.path)
    }

    /// Rewards and preferences have data of their own.
    private func checkNoTextData(_ checks: inout RecipeChecks) {
        let textKeys = [
            "path", "text", "validation_text", "validation_fraction", "field", "separator", "tokenizer",
            "train_vocabulary", "chat", "chat_validation", "across_documents",
        ]
        let unread = Set(textKeys.map { "data.\($0)" })
        for key in changedKeys(of: "data") where unread.contains(key) {
            checks.add(key, "nothing, since the task \(resolvedTask.rawValue) does not read it", "a value")
        }
        if training.tokens != nil {
            checks.add("training.tokens", "steps, since sequences have lengths of their own", "tokens")
        }
    }

    private func checkTextData(_ checks: inout RecipeChecks) {
        if data.path != nil, !data.text.isEmpty {
            checks.add("data.text", "path or text, not both", "both")
        }
        if task == .pretrain, !data.chat.isEmpty {
            checks.add("data.chat", "text for the task pretrain", "conversations")
        }
        if task == .sft, data.chat.isEmpty { checks.add("data.chat", "conversations for the task sft", "none") }
        if !data.chat.isEmpty, data.path != nil || !data.text.isEmpty {
            checks.add("data.chat", "conversations or text, not both", "both")
        }
        if data.chat.isEmpty, !data.chatValidation.isEmpty {
            checks.add("data.chat_validation", "conversations in data.chat too", "none")
        }
        if data.path == nil, data.text.isEmpty, data.chat.isEmpty {
            checks.add("data.path", "a prepared folder, or files in data.text or data.chat", "none")
        }
        if !data.text.isEmpty {
            if data.tokenizer != nil, data.trainVocabulary != nil {
                checks.add("data.train_vocabulary", "a tokenizer or a vocabulary to train, not both", "both")
            }
            if data.tokenizer == nil, data.trainVocabulary == nil, model.from == nil {
                checks.add("data.tokenizer", "a tokenizer, or train_vocabulary for the text", "neither")
            }
        }
    }
}

/// Gathers problems.
struct RecipeChecks {
    var problems: [RecipeProblem] = []
    let places: [String: RecipePlace]

    mutating func add(_ key: String, _ expected: String, _ found: String) {
        problems.append(.impossible(place: places[key] ?? .byDefault, key: key, expected: expected, found: found))
    }

    mutating func require(_ key: String, _ value: Int?, in range: ClosedRange<Int>) {
        guard let value, !range.contains(value) else { return }
        let expected =
            range.upperBound == .max
            ? "an integer of at least \(range.lowerBound)"
            : "an integer from \(range.lowerBound) to \(range.upperBound)"
        add(key, expected, "\(value)")
    }

    mutating func require(_ key: String, _ value: Double, _ expected: String, _ holds: (Double) -> Bool) {
        if !holds(value) { add(key, expected, "\(value)") }
    }
}
