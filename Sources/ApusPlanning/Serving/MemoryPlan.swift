import ApusModels
import ApusTensor

/// What a serving layout takes of each device's memory, and how many sequences fit.
public struct MemoryPlan: Sendable, Hashable {
    /// Bytes of weights on each device.
    public let weightBytes: Double
    /// Bytes that a token leaves on each device, over all layers.
    public let cacheBytesPerToken: Double
    /// Devices that keep the same state (D in the paper); the largest over the layers.
    public let duplication: Int
    /// Bytes for activations of the largest step: residual stream, normalised rows, projections and logits.
    public let workspaceBytes: Double
    /// Bytes that weights, workspace and cache may take together.
    public let usableBytes: Double
    /// Tokens of a cache page.
    public let pageSize: Int
    /// Pages of each group's cache.
    public let pages: Int

    /// Bytes of the cache on each device.
    public var cacheBytes: Double { cacheBytesPerToken * Double(pages * pageSize) }
    /// Tokens that each group's cache holds.
    public var cacheTokens: Int { pages * pageSize }

    /// Sequences of a length that fit at once in each group.
    public func largestBatch(length: Int) -> Int { pages / max((length + pageSize - 1) / pageSize, 1) }

    /// A plan.
    /// - Parameters:
    ///   - utilisation: share of the memory that weights, workspace and cache may take.
    ///   - stepTokens: tokens of the largest step of a group.
    ///   - cacheTokens: tokens of each group's cache; nil for all that fit.
    /// - Throws: ``PlanningError/weightsDoNotFit(bytes:available:)``.
    public init(
        _ cost: RooflineCost, utilisation: Double = 0.9, pageSize: Int = 64, stepTokens: Int, sequences: Int,
        cacheTokens: Int? = nil
    ) throws(PlanningError) {
        let share = cost.share
        weightBytes = share.elements * cost.weightBytes
        cacheBytesPerToken = Double(share.cacheElementsPerToken) * cost.cacheBytes
        duplication = share.duplication
        usableBytes = cost.device.memoryBytes * utilisation
        self.pageSize = pageSize
        // Residual stream in float32, its normalised rows, and the widest of a layer's intermediate rows, in bf16.
        let widest = share.layers.map { max($0.pairWidth, 2 * $0.feedForward / Double(share.hiddenSize)) }.max() ?? 0
        workspaceBytes =
            Double(stepTokens * cost.layout.groupsInStep) * (6 * Double(share.hiddenSize) + 2 * widest)
            + Double(sequences) * share.vocabularyRows * 4
        let page = cacheBytesPerToken * Double(pageSize)
        let rest = usableBytes - weightBytes - workspaceBytes
        guard rest >= page else {
            throw PlanningError.weightsDoNotFit(bytes: weightBytes + workspaceBytes + page, available: usableBytes)
        }
        let fitting = Int(min(rest / page, 1e9))
        guard let cacheTokens else {
            pages = fitting
            return
        }
        let wanted = (cacheTokens + pageSize - 1) / pageSize
        guard wanted >= 1, wanted <= fitting else {
            throw PlanningError.outOfRange(
                name: "tokens of the cache", expected: "1 to \(fitting * pageSize), which the memory holds",
                found: "\(cacheTokens)")
        }
        pages = wanted
    }
}
