extension Recipe {
    /// The trainer's numbers.
    /// - Parameters:
    ///   - steps: of the run, where the recipe says neither steps nor tokens; nil for the recipe's default.
    ///   - patience: where the recipe says none.
    public func trainerSettings(steps: Int? = nil, patience: Int? = nil) -> Trainer.Settings {
        var adam = AdamW.Settings()
        adam.betas = (Float(optimizer.betas[0]), Float(optimizer.betas[1]))
        adam.epsilon = Float(optimizer.epsilon)
        adam.weightDecay = Float(optimizer.weightDecay)
        adam.clip = Float(optimizer.clip)
        let isOpen = training.steps == nil && training.tokens == nil
        let total = isOpen ? steps ?? resolvedSteps : resolvedSteps
        return Trainer.Settings(
            steps: total, optimizer: adam,
            schedule: LearningRateSchedule(
                peak: optimizer.learningRate, kind: schedule.kind,
                warmupSteps: schedule.warmupSteps ?? min(100, total / 10), totalSteps: total,
                minRatio: schedule.minRatio, decayFraction: schedule.decayFraction),
            evaluateEvery: training.evaluateEvery, checkpointEvery: training.checkpointEvery,
            spikeThreshold: training.spikeThreshold, patience: training.patience ?? patience)
    }
}
