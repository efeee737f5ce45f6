import ApusAttention

/// What an attention variant costs when it decodes: bytes of cache per token and device under tensor parallelism, how
/// often states are duplicated, and operations per byte.
public struct AttentionPlan: Sendable {
    /// What the figures are for.
    public struct Setting: Sendable, Hashable {
        /// Bytes of a cached element: 2 for bf16.
        public var bytesPerElement: Double
        /// Numbers of tensor-parallel ranks.
        public var ranks: [Int]
        /// Cached tokens at which the exact intensity is taken.
        public var context: Int
        /// Query tokens per step and sequence.
        public var queryTokens: Int

        /// A setting; bf16, 1, 2, 4 and 8 ranks, 8192 cached tokens and one query token by default.
        public init(
            bytesPerElement: Double = 2, ranks: [Int] = [1, 2, 4, 8], context: Int = 8192, queryTokens: Int = 1
        ) {
            self.bytesPerElement = bytesPerElement
            self.ranks = ranks
            self.context = context
            self.queryTokens = queryTokens
        }
    }

    /// Figures of one device out of `ranks`.
    public struct Device: Sendable, Hashable {
        /// Tensor-parallel ranks.
        public let ranks: Int
        /// Elements a token leaves on the device, over all layers.
        public let elementsPerToken: Int
        /// Bytes a token leaves on the device, over all layers.
        public let bytesPerToken: Double
        /// Devices that keep the same state (D in the paper); the largest over the layers.
        public let duplication: Int
        /// Operations per byte at the setting's context, from the device's share of heads and states.
        public let intensity: Double
    }

    /// Name of the variant or model.
    public let name: String
    /// One geometry per layer.
    public let geometries: [CacheGeometry]
    /// The setting.
    public let setting: Setting
    /// One entry per number of ranks: its figures, or why the heads cannot be cut so.
    public let devices: [Result<Device, GeometryError>]

    /// A plan for layers that may differ. Precondition: at least one layer.
    public init(name: String, geometries: [CacheGeometry], setting: Setting = Setting()) {
        self.name = name
        self.geometries = geometries
        self.setting = setting
        devices = setting.ranks.map { ranks in
            Result { () throws(GeometryError) in try Self.device(geometries, ranks: ranks, setting: setting) }
        }
    }

    /// `2 g_q / m_kv` times the query tokens: the paper's operations per byte for long contexts and 2-byte elements, of the
    /// first layer.
    public var nominalIntensity: Double { geometries[0].longContextIntensity(queryTokens: setting.queryTokens) }

    private static func device(
        _ geometries: [CacheGeometry], ranks: Int, setting: Setting
    ) throws(GeometryError) -> Device {
        var (elements, duplication) = (0, 1)
        var (operations, moved) = (0.0, 0.0)
        for geometry in geometries {
            let sharded = try geometry.sharded(over: ranks)
            elements += sharded.local.elementsPerToken
            duplication = max(duplication, sharded.duplication)
            operations += sharded.local.operations(context: setting.context, queryTokens: setting.queryTokens)
            moved += sharded.local.elementsMoved(context: setting.context, queryTokens: setting.queryTokens)
        }
        return Device(
            ranks: ranks, elementsPerToken: elements, bytesPerToken: Double(elements) * setting.bytesPerElement,
            duplication: duplication, intensity: operations / (moved * setting.bytesPerElement))
    }
}

extension AttentionWidths {
    /// Plans of several variants of `layers` equal layers.
    /// - Throws: ``GeometryError`` when the widths do not fit a variant.
    public func plans(
        _ variants: [AttentionVariant] = AttentionVariant.allCases, layers: Int = 1,
        setting: AttentionPlan.Setting = AttentionPlan.Setting()
    ) throws -> [AttentionPlan] {
        try variants.map {
            AttentionPlan(
                name: name(of: $0), geometries: Array(repeating: try geometry(of: $0), count: layers), setting: setting)
        }
    }
}
