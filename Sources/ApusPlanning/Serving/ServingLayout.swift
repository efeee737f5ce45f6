/// How a model is spread over devices.
public struct ServingLayout: Sendable, Hashable {
    /// Devices that share one copy of the attention, each with a part of its heads.
    public var tensorParallel: Int
    /// Groups of such devices, each with sequences of its own.
    public var dataParallel: Int
    /// Whether all devices share one copy of the feed-forwards and the vocabulary, so that the groups take their steps
    /// together (attention data parallelism); otherwise each group is a replica on its own.
    public var sharesFeedForward: Bool

    /// A layout. Precondition: both sizes are at least 1.
    public init(tensorParallel: Int = 1, dataParallel: Int = 1, sharesFeedForward: Bool = false) {
        precondition(tensorParallel >= 1 && dataParallel >= 1)
        self.tensorParallel = tensorParallel
        self.dataParallel = dataParallel
        self.sharesFeedForward = sharesFeedForward && dataParallel > 1
    }

    /// Devices in all.
    public var devices: Int { tensorParallel * dataParallel }
    /// Devices that share one copy of the feed-forwards.
    public var feedForwardRanks: Int { sharesFeedForward ? devices : tensorParallel }
    /// Groups that take their steps together.
    public var groupsInStep: Int { sharesFeedForward ? dataParallel : 1 }
    /// Replicas that know nothing of each other.
    public var replicas: Int { sharesFeedForward ? 1 : dataParallel }

    /// As people write it: TP2 DP4, + shared FFN.
    public var name: String {
        guard dataParallel > 1 else { return "TP\(tensorParallel)" }
        return "TP\(tensorParallel) DP\(dataParallel)" + (sharesFeedForward ? "" : " replicas")
    }
}
