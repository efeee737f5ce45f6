import ApusDistributed
import ApusTensor

/// The part of every batch that a replica of the model learns from.
public struct BatchShare: Sendable {
    /// This replica, from 0.
    public let replica: Int
    /// How many there are.
    public let replicas: Int
    private let communicator: (any Communicator)?

    /// All of every batch.
    public static let whole = BatchShare(replica: 0, replicas: 1, communicator: nil)

    /// The share of a rank, where each rank is a replica.
    public init(of communicator: any Communicator) {
        self.init(replica: communicator.rank, replicas: communicator.size, communicator: communicator.onHost)
    }

    private init(replica: Int, replicas: Int, communicator: (any Communicator)?) {
        self.replica = replica
        self.replicas = replicas
        self.communicator = communicator
    }

    /// Sums over the replicas, in float64.
    public func sum(_ values: [Double]) throws -> [Double] {
        guard let communicator else { return values }
        let tensor = Tensor(uninitialized: [values.count], dtype: .f64)
        tensor.withMutableElements(of: Double.self) { _ = $0.update(from: values) }
        try communicator.allReduce(tensor)
        return tensor.withElements(of: Double.self) { Array($0) }
    }
}

extension PackedBatch {
    /// Whole sequences of the batch, as many tokens as its other shares as far as they can be had.
    func share(_ share: BatchShare) -> PackedBatch {
        guard share.replicas > 1 else { return self }
        // A sequence belongs to the replica in whose part of the tokens its middle lies.
        func replica(_ index: Int) -> Int {
            min((starts[index] + starts[index + 1]) * share.replicas / max(2 * tokens.count, 1), share.replicas - 1)
        }
        let own = (0..<starts.count - 1).filter { replica($0) == share.replica }
        guard let first = own.first, let last = own.last else {
            return PackedBatch(tokens: [], targets: [], starts: [0])
        }
        let (start, end) = (starts[first], starts[last + 1])
        return PackedBatch(
            tokens: Array(tokens[start..<end]), targets: Array(targets[start..<end]),
            starts: starts[first...last + 1].map { $0 - start })
    }
}
