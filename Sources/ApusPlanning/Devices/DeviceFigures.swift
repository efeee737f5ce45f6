import ApusTensor

/// What a device can do at most, and the few numbers that say how much of it is reached.
public struct DeviceFigures: Sendable, Hashable {
    /// Its name.
    public var name: String
    /// Bytes of memory.
    public var memoryBytes: Double
    /// Bytes a second from memory.
    public var memoryBandwidth: Double
    /// Operations a second of products (a multiply and an add are two) of bf16 operands, without sparsity.
    public var bf16Rate: Double
    /// The same of float32 operands.
    public var f32Rate: Double
    /// The same of f8e4m3 operands; nil where the device has no such product, so that bf16's holds.
    public var f8Rate: Double?
    /// The same of packed blocks (GGUF); nil where they are expanded, so that bf16's holds.
    public var packedRate: Double?
    /// Bytes a second to its peers of the same node, in one direction.
    public var linkBandwidth: Double
    /// Bytes a second to devices of other nodes, in one direction.
    public var networkBandwidth: Double
    /// Devices of a node.
    public var devicesPerNode: Int
    /// Where the figures come from.
    public var source: String
    /// How much of them is reached.
    public var reached: Reached

    /// Shares of the figures above that programs reach, and times that no bandwidth explains.
    public struct Reached: Sendable, Hashable {
        /// Share of the memory bandwidth.
        public var memory: Double
        /// Share of the products' rate, in products with weights.
        public var products: Double
        /// Share of the products' rate, in attention.
        public var attention: Double
        /// Share of the bandwidth of links.
        public var links: Double
        /// Seconds a layer takes beside its bytes and operations: the launches of its kernels.
        public var layerSeconds: Double
        /// Seconds a collective takes beside its bytes.
        public var collectiveSeconds: Double
        /// Seconds of a step outside the layers: planning, drawing.
        public var stepSeconds: Double

        /// Shares and times.
        public init(
            memory: Double, products: Double, attention: Double, links: Double, layerSeconds: Double,
            collectiveSeconds: Double, stepSeconds: Double
        ) {
            self.memory = memory
            self.products = products
            self.attention = attention
            self.links = links
            self.layerSeconds = layerSeconds
            self.collectiveSeconds = collectiveSeconds
            self.stepSeconds = stepSeconds
        }

        /// For published peaks of GPUs: 0.9 of the memory bandwidth (pure reading reaches 3.06 of 3.35 TB/s on an H100), 0.7
        /// of the tensor peak (what the paper claims of its attention kernels; large products reach 0.8), 0.8 of the links;
        /// ten kernels of 4 us a layer, 15 us a collective, 1 ms a step.
        public static let ofPublishedFigures = Reached(
            memory: 0.9, products: 0.7, attention: 0.7, links: 0.8, layerSeconds: 40e-6, collectiveSeconds: 15e-6,
            stepSeconds: 1e-3)

        /// For rates that were measured: all of them; launches as ``ofPublishedFigures`` on GPUs.
        public static func ofMeasuredFigures(isGPU: Bool) -> Reached {
            Reached(
                memory: 1, products: 1, attention: isGPU ? 0.8 : 0.3, links: 0.8, layerSeconds: isGPU ? 40e-6 : 20e-6,
                collectiveSeconds: 15e-6, stepSeconds: isGPU ? 1e-3 : 2e-4)
        }
    }

    /// A device from its figures.
    public init(
        name: String, memoryBytes: Double, memoryBandwidth: Double, bf16Rate: Double, f32Rate: Double,
        f8Rate: Double? = nil, packedRate: Double? = nil, linkBandwidth: Double, networkBandwidth: Double,
        devicesPerNode: Int, source: String, reached: Reached = .ofPublishedFigures
    ) {
        self.name = name
        self.memoryBytes = memoryBytes
        self.memoryBandwidth = memoryBandwidth
        self.bf16Rate = bf16Rate
        self.f32Rate = f32Rate
        self.f8Rate = f8Rate
        self.packedRate = packedRate
        self.linkBandwidth = linkBandwidth
        self.networkBandwidth = networkBandwidth
        self.devicesPerNode = devicesPerNode
        self.source = source
        self.reached = reached
    }

    /// Operations a second that products with weights of a dtype reach.
    public func productRate(weights: DType) -> Double { peak(weights) * reached.products }

    /// Operations a second that attention over a cache of a dtype reaches: what is narrower than bf16 is widened first.
    public func attentionRate(cache: DType) -> Double { peak(cache == .f32 ? .f32 : .bf16) * reached.attention }

    private func peak(_ operands: DType) -> Double {
        switch operands {
        case .f32, .f64: f32Rate
        case .f8e4m3: f8Rate ?? bf16Rate
        default: operands.isPacked ? packedRate ?? bf16Rate : bf16Rate
        }
    }

    /// Bytes a second that reading reaches.
    public var readBandwidth: Double { memoryBandwidth * reached.memory }

    /// Bytes a second between `ranks` devices, the slowest link among them.
    public func bandwidth(ranks: Int) -> Double {
        (ranks > devicesPerNode ? networkBandwidth : linkBandwidth) * reached.links
    }
}
