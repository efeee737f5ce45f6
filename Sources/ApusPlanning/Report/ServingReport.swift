import ApusReport
import ApusText

/// A serving plan with the simulations of its workloads, for people and programs.
public struct ServingReport: Sendable {
    /// One simulated workload.
    public struct Run: Sendable {
        /// Its name: the concurrency or the rate.
        public let name: String
        /// Requests at once, where they were bounded.
        public let concurrency: Int?
        /// What it gave.
        public let result: SimulationResult

        /// A run.
        public init(name: String, concurrency: Int?, result: SimulationResult) {
            self.name = name
            self.concurrency = concurrency
            self.result = result
        }
    }

    /// One kind of step.
    struct Step {
        let name: String
        let time: StepTime
    }

    /// What the model is called.
    public let model: String
    /// The plan.
    public let plan: ServingPlan
    /// The workload in words.
    public let workload: String
    /// Tokens of a prompt, for the steps that are shown.
    public let promptTokens: Int
    /// The simulations.
    public let runs: [Run]

    /// A report.
    public init(model: String, plan: ServingPlan, workload: String, promptTokens: Int, runs: [Run]) {
        self.model = model
        self.plan = plan
        self.workload = workload
        self.promptTokens = promptTokens
        self.runs = runs
    }

    /// Steps that decode with one sequence, half of the largest batch and all of it, and the first chunk of a prompt.
    var steps: [Step] {
        let context = max(plan.requestTokens - (plan.requestTokens - promptTokens) / 2, 1)
        let most = plan.maxSequences
        let rows = Set([1, max(most / 2, 1), most]).sorted()
        let chunk = min(promptTokens, plan.settings.stepTokens)
        return rows.map {
            let sequences = $0 * plan.layout.groupsInStep
            return Step(
                name: "decode, \(sequences) sequence\(sequences == 1 ? "" : "s") of \(context) tokens",
                time: plan.decodeStep(rows: $0, context: context))
        } + [
            Step(
                name: "prompts, \(chunk * plan.layout.groupsInStep) tokens",
                time: plan.promptStep(tokens: chunk))
        ]
    }

    /// Names and values of the plan.
    var facts: [(name: String, value: String)] {
        let (memory, device) = (plan.memory, plan.roofline.device)
        func gigabytes(_ bytes: Double) -> String { NumberText.fixed(bytes / 1e9, bytes < 1e10 ? 2 : 1) + " GB" }
        let parameters = Double(plan.configuration.parameterCount) / 1e9
        var facts = [
            (
                "model",
                "\(model), \(plan.configuration.variantName), "
                    + "\(NumberText.fixed(parameters, parameters < 10 ? 3 : 1)) B parameters, "
                    + plan.settings.weights.rawValue
            ),
            ("devices", "\(plan.layout.devices) x \(device.name), \(plan.layout.name)"),
            ("weights", "\(gigabytes(memory.weightBytes)) a device"),
            (
                "cache",
                "\(NumberText.grouped(Int(memory.cacheBytesPerToken))) bytes a token and device "
                    + "(\(plan.settings.cacheType.rawValue)), each state on \(memory.duplication) "
                    + "device\(memory.duplication == 1 ? "" : "s") of its group"
            ),
            (
                "room",
                "\(gigabytes(memory.cacheBytes)) a device: \(NumberText.grouped(memory.cacheTokens)) tokens a group"
            ),
            ("largest batch", "\(plan.largestBatch) sequences of \(NumberText.grouped(plan.requestTokens)) tokens"),
        ]
        if let calibration = plan.calibration {
            facts.append(("times of steps", "measured: \(calibration.model) on \(calibration.device)"))
        } else {
            facts.append(("times of steps", "computed from \(device.source)"))
        }
        return facts
    }
}
