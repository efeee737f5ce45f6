import ApusAttention
import ApusModels
import ApusReport
import ApusTensor

/// Steps' times from bytes, operations and messages, and what a device reaches of its bandwidth and rates.
///
/// Each part of a layer (projections, attention of decoding rows, attention of prompts, feed-forward) takes the longer of
/// its bytes over the bandwidth and its operations over the rate; parts follow each other. Source of the attention's terms:
/// "Hardware-Efficient Attention for Fast Decoding" (arXiv 2505.21487), section 3; of the collectives': 2 (N - 1) / N of the
/// message over a link for an all-reduce in a ring.
public struct RooflineCost: StepCost {
    /// The device.
    public let device: DeviceFigures
    /// The layout.
    public let layout: ServingLayout
    /// One device's share.
    public let share: ModelShare
    /// Bytes of a weight's element.
    public let weightBytes: Double
    /// Bytes of a cached element.
    public let cacheBytes: Double
    /// The widest window of a layer that has one.
    public let window: Int

    private let weightRate: Double
    private let attentionRate: Double
    private let bandwidth: Double

    /// A cost model.
    /// - Parameters:
    ///   - weights: dtype of the weights.
    ///   - cacheType: dtype of the cache.
    /// - Throws: what ``ModelShare/init(_:_:)`` throws.
    public init(
        _ configuration: DecoderConfiguration, on device: DeviceFigures, layout: ServingLayout, weights: DType,
        cacheType: DType
    ) throws {
        self.device = device
        self.layout = layout
        share = try ModelShare(configuration, layout)
        weightBytes = weights.bytesPerElement
        cacheBytes = cacheType.bytesPerElement
        weightRate = device.productRate(weights: weights)
        attentionRate = device.attentionRate(cache: cacheType)
        bandwidth = device.readBandwidth
        window = share.layers.compactMap(\.window).max() ?? Int.max / 4
    }

    /// See ``StepCost/seconds(_:)``.
    public func seconds(_ groups: [StepWork]) -> Double { time(groups).seconds }

    /// A step's time, of the groups that take it together; the slowest group's attention counts.
    public func time(_ groups: [StepWork]) -> StepTime {
        var all = StepWork()
        var slowest = StepTime()
        for work in groups where !work.isEmpty {
            let attention = attentionTime(work)
            if attention.seconds > slowest.seconds { slowest = attention }
            all.decodeRows += work.decodeRows
            all.promptTokens += work.promptTokens
            all.logitRows += work.logitRows
        }
        guard !all.isEmpty else { return StepTime() }
        var time = slowest
        addFeedForward(all, to: &time)
        addProduct(rows: Double(all.logitRows), elements: share.head, times: 1, to: &time)
        addCollectives(groups, all, to: &time)
        time.overhead += device.reached.stepSeconds + device.reached.layerSeconds * Double(share.layerCount)
        return time
    }

    private func attentionTime(_ work: StepWork) -> StepTime {
        var time = StepTime()
        let tokens = Double(work.tokens)
        for layers in share.layers {
            let count = Double(layers.count)
            let isWindowed = layers.window != nil
            addProduct(rows: tokens, elements: layers.attention, times: count, to: &time)
            if work.decodeRows > 0 {
                let geometry = layers.geometry
                let context = Double(isWindowed ? work.windowedDecodeContext : work.decodeContext)
                let width = Double(geometry.queryHeads * (geometry.queryWidth + geometry.outputWidth))
                let elements =
                    context * Double(geometry.elementsPerToken)
                    + Double(work.decodeRows * geometry.queryHeads * (geometry.queryWidth + geometry.outputWidth))
                time.add(
                    memory: elements * cacheBytes / bandwidth, compute: 2 * width * context / attentionRate,
                    times: count)
            }
            if work.promptTokens > 0 {
                let pairs = Double(isWindowed ? work.windowedPromptPairs : work.promptPairs)
                let cached = Double(isWindowed ? work.windowedPromptCached : work.promptCached)
                // Latents that are read explicitly are projected to keys and values again.
                let projected = 2 * layers.latentUp * cached / weightRate
                time.add(
                    memory: cached * Double(layers.geometry.elementsPerToken) * cacheBytes / bandwidth,
                    compute: 2 * layers.pairWidth * pairs / attentionRate + projected, times: count)
            }
        }
        return time
    }

    private func addFeedForward(_ work: StepWork, to time: inout StepTime) {
        let tokens = Double(work.tokens)
        for layers in share.layers {
            addProduct(rows: tokens, elements: layers.feedForward, times: Double(layers.count), to: &time)
            guard let experts = layers.experts else { continue }
            let share = Double(experts.perToken) / Double(experts.count)
            // Experts that at least one of the tokens visits, where each choice is as likely.
            let visited = Double(experts.count) * (1 - ReportMath.power(1 - share, tokens))
            time.add(
                memory: visited * experts.elements * weightBytes / bandwidth,
                compute: 2 * tokens * Double(experts.perToken) * experts.elements / weightRate,
                times: Double(layers.count))
        }
    }

    private func addProduct(rows: Double, elements: Double, times: Double, to time: inout StepTime) {
        guard rows > 0 else { return }
        time.add(
            memory: elements * weightBytes / bandwidth, compute: 2 * rows * elements / weightRate, times: times)
    }

    /// An all-reduce after the attention, and one after the feed-forward; where groups of devices share the feed-forward, an
    /// all-gather of the groups' tokens before it. Activations travel as bf16.
    private func addCollectives(_ groups: [StepWork], _ all: StepWork, to time: inout StepTime) {
        let rowBytes = 2 * Double(share.hiddenSize)
        let largest = Double(groups.map(\.tokens).max() ?? 0)
        let total = Double(all.tokens)
        let layers = Double(share.layerCount)
        func add(_ ranks: Int, _ bytes: Double, passes: Double) {
            guard ranks > 1 else { return }
            let shareMoved = passes * Double(ranks - 1) / Double(ranks)
            time.communication +=
                layers * (device.reached.collectiveSeconds + shareMoved * bytes / device.bandwidth(ranks: ranks))
        }
        add(layout.tensorParallel, largest * rowBytes, passes: 2)
        if layout.sharesFeedForward { add(layout.dataParallel, total * rowBytes, passes: 1) }
        add(layout.feedForwardRanks, total * rowBytes, passes: 2)
    }
}

extension DType {
    /// Bytes of an element, blocks' scales among them.
    var bytesPerElement: Double { Double(bytesPerBlock) / Double(blockSize) }
}
