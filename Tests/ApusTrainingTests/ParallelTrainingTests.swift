import ApusAttention
import ApusDistributed
import ApusModels
import ApusSynchronization
import ApusTensor
import ApusTraining
import Testing

/// Training on several ranks (threads here) against one process.
@Suite struct ParallelTrainingTests {
    private static func base(_ kvHeads: Int) -> DecoderConfiguration {
        DecoderConfiguration(
            architecture: .llama, vocabularySize: 61, hiddenSize: 32, layerCount: 2, queryHeads: 4, kvHeads: kvHeads,
            headWidth: 8, feedForwardWidth: 48, rotary: RotaryConfiguration(width: 8), maxPositions: 64)
    }

    private static func latent(_ heads: Int, splits: Bool = false) -> DecoderConfiguration {
        var configuration = base(4)
        configuration.rotary = RotaryConfiguration(width: 4)
        configuration.attention = .latent(
            LatentConfiguration(
                latentHeads: heads, latentWidth: 12, rotaryWidth: 4, contentWidth: 8, valueWidth: 8, queryRank: 12,
                splitsQueryLatent: splits, hasDownBias: true, hasUpBias: true))
        return configuration
    }

    static let variants: [String: DecoderConfiguration] = {
        var tied = base(2)
        tied.rotary = RotaryConfiguration(width: 4)
        tied.attention = .tied(rotaryWidth: 4)
        var qwen = base(2)
        qwen.queryKeyNorm = true
        qwen.attentionBias = true
        qwen.attentionOutputBias = true
        qwen.tiesEmbeddings = true
        return [
            "mha": base(4), "mqa": base(1), "gqa": base(2), "gqa with norms and biases": qwen, "gta": tied,
            "mla": latent(1), "gla": latent(2), "gla_q": latent(2, splits: true),
        ]
    }()

    static let names = variants.keys.sorted()

    /// Sequences of unequal lengths, with targets that do not count.
    private struct Batches: BatchSource {
        let evaluationBatches = 3

        func batch(step: Int, part: Int) -> PackedBatch { make(step * 7 + part * 3 + 1) }
        func evaluationBatch(_ index: Int) -> PackedBatch { make(1000 + index) }

        private func make(_ seed: Int) -> PackedBatch {
            let starts = [0, 9, 9, 20, 26, 40]
            // A text that can be learnt: most tokens follow from the one before.
            var tokens: [Int32] = []
            for index in 0..<40 { tokens.append(Int32((seed + index * (1 + seed % 2)) % 61)) }
            let targets = tokens.enumerated().map { $0.offset % 5 == 4 ? -1 : ($0.element + 1) % 61 }
            return PackedBatch(tokens: tokens, targets: targets, starts: starts)
        }
    }

    private static func settings(_ steps: Int) -> Trainer.Settings {
        Trainer.Settings(
            steps: steps, optimizer: AdamW.Settings(),
            schedule: LearningRateSchedule(
                peak: 3e-3, kind: .cosine, warmupSteps: 2, totalSteps: steps, minRatio: 0.1, decayFraction: 0.2))
    }

    private struct Layout: Sendable {
        var replicas: Int
        var cut: Int
    }

    private static func losses(
        _ name: String, _ layout: Layout, steps: Int, checkpointing: Bool = false, likeGPUs: Bool = false
    ) throws -> [[Double]] {
        try ThreadedRanks.run(layout.replicas * layout.cut) { world in
            let configuration = variants[name]!
            let operations = DifferentiableOperations(on: CPUBackend(threads: 1))
            let cut = layout.cut > 1 ? try world.split(color: world.rank / layout.cut, key: world.rank) : nil
            var replicas = layout.replicas > 1 ? try world.split(color: world.rank % layout.cut, key: world.rank) : nil
            let followed = likeGPUs ? replicas.map { FollowedRanks($0) } : nil
            replicas = followed ?? replicas
            let model = try TrainableDecoder(
                initializing: configuration, seed: 5, deviation: 0.2,
                ranks: cut.map { try TensorParallel(configuration, over: $0) }, on: operations)
            model.checkpointsLayers = checkpointing
            let share = replicas.map { BatchShare(of: $0) } ?? .whole
            let objective = CrossEntropyObjective(model, data: Batches(), accumulation: 2, share: share)
            let trainer = Trainer(
                model: model, objective: objective, settings: settings(steps), replicas: replicas)
            var result: [Double] = []
            for _ in 0..<steps {
                let report = try trainer.makeStep(objective.microBatches(step: trainer.step))
                result += [report.loss, report.gradientNorm]
                #expect(followed.map { $0.open == 0 && $0.started > 0 } ?? true)
            }
            result.append(try objective.evaluate()?.score ?? 0)
            return result
        }
    }

    private static func check(
        _ name: String, _ layout: Layout, checkpointing: Bool = false, likeGPUs: Bool = false
    ) throws {
        let steps = 50
        let alone = try losses(name, Layout(replicas: 1, cut: 1), steps: steps)[0]
        let ranks = try losses(name, layout, steps: steps, checkpointing: checkpointing, likeGPUs: likeGPUs)
        #expect(alone[2 * steps - 2] < 0.7 * alone[0], "nothing was learnt: \(alone[0]) to \(alone[2 * steps - 2])")
        for rank in ranks {
            for (found, expected) in zip(rank, alone) { #expect(abs(found - expected) <= 1e-3 * max(1, abs(expected))) }
        }
    }

    @Test(arguments: names) func replicasLearnWhatOneProcessLearns(_ name: String) throws {
        try Self.check(name, Layout(replicas: 2, cut: 1))
    }

    @Test(arguments: names, [2, 4]) func ranksOfOneModelLearnWhatOneProcessLearns(_ name: String, _ ranks: Int) throws {
        try Self.check(name, Layout(replicas: 1, cut: ranks))
    }

    @Test(arguments: ["gqa", "mla", "gla"]) func replicasOfCutModelsLearnTheSame(_ name: String) throws {
        try Self.check(name, Layout(replicas: 2, cut: 2))
        try Self.check(name, Layout(replicas: 3, cut: 1), checkpointing: true)
        try Self.check(name, Layout(replicas: 1, cut: 2), checkpointing: true)
    }

    @Test(arguments: ["gqa", "gla"]) func replicasThatOnlyTheDeviceFollowsLearnTheSame(_ name: String) throws {
        try Self.check(name, Layout(replicas: 2, cut: 1), likeGPUs: true)
        try Self.check(name, Layout(replicas: 3, cut: 1), checkpointing: true, likeGPUs: true)
    }

    @Test(arguments: [1, 2, 3]) func theCheckOfRanksHolds(_ ranks: Int) throws {
        let outcomes = try ThreadedRanks.run(ranks) { world in
            try RankTrainingCheck(FollowedRanks(world), on: CPUBackend(threads: 1)).run(.gla)
        }
        for outcome in outcomes { #expect(outcome.isExpected, "\(outcome)") }
    }

    @Test(arguments: RecipeAttention.allCases) func theCheckOfCutModelsHolds(_ attention: RecipeAttention) throws {
        let outcomes = try ThreadedRanks.run(2) { world in
            try RankTrainingCheck(FollowedRanks(world), on: CPUBackend(threads: 1)).run(attention, sharing: .model)
        }
        for outcome in outcomes { #expect(outcome.isExpected, "\(outcome)") }
    }
}

/// Ranks over memory of the host that are followed as those of GPUs are: a collective is nowhere done before the device follows
/// it or it is waited for, and each is waited for once.
private final class FollowedRanks: Communicator {
    private let base: any Communicator
    private let counts = Locked((started: 0, waited: 0))

    init(_ base: any Communicator) { self.base = base }

    var rank: Int { base.rank }
    var size: Int { base.size }
    var onHost: any Communicator { base }
    var traffic: CommunicationTraffic { base.traffic }
    var started: Int { counts.withLock { $0.started } }
    /// Collectives that nobody has waited for.
    var open: Int { counts.withLock { $0.started - $0.waited } }

    func run(_ collective: Collective) throws(CommunicationError) { try start(collective).wait() }

    func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective {
        counts.withLock { $0.started += 1 }
        return Pending(collective, self)
    }

    func split(color: Int, key: Int) throws(CommunicationError) -> any Communicator {
        FollowedRanks(try base.split(color: color, key: key))
    }

    private final class Pending: PendingCollective {
        private let collective: Collective
        private let ranks: FollowedRanks
        private let isDone = Locked(false)

        init(_ collective: Collective, _ ranks: FollowedRanks) {
            self.collective = collective
            self.ranks = ranks
        }

        func follow() throws(CommunicationError) -> Bool {
            try perform()
            return false
        }

        func wait() throws(CommunicationError) {
            try perform()
            ranks.counts.withLock { $0.waited += 1 }
        }

        private func perform() throws(CommunicationError) {
            let isFirst = isDone.withLock { isDone in
                defer { isDone = true }
                return !isDone
            }
            if isFirst { try ranks.base.run(collective) }
        }
    }
}
