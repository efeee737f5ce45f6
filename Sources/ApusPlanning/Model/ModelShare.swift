import ApusAttention
import ApusModels

/// What one device of a layout holds and computes of a model, in elements.
public struct ModelShare: Sendable, Hashable {
    /// A mixture of experts, cut over the devices.
    public struct Experts: Sendable, Hashable {
        /// Routed experts.
        public let count: Int
        /// Routed experts that a token visits.
        public let perToken: Int
        /// Elements of this device's part of one expert.
        public let elements: Double
    }

    /// Layers that are alike.
    public struct Layers: Sendable, Hashable {
        /// How many there are.
        public internal(set) var count: Int
        /// This device's part of the cache.
        public let geometry: CacheGeometry
        /// Devices that keep the same groups.
        public let duplication: Int
        /// Tokens that a token sees; nil for all.
        public let window: Int?
        /// Weights of the attention.
        public let attention: Double
        /// Those of them that make keys and values of latents: computed again for cached tokens that a prompt's chunk reads.
        public let latentUp: Double
        /// Weights of the feed-forward that every token meets: a dense one, shared experts, the router.
        public let feedForward: Double
        /// The routed experts.
        public let experts: Experts?
        /// Width of this device's queries and of its values in the training form, over all heads: what a pair of a query and a
        /// key costs in a prompt.
        public let pairWidth: Double
        /// Elements of all weights.
        public var elements: Double {
            attention + feedForward + (experts.map { $0.elements * Double($0.count) } ?? 0)
        }
    }

    /// The layers, those that are alike in one entry.
    public let layers: [Layers]
    /// This device's rows of the embedding, and of the head where that is not the embedding; the norm before the head.
    public let vocabulary: Double
    /// Elements of the head's rows on this device.
    public let head: Double
    /// Width of the residual stream.
    public let hiddenSize: Int
    /// Rows of the vocabulary on this device.
    public let vocabularyRows: Double

    /// Elements of all weights on this device.
    public var elements: Double { vocabulary + layers.reduce(0) { $0 + $1.elements * Double($1.count) } }
    /// Elements that a token leaves on this device, over all layers.
    public var cacheElementsPerToken: Int { layers.reduce(0) { $0 + $1.geometry.elementsPerToken * $1.count } }
    /// Layers in all.
    public var layerCount: Int { layers.reduce(0) { $0 + $1.count } }
    /// The largest duplication of a layer's groups.
    public var duplication: Int { layers.map(\.duplication).max() ?? 1 }

    /// One device's share of a model.
    ///
    /// The attention is cut over the `tensorParallel` ranks as ``CacheGeometry/sharded(over:)`` says: query heads and their
    /// projections, groups as far as they go. What all heads read (the projections to a query latent and to a RoPE key) is on
    /// every rank. Feed-forwards and experts are cut by their width, embedding and head by the vocabulary, over
    /// ``ServingLayout/feedForwardRanks``.
    /// - Throws: ``GeometryError``, ``PlanningError/notDivisible(what:size:ranks:)``.
    public init(_ configuration: DecoderConfiguration, _ layout: ServingLayout) throws {
        let ranks = layout.feedForwardRanks
        func cut(_ what: String, _ size: Int) throws {
            guard size % ranks == 0 else { throw PlanningError.notDivisible(what: what, size: size, ranks: ranks) }
        }
        try cut("feed-forward width", configuration.feedForwardWidth)
        if let experts = configuration.experts {
            try cut("expert width", experts.width)
            try cut("width of the shared experts", experts.sharedWidth)
        }
        var kinds: [Layers] = []
        for layer in 0..<configuration.layerCount {
            let alike = try Self.layers(configuration, layer, layout)
            if let index = kinds.firstIndex(where: { $0.isAlike(alike) }) {
                kinds[index].count += 1
            } else {
                kinds.append(alike)
            }
        }
        layers = kinds
        hiddenSize = configuration.hiddenSize
        // The vocabulary is padded to a multiple of the ranks.
        vocabularyRows = Double((configuration.vocabularySize + ranks - 1) / ranks)
        let rows = vocabularyRows * Double(configuration.hiddenSize)
        let norm = Double(configuration.hiddenSize * (configuration.normKind == .layer ? 2 : 1))
        switch configuration.head {
        case .languageModel:
            head = rows
            vocabulary = norm + (configuration.tiesEmbeddings ? rows : 2 * rows)
        case .score(let labels):
            head = Double(labels * configuration.hiddenSize)
            vocabulary = norm + rows + head
        }
    }

    private static func layers(
        _ configuration: DecoderConfiguration, _ layer: Int, _ layout: ServingLayout
    ) throws -> Layers {
        let sharded = try configuration.geometry(layer: layer).sharded(over: layout.tensorParallel)
        let local = configuration.attentionShare(sharded)
        let ranks = Double(layout.feedForwardRanks)
        var (attention, latentUp, feedForward) = (0.0, 0.0, 0.0)
        for tensor in configuration.layerTensors(layer: layer) {
            switch tensor {
            case .gate, .up, .down, .gateBias, .upBias, .sharedGate, .sharedUp, .sharedDown:
                feedForward += Double(configuration.shape(of: .layer(layer, tensor)).count) / ranks
            case .router, .routerCorrection, .feedForwardNorm, .feedForwardNormBias, .downBias:
                feedForward += Double(configuration.shape(of: .layer(layer, tensor)).count)
            default: break
            }
        }
        for tensor in local.layerTensors(layer: layer) {
            let count = Double(local.shape(of: .layer(layer, tensor)).count)
            switch tensor {
            case .gate, .up, .down, .gateBias, .upBias, .downBias, .sharedGate, .sharedUp, .sharedDown, .router,
                .routerCorrection, .feedForwardNorm, .feedForwardNormBias, .expertGate, .expertUp, .expertDown:
                break
            case .latentUp:
                latentUp += count
                attention += count
            default: attention += count
            }
        }
        var experts: Experts?
        if configuration.hasExperts(layer: layer), let all = configuration.experts {
            experts = Experts(
                count: all.count, perToken: all.expertsPerToken,
                elements: 3 * Double(all.width * configuration.hiddenSize) / ranks)
        }
        return Layers(
            count: 1, geometry: sharded.local, duplication: sharded.duplication, window: configuration.windows[layer],
            attention: attention, latentUp: latentUp, feedForward: feedForward, experts: experts,
            pairWidth: Double(local.queryHeads * (local.explicitQueryWidth + local.headValueWidth)))
    }
}

extension ModelShare.Layers {
    func isAlike(_ other: Self) -> Bool {
        var copy = other
        copy.count = count
        return self == copy
    }
}

extension DecoderConfiguration {
    /// Elements of a head's query in the training form.
    var explicitQueryWidth: Int { if case .latent(let latent) = attention { latent.queryWidth } else { headWidth } }

    /// The same model with one rank's heads.
    func attentionShare(_ sharded: ShardedGeometry) -> DecoderConfiguration {
        var local = self
        local.queryHeads = sharded.local.queryHeads
        local.layerCount = layerCount
        switch attention {
        case .grouped, .tied: local.kvHeads = sharded.local.groups
        case .latent(var latent):
            if latent.splitsQueryLatent, let rank = latent.queryRank {
                latent.queryRank = rank / latent.latentHeads * sharded.local.groups
            }
            latent.latentHeads = sharded.local.groups
            local.attention = .latent(latent)
        }
        return local
    }
}
