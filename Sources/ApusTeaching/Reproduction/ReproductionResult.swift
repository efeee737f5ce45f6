import ApusText
import ApusTraining

/// What the reproduction found.
public struct ReproductionResult: Sendable {
    /// A policy's figures over the steps of one run, as increases over the initial policy.
    public struct Curve: Sendable, Equatable {
        /// The seed.
        public var seed: Int
        /// Steps, from 0.
        public var steps: [Int]
        /// The normalised reward that it learns from.
        public var proxy: [Double]
        /// The ground truth.
        public var groundTruth: [Double]
        /// KL divergence from the initial policy.
        public var kl: [Double]

        /// Reads the log of a run.
        init(log path: String, seed: Int) throws {
            self.seed = seed
            (steps, proxy, groundTruth, kl) = ([0], [0], [0], [0])
            for entry in try RunLog.read(path) {
                guard let step = entry["step"]?.intValue,
                    let reward = entry["validation_reward_increase"]?.doubleValue,
                    let truth = entry["validation_ground_truth_increase"]?.doubleValue
                else { continue }
                steps.append(step)
                proxy.append(reward)
                groundTruth.append(truth)
                kl.append(entry["validation_kl"]?.doubleValue ?? 0)
            }
        }
    }

    /// A teacher's runs by one estimator.
    public struct Runs: Sendable {
        /// rloo or grpo.
        public var estimator: String
        /// The policy that learns.
        public var policy: String
        /// The teacher's place among ``ReproductionResult/teachers``.
        public var teacher: Int
        /// A run each seed.
        public var curves: [Curve]

        /// Steps after which every run was measured, from 0.
        public var steps: [Int] {
            (curves.first?.steps ?? []).filter { step in curves.allSatisfy { $0.steps.contains(step) } }
        }

        /// The figures of all runs after a step.
        public func values(_ key: KeyPath<Curve, [Double]>, at step: Int) -> [Double] {
            curves.compactMap { curve in curve.steps.firstIndex(of: step).map { curve[keyPath: key][$0] } }
        }
    }

    /// The teachers' names.
    public var teachers: [String]
    /// Whether each is one of the paper's six.
    public var isOfPaper: [Bool]
    /// Their figures before any policy gradient, by policy.
    public var evaluations: [(policy: String, evaluation: RewardEvaluation)]
    /// What each taught.
    public var runs: [Runs]
    /// What was done, in words.
    public var setting: [(name: String, value: String)]

    /// Properties of a teacher that may say how well it teaches.
    static let properties: [(name: String, value: @Sendable (RewardEvaluation.Quality) -> Double?)] = [
        ("variance", { $0.variance.value }), ("mean Var^(1/2)", { $0.meanSquareRoot.value }),
        ("mean Var^(1/3)", { $0.meanCubeRoot.value }), ("on-policy accuracy", { $0.onPolicyAccuracy?.value }),
        ("off-policy accuracy", { $0.offPolicyAccuracy?.value }), ("variance and accuracy", { $0.average?.value }),
    ]

    /// A correlation of a property with what was learnt.
    struct Link: Sendable {
        var property: String
        var pearson: Double?
        var spearman: Double?
    }

    /// An estimator and a policy that runs have in common.
    struct Group: Equatable, Sendable {
        var estimator: String
        var policy: String
    }

    /// Estimators and policies that were run, in order.
    var groups: [Group] {
        var result: [Group] = []
        for run in runs {
            let group = Group(estimator: run.estimator, policy: run.policy)
            if !result.contains(group) { result.append(group) }
        }
        return result
    }

    func runs(of group: Group) -> [Runs] {
        runs.filter { $0.estimator == group.estimator && $0.policy == group.policy }
    }

    /// Steps after which all runs of a group were measured, the start left out.
    func steps(of group: Group) -> [Int] {
        let found = runs(of: group).map(\.steps)
        return (found.first ?? []).filter { step in step > 0 && found.allSatisfy { $0.contains(step) } }
    }

    /// Correlations of each property with the increases after a step, over teachers.
    /// - Parameter ofPaper: only over the paper's six.
    func links(_ key: KeyPath<Curve, [Double]>, _ group: Group, at step: Int, ofPaper: Bool) -> [Link] {
        guard let evaluation = evaluations.first(where: { $0.policy == group.policy })?.evaluation else { return [] }
        let chosen = runs(of: group).filter { !ofPaper || isOfPaper[$0.teacher] }
        let increases = chosen.map { Self.mean($0.values(key, at: step)) }
        return Self.properties.map { property in
            let values = chosen.compactMap { property.value(evaluation.qualities[$0.teacher]) }
            guard values.count == increases.count, values.count > 2 else { return Link(property: property.name) }
            return Link(
                property: property.name, pearson: Correlation.pearson(values, increases),
                spearman: Correlation.spearman(values, increases))
        }
    }

    static func mean(_ values: [Double]) -> Double { values.reduce(0, +) / Double(max(values.count, 1)) }

    /// Unbiased standard deviation; nil for a single value.
    static func deviation(_ values: [Double]) -> Double? {
        guard values.count > 1 else { return nil }
        let mean = mean(values)
        return (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count - 1)).squareRoot()
    }
}
