import ApusTensor
import ApusTraining

/// Drawing outputs, rewarding them, and what is learnt from each.
extension PolicyGradientObjective {
    /// The outputs of one prompt with their shaped rewards.
    struct Group {
        var prompt: Int
        var outputs: [Rollout]
        var rewards: [Double]
    }

    /// Times that prompts are drawn in place of those without variance.
    private static let resampleRounds = 4

    /// Draws a rollout and computes what its updates need.
    func collect(_ number: Int, step: Int) async throws -> PolicyBatch {
        var seconds = (rollout: 0.0, reward: 0.0)
        let wanted = materials.settings.promptsPerRollout
        let first = try await draw(wanted, &seconds)
        var groups = first
        if materials.settings.zeroVariance != .keep {
            groups.removeAll { GroupSpread.isZero($0.rewards) }
            if materials.settings.zeroVariance == .resample {
                for _ in 0..<Self.resampleRounds where groups.count < wanted {
                    groups += try await draw(wanted - groups.count, &seconds).filter { !GroupSpread.isZero($0.rewards) }
                }
            }
            guard groups.count >= materials.settings.minibatches else {
                throw PolicyGradientError.nothingToLearn(step: step + 1, groups: wanted)
            }
        }
        let start = ContinuousClock.now
        let outputs = try learn(from: groups)
        report(first, outputs, seconds, preparation: (ContinuousClock.now - start).inSeconds)
        return PolicyBatch(number: number, groups: outputs)
    }

    /// Takes the next prompts and draws their outputs.
    private func draw(_ count: Int, _ seconds: inout (rollout: Double, reward: Double)) async throws -> [Group] {
        let settings = materials.settings
        let order = PromptOrder(count: materials.prompts.count, seed: materials.seed)
        let places = progress.position..<progress.position + count
        progress.position += count
        let adapts = settings.allocation == .variance
        let pilot = adapts ? settings.samples / 2 : settings.samples
        var groups = try await draw(
            places.map { place in
                (order[place], DrawSeeds.seed(materials.seed, .rollout, place), pilot)
            }, &seconds)
        guard adapts else { return groups }
        let further = GroupSpread.allocation(
            of: count * (settings.samples - pilot),
            deviations: groups.map { GroupSpread.variance($0.rewards).squareRoot() })
        let more = places.indices.filter { further[$0 - places.lowerBound] > 0 }
        let extra = try await draw(
            more.map { place in
                let seed = DrawSeeds.seed(materials.seed, .rollout, place) &+ UInt64(pilot)
                return (order[place], seed, further[place - places.lowerBound])
            }, &seconds)
        for (place, group) in zip(more, extra) {
            groups[place - places.lowerBound].outputs += group.outputs
            groups[place - places.lowerBound].rewards += group.rewards
        }
        return groups
    }

    private func draw(
        _ wanted: [(prompt: Int, seed: UInt64, samples: Int)], _ seconds: inout (rollout: Double, reward: Double)
    ) async throws -> [Group] {
        let start = ContinuousClock.now
        let drawn = try await engine.draw(
            wanted.map {
                let prompt = materials.prompts[$0.prompt]
                return RolloutRequest(prompt: prompt.index, tokens: prompt.tokens, samples: $0.samples, seed: $0.seed)
            })
        let end = ContinuousClock.now
        defer {
            seconds.rollout += (end - start).inSeconds
            seconds.reward += (ContinuousClock.now - end).inSeconds
        }
        let raw = try materials.reward.checkedRewards(
            of: groups(wanted.map { materials.prompts[$0.prompt] }, drawn))
        return zip(zip(wanted, drawn), raw).map { drawn, raw in
            let (request, outputs) = drawn
            var rewards = shaping.shaped(raw, prompt: request.prompt, of: materials.prompts.count)
            for (index, output) in outputs.enumerated() where !output.isComplete {
                rewards[index] -= materials.settings.incompletePenalty
            }
            return Group(prompt: request.prompt, outputs: outputs, rewards: rewards)
        }
    }

    /// Outputs as rewards take them.
    func groups(_ prompts: [PolicyPrompt], _ drawn: [[Rollout]]) -> [RewardGroup] {
        zip(prompts, drawn).map { RewardGroup(index: $0.index, prompt: $0.prompt, outputs: $1.map(\.text)) }
    }

    /// Log-probabilities, values and advantages of all outputs.
    private func learn(from groups: [Group]) throws -> [[TrainingOutput]] {
        var outputs = groups.map { group in
            group.outputs.map {
                TrainingOutput(prompt: group.prompt, tokens: $0.tokens, drawn: $0.logProbabilities)
            }
        }
        let all = outputs.joined().map { (prompt: materials.prompts[$0.prompt].tokens, tokens: $0.tokens) }
        let limit = materials.settings.microBatchTokens
        let reference = materials.reference.map {
            PolicyForward.figures($0, all, microBatchTokens: limit).map(\.logProbabilities)
        }
        // Several updates compare with the trainer's own arithmetic, so that ratios begin at 1.
        let comparesOwn = updates > 1 && materials.settings.logProbabilities == .trainer
        let own =
            comparesOwn || valueHead != nil
            ? PolicyForward.figures(model, all, microBatchTokens: limit, values: valueHead) : nil
        try model.operations.backend.check()
        var index = 0
        for group in outputs.indices {
            for place in outputs[group].indices {
                outputs[group][place].reference = reference?[index]
                if comparesOwn { outputs[group][place].old = own?[index].logProbabilities }
                if valueHead != nil { outputs[group][place].values = own?[index].values }
                index += 1
            }
        }
        switch materials.task {
        case .ppo: estimateTokens(&outputs, groups)
        default: estimateOutputs(&outputs, groups)
        }
        return outputs
    }

    /// Sum over an output's tokens of log policy - log reference, or each.
    static func divergences(_ output: TrainingOutput) -> [Double] {
        guard let reference = output.reference else { return output.tokens.map { _ in 0 } }
        return zip(output.old ?? output.drawn, reference).map { Double($0) - Double($1) }
    }

    /// RLOO, GRPO and REINFORCE: one advantage for all of an output's tokens.
    private func estimateOutputs(_ outputs: inout [[TrainingOutput]], _ groups: [Group]) {
        let kl = materials.settings.kl
        var penalised = groups.map(\.rewards)
        if materials.task != .grpo {
            for group in outputs.indices {
                for place in outputs[group].indices {
                    penalised[group][place] -= kl * Self.divergences(outputs[group][place]).reduce(0, +)
                }
            }
        }
        let advantages: [[Double]]
        switch materials.task {
        case .rloo: advantages = penalised.map(Advantages.leaveOneOut)
        case .grpo:
            advantages = penalised.map {
                Advantages.groupRelative($0, dividesByDeviation: materials.settings.divideByDeviation)
            }
        default:
            // The mean of all rewards so far (Ahmadian et al. 2024, section 3); of these, where there are none before.
            let sum = penalised.joined().reduce(0, +)
            let count = Double(penalised.joined().count)
            let seen = progress.baseline
            let baseline = seen.count > 0 ? seen.sum / seen.count : sum / count
            progress.baseline = (seen.count + count, seen.sum + sum)
            advantages = penalised.map { $0.map { $0 - baseline } }
        }
        for group in outputs.indices {
            for place in outputs[group].indices {
                let count = outputs[group][place].tokens.count
                outputs[group][place].advantages = Array(repeating: Float(advantages[group][place]), count: count)
            }
        }
    }

    /// PPO: the KL divergence is each token's reward, the reward model's comes with the last; advantages are whitened over the
    /// rollout.
    private func estimateTokens(_ outputs: inout [[TrainingOutput]], _ groups: [Group]) {
        var all: [Double] = []
        for group in outputs.indices {
            for place in outputs[group].indices {
                var rewards = Self.divergences(outputs[group][place]).map { -materials.settings.kl * $0 }
                rewards[rewards.count - 1] += groups[group].rewards[place]
                let (advantages, returns) = Advantages.generalized(
                    rewards: rewards, values: (outputs[group][place].values ?? []).map(Double.init),
                    discount: materials.settings.discount, lambda: materials.settings.lambda)
                outputs[group][place].returns = returns.map { Float($0) }
                all += advantages
            }
        }
        all = Advantages.whitened(all)
        var first = 0
        for group in outputs.indices {
            for place in outputs[group].indices {
                let count = outputs[group][place].tokens.count
                outputs[group][place].advantages = all[first..<first + count].map { Float($0) }
                first += count
            }
        }
    }

    /// What the log says of a rollout.
    private func report(
        _ groups: [Group], _ outputs: [[TrainingOutput]], _ seconds: (rollout: Double, reward: Double),
        preparation: Double
    ) {
        func mean(_ values: some Collection<Double>) -> Double { values.reduce(0, +) / Double(max(values.count, 1)) }
        let variances = groups.map { GroupSpread.variance($0.rewards) }
        let drawn = groups.flatMap(\.outputs)
        let entropies = drawn.flatMap { $0.logProbabilities.map { -Double($0) } }
        figures.metrics = [
            TrainingMetric("reward", mean(groups.flatMap(\.rewards)), isShown: true),
            TrainingMetric("reward_variance_within_prompt", mean(variances)),
            TrainingMetric("reward_std_within_prompt", mean(variances.map { $0.squareRoot() })),
            TrainingMetric(
                "zero_variance_share", Double(groups.count { GroupSpread.isZero($0.rewards) }) / Double(groups.count)),
            TrainingMetric("entropy", mean(entropies)),
            TrainingMetric("length", mean(drawn.map { Double($0.tokens.count) }), isShown: true),
            TrainingMetric("complete_share", Double(drawn.count(where: \.isComplete)) / Double(drawn.count)),
            TrainingMetric("rollout_seconds", seconds.rollout), TrainingMetric("reward_seconds", seconds.reward),
            TrainingMetric("preparation_seconds", preparation),
        ]
        if materials.reference != nil {
            let divergence = mean(outputs.joined().map { Self.divergences($0).reduce(0, +) })
            figures.metrics.append(TrainingMetric("kl", divergence, isShown: true))
        }
    }
}
