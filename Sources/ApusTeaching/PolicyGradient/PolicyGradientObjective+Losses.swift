import ApusTensor
import ApusTraining

/// The losses of a step.
extension PolicyGradientObjective {
    /// The micro-batches of an update on some groups. Each output's factor holds for the whole update, so that the sum over
    /// micro-batches is the update's loss.
    /// - Parameter current: the engine's log-probabilities, where ratios compare those.
    func parts(of groups: [[TrainingOutput]], current: [[[Float]]]?, isFirstUpdate: Bool) -> [MicroBatch] {
        let settings = materials.settings
        let tokens = groups.joined().reduce(0) { $0 + $1.tokens.count }
        let weighted = groups.enumerated().flatMap { place, group in
            group.enumerated().map { index, output -> WeightedOutput in
                let now = current?[place][index]
                // Prompts count alike, however many outputs they have.
                let share = 1 / (Double(groups.count) * Double(group.count))
                switch (materials.task, settings.average) {
                case (.ppo, _), (.grpo, .token): return (output, now, 1 / Double(tokens))
                case (.grpo, .sequence): return (output, now, share / Double(output.tokens.count))
                case (.grpo, .constant): return (output, now, share / Double(settings.maxTokens))
                default: return (output, now, share)
                }
            }
        }
        return PolicyForward.parts(weighted, tokens: settings.microBatchTokens) {
            materials.prompts[$0.output.prompt].tokens.count + $0.output.tokens.count
        }.map { part in
            let forward = PolicyForward(
                part.map { (materials.prompts[$0.output.prompt].tokens, $0.output.tokens) })
            return MicroBatch(weight: 1, tokens: forward.tokens.count) { [self] in
                loss(part, forward, isFirstUpdate: isFirstUpdate)
            }
        }
    }

    /// An output, the engine's log-probabilities of it where ratios compare those, and its factor.
    private typealias WeightedOutput = (output: TrainingOutput, now: [Float]?, weight: Double)

    private func loss(
        _ part: [WeightedOutput], _ forward: PolicyForward, isFirstUpdate: Bool
    ) -> Tensor {
        let settings = materials.settings
        let isGroupRelative = materials.task == .grpo
        let surrogate = PolicySurrogate(
            ratio: isGroupRelative || materials.task == .ppo ? .token : .sequence,
            clip: (settings.clip, settings.clipHigh ?? settings.clip), klWeight: settings.kl,
            outputs: part.map {
                PolicySurrogate.Output(
                    old: $0.now == nil ? $0.output.old : $0.output.drawn, new: $0.now,
                    reference: isGroupRelative ? $0.output.reference : nil,
                    advantages: $0.output.advantages, weight: $0.weight)
            })
        let hidden = forward.hidden(model)
        let (policy, logProbabilities) = model.operations.crossEntropy(
            hidden, head: model.headWeight, targets: forward.targets, surrogate.loss { self.figures.surrogate.add($0) })
        if isFirstUpdate {
            let drawn = part.flatMap(\.output.drawn)
            let compared = part[0].now == nil ? logProbabilities : part.flatMap { $0.now ?? [] }
            figures.differences += zip(drawn, compared).map { abs($0 - $1) }
        }
        guard let valueHead else { return policy }
        let values = valueHead(hidden, on: model.operations)
        let (value, derivatives) = ValueHead.loss(
            values: values.floats, old: part.flatMap { $0.output.values ?? [] },
            returns: part.flatMap { $0.output.returns ?? [] }, clip: settings.valueClip,
            weight: settings.valueWeight * part[0].weight)
        figures.valueLoss += value
        return model.operations.scalar(
            policy.floats[0] + Float(value),
            of: [
                (policy, gradient: Tensor([1], shape: policy.shape)),
                (values, gradient: Tensor(derivatives, shape: values.shape)),
            ])
    }
}

extension PolicySurrogate.Figures {
    /// Adds what another pass found.
    mutating func add(_ other: Self) {
        ratios += other.ratios
        clipped += other.clipped
        ratioSum += other.ratioSum
        klSum += other.klSum
        tokens += other.tokens
    }
}
