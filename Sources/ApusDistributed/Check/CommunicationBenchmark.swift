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
    private let stream: CUDAStream?

    /// A benchmark of a communicator; all its ranks run it.
    /// - Parameter stream: of the GPU whose memory the communicator takes; nil for memory of the host.
    public init(_ communicator: any Communicator, stream: CUDAStream? = nil) {
        self.communicator = communicator
        self.stream = stream
    }

    /// Times buffers of these sizes.
    public func run(bytes sizes: [Int] = [4, 1 << 10, 48 << 10, 1 << 20, 16 << 20]) throws -> [Row] {
        try sizes.map { bytes in
            let buffer = try zeros(bytes)
            let repeats = max(min(200, (64 << 20) / bytes), 5)
            var samples: [Double] = []
            for _ in 0..<repeats {
                try communicator.barrier()
                let start = ContinuousClock.now
                try communicator.run(.allReduce(buffer, .sum))
                samples.append(start.duration(to: .now).inWholeSeconds)
            }
            return Row(bytes: bytes, seconds: samples.sorted()[repeats / 2])
        }
    }

    private func zeros(_ bytes: Int) throws -> CommunicationBuffer {
        if let stream {
            let buffer = try CUDABuffer(byteCount: bytes, stream: stream)
            try stream.fill(buffer, with: 0)
            return CommunicationBuffer(buffer, count: bytes / 4, type: .f32)
        }
        let tensor = Tensor(uninitialized: [bytes / 4])
        tensor.fillWithZeros()
        return CommunicationBuffer(tensor)
    }
}
