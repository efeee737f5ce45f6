import ApusTraining

/// Measurements of a policy on prompts that it does not learn from.
extension PolicyGradientObjective {
    /// What the initial policy gives: the numbers to normalise rewards with, and the figures that later ones are held against.
    func measureInitialPolicy() async throws {
        try await refreshEngine()
        let settings = materials.settings
        if settings.normalizationPrompts > 0 {
            let order = PromptOrder(
                count: materials.prompts.count, seed: DrawSeeds.seed(materials.seed, .normalization, 0))
            let prompts = (0..<min(settings.normalizationPrompts, materials.prompts.count)).map { order[$0] }
            let asked = prompts.map { materials.prompts[$0] }
            let drawn = try await draw(asked, samples: settings.normalizationSamples, .normalization)
            let rewards = try materials.reward.checkedRewards(of: groups(asked, drawn))
            try shaping.normalize(by: rewards, prompts: prompts, of: materials.prompts.count)
            progress.normalization = (shaping.mean, shaping.deviation)
        }
        if !materials.heldOut.isEmpty { progress.evaluations = [try await evaluation(step: 0)] }
    }

    /// See `TrainingObjective`: the same seeds at every evaluation. `reward_hacking` is 1 where
    /// ``PolicyEvaluation/hasParted(_:)``.
    public func evaluate() async throws -> TrainingEvaluation? {
        guard !materials.heldOut.isEmpty else { return nil }
        try await refreshEngine()
        let found = try await evaluation(step: stepsMade)
        progress.evaluations.append(found)
        return report(found)
    }

    private func draw(
        _ prompts: [PolicyPrompt], samples: Int, _ purpose: DrawSeeds.Purpose
    ) async throws -> [[Rollout]] {
        try await engine.draw(
            prompts.enumerated().map { place, prompt in
                RolloutRequest(
                    prompt: prompt.index, tokens: prompt.tokens, samples: samples,
                    seed: DrawSeeds.seed(materials.seed, purpose, place))
            })
    }

    private func evaluation(step: Int) async throws -> PolicyEvaluation {
        let held = materials.heldOut
        let drawn = try await draw(held, samples: materials.settings.evaluationSamples, .evaluation)
        func estimate(_ reward: any RewardFunction, shaped: Bool) throws -> PolicyEvaluation.Estimate {
            let found = try reward.checkedRewards(of: groups(held, drawn))
            return PolicyEvaluation.Estimate(
                byPrompt: held.indices.map { place in
                    var rewards = found[place]
                    if shaped { rewards = shaping.shaped(rewards, prompt: place, of: held.count) }
                    return rewards.reduce(0, +) / Double(rewards.count)
                })
        }
        let outputs = drawn.joined()
        var result = PolicyEvaluation(
            step: step, proxy: try estimate(materials.reward, shaped: true),
            groundTruth: try materials.groundTruth.map { try estimate($0, shaped: false) },
            length: Double(outputs.reduce(0) { $0 + $1.tokens.count }) / Double(outputs.count))
        if let reference = materials.reference {
            let sequences = zip(held, drawn).flatMap { prompt, outputs in outputs.map { (prompt.tokens, $0.tokens) } }
            let under = PolicyForward.figures(
                reference, sequences.map { (prompt: $0.0, tokens: $0.1) },
                microBatchTokens: materials.settings.microBatchTokens)
            try reference.operations.backend.check()
            let sums = zip(outputs, under).map { output, reference in
                zip(output.logProbabilities, reference.logProbabilities).reduce(0.0) {
                    $0 + Double($1.0) - Double($1.1)
                }
            }
            result.kl = sums.reduce(0, +) / Double(sums.count)
        }
        return result
    }

    private func report(_ found: PolicyEvaluation) -> TrainingEvaluation {
        let initial = progress.evaluations[0]
        let proxy = found.proxy.mean
        var metrics = [
            TrainingMetric("loss", -(found.groundTruth?.mean ?? proxy)), TrainingMetric("reward", proxy, isShown: true),
            TrainingMetric("reward_increase", proxy - initial.proxy.mean),
        ]
        if let truth = found.groundTruth, let before = initial.groundTruth {
            metrics.append(TrainingMetric("ground_truth", truth.mean, isShown: true))
            metrics.append(TrainingMetric("ground_truth_increase", truth.mean - before.mean))
            let parted = PolicyEvaluation.hasParted(progress.evaluations)
            metrics.append(TrainingMetric("reward_hacking", parted ? 1 : 0, isShown: parted))
        }
        if let kl = found.kl { metrics.append(TrainingMetric("kl", kl, isShown: true)) }
        metrics.append(TrainingMetric("length", found.length))
        return TrainingEvaluation(
            metrics: metrics, count: materials.heldOut.count, unit: "prompts",
            score: found.groundTruth?.mean ?? proxy)
    }
}
