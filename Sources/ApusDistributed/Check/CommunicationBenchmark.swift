import ApusTensor

/// Times all-reduces of float32 elements.
public struct CommunicationBenchmark {
    /// The time of one size.
    public struct Row: Sendable {
        /// Size of the buffer.
        public let bytes: Int
        /// Median seconds of one all-reduce.
        public let seconds: Double
        /// Bytes of the buffer a second.
        public var bytesPerSecond: Double { Double(bytes) / seconds }
    }

    private let communicator: any Communicator

    /// A benchmark of a communicator; all its ranks run it.
    public init(_ communicator: any Communicator) { self.communicator = communicator }

    /// Times buffers of these sizes.
    public func run(bytes sizes: [Int] = [4, 1 << 10, 48 << 10, 1 << 20, 16 << 20]) throws -> [Row] {
        try sizes.map { bytes in
            let tensor = Tensor(uninitialized: [bytes / 4])
            tensor.fillWithZeros()
            let repeats = max(min(200, (64 << 20) / bytes), 5)
            var samples: [Double] = []
            for _ in 0..<repeats {
                try communicator.barrier()
                let start = ContinuousClock.now
                try communicator.allReduce(tensor)
                samples.append(start.duration(to: .now).inWholeSeconds)
            }
            return Row(bytes: bytes, seconds: samples.sorted()[repeats / 2])
        }
    }
}
