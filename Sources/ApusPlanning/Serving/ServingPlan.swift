import ApusAttention
import ApusEngine
import ApusModels
import ApusTensor

/// A model on devices: what it takes of their memory, what bounds its steps, and how it serves a workload.
public struct ServingPlan: Sendable {
    /// What is planned, beside model and devices.
    public struct Settings: Sendable, Hashable {
        /// Dtype of the weights.
        public var weights: DType
        /// Dtype of the cache.
        public var cacheType: DType
        /// Share of the memory that weights, workspace and cache may take.
        public var utilisation = 0.9
        /// Tokens of each group's cache; nil for what fits.
        public var cacheTokens: Int?
        /// Tokens of a cache page.
        public var pageSize = 64
        /// Sequences that each group runs at once; nil for as many as fit with all they will generate, at most 1024.
        public var maxSequences: Int?
        /// Tokens of a step of each group at most.
        public var stepTokens: Int
        /// Prompt tokens of a step in which others decode; nil for no limit.
        public var promptTokensBesideDecoding: Int?
        /// Steps of more tokens leave the last token of a prompt to the next step; nil for no limit.
        public var exactTokens: Int?
        /// Seconds that a request is on its way.
        public var roundTrip = 0.001
        /// Seconds between arrivals of requests that were sent together.
        public var spacing = 0.00025

        /// Settings; steps of at most 8192 tokens by default.
        public init(weights: DType, cacheType: DType = .bf16, stepTokens: Int = 8192) {
            self.weights = weights
            self.cacheType = cacheType
            self.stepTokens = stepTokens
        }
    }

    /// The model.
    public let configuration: DecoderConfiguration
    /// The layout.
    public let layout: ServingLayout
    /// The settings.
    public let settings: Settings
    /// The roofline.
    public let roofline: RooflineCost
    /// Memory of each device.
    public let memory: MemoryPlan
    /// Measured times of steps, in place of the roofline's.
    public let calibration: StepCalibration?
    /// Tokens of the longest request that is planned for.
    public let requestTokens: Int
    /// Sequences that each group runs at once.
    public let maxSequences: Int

    /// A plan.
    /// - Parameter requestTokens: tokens of a typical long request, prompt and output together.
    /// - Throws: ``PlanningError``, ``GeometryError``.
    public init(
        _ configuration: DecoderConfiguration, on device: DeviceFigures, layout: ServingLayout, settings: Settings,
        requestTokens: Int, calibration: StepCalibration? = nil
    ) throws {
        self.configuration = configuration
        self.layout = layout
        self.settings = settings
        self.requestTokens = requestTokens
        self.calibration = calibration
        if calibration != nil, layout.tensorParallel > 1 || layout.sharesFeedForward {
            throw PlanningError.calibration(
                expected: "a layout of single devices, which it was measured on", found: layout.name)
        }
        roofline = try RooflineCost(
            configuration, on: device, layout: layout, weights: settings.weights, cacheType: settings.cacheType)
        let sequences = settings.maxSequences ?? 1024
        memory = try MemoryPlan(
            roofline, utilisation: settings.utilisation, pageSize: settings.pageSize, stepTokens: settings.stepTokens,
            sequences: min(sequences, 1024), cacheTokens: settings.cacheTokens)
        let batch = memory.largestBatch(length: requestTokens)
        guard batch >= 1 else {
            throw PlanningError.requestDoesNotFit(tokens: requestTokens, capacity: memory.cacheTokens)
        }
        maxSequences = min(settings.maxSequences ?? min(batch, 1024), settings.stepTokens)
    }

    /// Sequences of the planned length that all devices hold at once.
    public var largestBatch: Int { memory.largestBatch(length: requestTokens) * layout.dataParallel }

    /// How long steps take.
    public var cost: any StepCost { calibration ?? roofline }

    /// A step of `rows` decoding sequences in each group, each with `context` cached tokens.
    public func decodeStep(rows: Int, context: Int) -> StepTime {
        var work = StepWork()
        for _ in 0..<rows { work.addDecode(context: context, window: roofline.window) }
        return roofline.time(Array(repeating: work, count: layout.groupsInStep))
    }

    /// A step of a prompt's chunk of `tokens` tokens after `cached` others, in each group.
    public func promptStep(tokens: Int, cached: Int = 0) -> StepTime {
        var work = StepWork()
        work.addPrompt(start: cached, count: tokens, window: roofline.window, reachesEnd: true)
        return roofline.time(Array(repeating: work, count: layout.groupsInStep))
    }

    /// Simulates a workload on all devices. Replicas take turns in getting requests, and share a concurrency evenly.
    /// - Throws: ``PlanningError/requestDoesNotFit(tokens:capacity:)``.
    public func simulate(_ workload: ServingWorkload) throws(PlanningError) -> SimulationResult {
        var limits = Scheduler.Limits(
            stepTokens: settings.stepTokens, maxSequences: maxSequences, pages: memory.pages,
            pageSize: settings.pageSize, exactTokens: settings.exactTokens ?? .max)
        limits.promptTokensBesideDecoding = settings.promptTokensBesideDecoding ?? .max
        let replicas = min(layout.replicas, workload.lengths.count, workload.concurrency ?? .max)
        var parts: [SimulationResult] = []
        for replica in 0..<replicas {
            let places = Array(stride(from: replica, to: workload.lengths.count, by: replicas))
            let concurrency = workload.concurrency.map { $0 / replicas + (replica < $0 % replicas ? 1 : 0) }
            let simulation = ServingSimulation(
                workload.part(places, concurrency: concurrency), cost: cost, groups: layout.groupsInStep,
                limits: limits, roundTrip: settings.roundTrip, spacing: settings.spacing)
            parts.append(try simulation.run())
        }
        return parts.count == 1 ? parts[0] : .joined(parts)
    }
}
