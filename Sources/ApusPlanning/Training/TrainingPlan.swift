import ApusModels
import ApusTensor

/// What training a model takes of each device's memory, and how long a step is.
public struct TrainingPlan: Sendable {
    /// What is planned, beside model and device.
    public struct Settings: Sendable, Hashable {
        /// Devices that share one copy of the model.
        public var tensorParallel = 1
        /// Copies of the model.
        public var dataParallel = 1
        /// Sequences of a step, over all copies.
        public var batch = 8
        /// Sequences that a copy runs at once; nil for its whole part of the batch.
        public var microBatch: Int?
        /// Tokens of a sequence.
        public var context = 2048
        /// Whether operands of products are bf16; otherwise all is float32.
        public var computesBF16 = true
        /// Whether the copies share the moments of AdamW (ZeRO-1).
        public var shardsOptimizer = false
        /// Whether layers keep only their inputs, and run again for their gradients.
        public var checkpointsLayers = false
        /// Share of the device's peak that the products of a whole step reach (MFU).
        public var utilisation = 0.4
        /// Share of the backward pass behind which gradients can travel.
        public var overlap = 0.9

        /// One device, 8 sequences of 2048 tokens, bf16.
        public init() {}
    }

    /// Bytes on each device.
    public struct Memory: Sendable, Hashable {
        /// Master weights in float32, and their copy in bf16 where products are bf16.
        public let weights: Double
        /// Gradients in float32.
        public let gradients: Double
        /// Both moments in float32.
        public let moments: Double
        /// What the forward pass keeps for the backward pass.
        public let activations: Double
        /// Gradients of one layer's activations, and a piece of the logits.
        public let working: Double
        /// All of it.
        public var total: Double { weights + gradients + moments + activations + working }
    }

    /// Seconds of a step.
    public struct Time: Sendable, Hashable {
        /// Products and attention, forward, backward, and forward again with checkpointing.
        public let compute: Double
        /// All-reduces of activations among tensor-parallel devices, which nothing hides.
        public let tensorCommunication: Double
        /// Gradients (and, with a sharded optimiser, weights) among the copies, if nothing hid them.
        public let gradientCommunication: Double
        /// What the backward pass does not hide of that.
        public let exposedCommunication: Double
        /// AdamW: bytes over bandwidth.
        public let optimizer: Double
        /// All of it.
        public var step: Double { compute + tensorCommunication + exposedCommunication + optimizer }
    }

    /// The model.
    public let configuration: DecoderConfiguration
    /// The device.
    public let device: DeviceFigures
    /// The settings.
    public let settings: Settings
    /// Elements of all weights on each device.
    public let elements: Double
    /// Memory of each device.
    public let memory: Memory
    /// Time of a step.
    public let time: Time
    /// Operations of a token, forward and backward.
    public let operationsPerToken: Double

    /// Tokens of a step.
    public var tokensPerStep: Int { settings.batch * settings.context }
    /// Tokens a second on all devices.
    public var tokensPerSecond: Double { Double(tokensPerStep) / time.step }
    /// Whether a device's memory suffices.
    public var fits: Bool { memory.total <= device.memoryBytes }

    /// A plan. Sources: 6 operations a weight and token (Kaplan et al. 2020, section 2.1), and attention's pairs with 2.5 times
    /// the forward's products in the backward pass (Dao 2023, FlashAttention-2, section 3); all-reduces twice per layer in
    /// each direction (Shoeybi et al. 2019, Megatron-LM, section 3); ZeRO-1 (Rajbhandari et al. 2020).
    /// - Throws: what ``ModelShare/init(_:_:)`` throws, ``PlanningError/outOfRange(name:expected:found:)``.
    public init(_ configuration: DecoderConfiguration, on device: DeviceFigures, settings: Settings) throws {
        let copies = settings.dataParallel
        guard settings.batch % copies == 0 else {
            throw PlanningError.outOfRange(
                name: "batch", expected: "a multiple of \(copies) copies of the model", found: "\(settings.batch)")
        }
        let perCopy = settings.batch / copies
        let micro = settings.microBatch ?? perCopy
        guard micro >= 1, perCopy % micro == 0 else {
            throw PlanningError.outOfRange(
                name: "micro-batch", expected: "a divisor of the \(perCopy) sequences of a copy", found: "\(micro)")
        }
        let share = try ModelShare(configuration, ServingLayout(tensorParallel: settings.tensorParallel))
        self.configuration = configuration
        self.device = device
        self.settings = settings
        elements = share.elements
        memory = Self.memory(share, settings, rows: Double(micro * settings.context))
        let forward = Self.forwardOperations(share, context: settings.context)
        operationsPerToken = (forward.products * 3 + forward.pairs * 3.5) * Double(settings.tensorParallel)
        time = Self.time(share, settings, device, forward, tokens: Double(perCopy * settings.context))
    }

    private static func memory(_ share: ModelShare, _ settings: Settings, rows: Double) -> Memory {
        let operand = settings.computesBF16 ? 2.0 : 4.0
        let hidden = Double(share.hiddenSize)
        var (kept, largest) = (0.0, 0.0)
        for layers in share.layers {
            // Two sums of the residual stream in float32, their norms, queries to outputs of attention, gate, up, product.
            let inner =
                layers.feedForward / hidden + (layers.experts.map { Double($0.perToken) * $0.elements / hidden } ?? 0)
            // Keys and values; of latents the projected ones too.
            let cached = Double(layers.geometry.elementsPerToken) + (layers.latentUp > 0 ? layers.pairWidth : 0)
            let row = 8 * hidden + operand * (2 * hidden + layers.pairWidth + cached + inner)
            kept +=
                settings.checkpointsLayers ? (4 + operand) * hidden * Double(layers.count) : row * Double(layers.count)
            largest = max(largest, row)
        }
        let again = settings.checkpointsLayers ? largest : 0
        return Memory(
            weights: share.elements * (settings.computesBF16 ? 6 : 4), gradients: 4 * share.elements,
            moments: 8 * share.elements / Double(settings.shardsOptimizer ? settings.dataParallel : 1),
            activations: rows * (kept + again + (4 + operand) * hidden), working: rows * largest + 16e6)
    }

    /// Operations of a token's forward pass on one device: products with weights, and attention's pairs at half the context.
    private static func forwardOperations(
        _ share: ModelShare, context: Int
    ) -> (products: Double, pairs: Double) {
        var (products, pairs) = (2 * share.head, 0.0)
        for layers in share.layers {
            let count = Double(layers.count)
            let routed = layers.experts.map { Double($0.perToken) * $0.elements } ?? 0
            products += 2 * (layers.attention + layers.feedForward + routed) * count
            let seen = Double(min(layers.window ?? context, context))
            pairs += 2 * layers.pairWidth * (seen / 2 + 0.5) * count
        }
        return (products, pairs)
    }

    private static func time(
        _ share: ModelShare, _ settings: Settings, _ device: DeviceFigures,
        _ forward: (products: Double, pairs: Double), tokens: Double
    ) -> Time {
        let rate = (settings.computesBF16 ? device.bf16Rate : device.f32Rate) * settings.utilisation
        let forwardSeconds = tokens * (forward.products + forward.pairs) / rate
        let backward = tokens * (2 * forward.products + 2.5 * forward.pairs) / rate
        let again = settings.checkpointsLayers ? tokens * (forward.products - 2 * share.head + forward.pairs) / rate : 0
        let (ranks, copies) = (settings.tensorParallel, settings.dataParallel)
        var tensor = 0.0
        if ranks > 1 {
            let passes = (settings.checkpointsLayers ? 6.0 : 4) * Double(share.layerCount)
            let message = tokens * Double(share.hiddenSize) * (settings.computesBF16 ? 2 : 4)
            let moved = 2 * Double(ranks - 1) / Double(ranks) * message
            tensor = passes * (device.reached.collectiveSeconds + moved / device.bandwidth(ranks: ranks))
        }
        var gradients = 0.0
        if copies > 1 {
            // An all-reduce; or a reduce-scatter of gradients and an all-gather of weights, as many bytes.
            gradients =
                2 * Double(copies - 1) / Double(copies) * 4 * share.elements / device.bandwidth(ranks: ranks * copies)
        }
        let updated = share.elements / Double(settings.shardsOptimizer ? copies : 1)
        // AdamW reads weight, gradient and moments and writes weight and moments, and the copy in bf16.
        let bytes = updated * (settings.computesBF16 ? 30 : 28)
        return Time(
            compute: forwardSeconds + backward + again, tensorCommunication: tensor, gradientCommunication: gradients,
            exposedCommunication: max(gradients - settings.overlap * (backward + again), 0),
            optimizer: bytes / device.readBandwidth)
    }
}
