import ApusSynchronization

/// What one rank has moved over a communicator, by kind of collective.
public struct CommunicationTraffic: Sendable, Equatable {
    /// Calls and bytes of one kind; bytes as ``Collective/byteCount`` counts them.
    public struct Amount: Sendable, Equatable {
        /// Collectives.
        public var calls = 0
        /// Bytes of their buffers.
        public var bytes = 0
    }

    private var amounts: [Collective.Kind: Amount] = [:]

    /// Nothing moved.
    public init() {}

    /// What a kind has moved.
    public subscript(kind: Collective.Kind) -> Amount { amounts[kind] ?? Amount() }

    /// What all kinds have moved.
    public var total: Amount {
        amounts.values.reduce(into: Amount()) {
            $0.calls += $1.calls
            $0.bytes += $1.bytes
        }
    }

    mutating func add(_ collective: Collective) {
        amounts[collective.kind, default: Amount()].calls += 1
        amounts[collective.kind, default: Amount()].bytes += collective.byteCount
    }

    /// What has been moved since an earlier reading.
    public static func - (later: CommunicationTraffic, earlier: CommunicationTraffic) -> CommunicationTraffic {
        var result = later
        for (kind, amount) in earlier.amounts {
            result.amounts[kind, default: Amount()].calls -= amount.calls
            result.amounts[kind, default: Amount()].bytes -= amount.bytes
        }
        return result
    }
}
