import ApusTensor

/// Runs every collective on every type over odd sizes, and compares with what it must give.
public struct CommunicationCheck {
    /// What a check found on this rank.
    public struct Outcome: Sendable, Equatable {
        /// Cases.
        public var cases = 0
        /// Those that gave something else, with the first element that did.
        public var failures: [String] = []

        /// Nothing checked yet.
        public init() {}
    }

    private let communicator: any Communicator
    private let sends: Bool
    private var outcome = Outcome()
    private static let types: [DType] = [.f32, .f64, .bf16, .i32, .i64, .u8]
    private static let counts = [1, 7, 64, 1000, 70_001]

    /// A check of a communicator; all its ranks run it.
    /// - Parameter sends: whether two ranks alone can send to each other.
    public init(_ communicator: any Communicator, sends: Bool = true) {
        self.communicator = communicator
        self.sends = sends
    }

    /// Checks all collectives, in the foreground and in the background.
    public mutating func run() throws -> Outcome {
        for type in Self.types {
            for count in Self.counts {
                try movement(type, count)
                if type != .u8 { for reduction in Reduction.allCases { try reductions(type, count, reduction) } }
            }
        }
        try background()
        try communicator.barrier()
        return outcome
    }

    private var rank: Int { communicator.rank }
    private var size: Int { communicator.size }

    private mutating func movement(_ type: DType, _ count: Int) throws {
        let mine = tensor(type, count) { Self.value(rank, $0) }
        let all = try communicator.allGather(mine)
        expect("all-gather", all) { Self.value($0 / count, $0 % count) }
        let root = size - 1
        let sent = tensor(type, count) { rank == root ? Self.value(root, $0) : 0 }
        try communicator.broadcast(sent, from: root)
        expect("broadcast", sent) { Self.value(root, $0) }
        guard size > 1, sends else { return }
        // Around the ring: every rank sends to the next.
        let received = tensor(type, count) { _ in 0 }
        let previous = (rank + size - 1) % size
        let sending = try communicator.start(.send(CommunicationBuffer(mine), to: (rank + 1) % size))
        let receiving = try communicator.start(.receive(CommunicationBuffer(received), from: previous))
        try sending.wait()
        try receiving.wait()
        expect("send and receive", received) { Self.value(previous, $0) }
    }

    private mutating func reductions(_ type: DType, _ count: Int, _ reduction: Reduction) throws {
        let size = size
        func reduced(_ index: Int) -> Int {
            let values = (0..<size).map { Self.value($0, index) }
            return reduction == .sum ? values.reduce(0, +) : values.max() ?? 0
        }
        let whole = tensor(type, count) { Self.value(rank, $0) }
        try communicator.allReduce(whole, reduction)
        expect("all-reduce \(reduction.rawValue)", whole, reduced)
        let parts = tensor(type, count * size) { Self.value(rank, $0) }
        let share = try communicator.reduceScatter(parts, reduction)
        let first = rank * count
        expect("reduce-scatter \(reduction.rawValue)", share) { reduced(first + $0) }
    }

    /// Several at once, waited for in another order, with a foreground one behind them.
    private mutating func background() throws {
        let tensors = (0..<6).map { number in tensor(.f32, 5000 + number) { Self.value(rank, $0 + number) } }
        let pending = try tensors.map { try communicator.start(.allReduce(CommunicationBuffer($0), .sum)) }
        let last = tensor(.f32, 3) { Self.value(rank, $0) }
        try communicator.allReduce(last)
        for waiting in pending.reversed() { try waiting.wait() }
        let size = size
        for (number, tensor) in tensors.enumerated() {
            expect("all-reduce in the background", tensor) { index in
                (0..<size).reduce(0) { $0 + Self.value($1, index + number) }
            }
        }
        expect("all-reduce behind the background", last) { index in (0..<size).reduce(0) { $0 + Self.value($1, index) }
        }
    }

    /// Small whole numbers, so that sums are exact in every type.
    private static func value(_ rank: Int, _ index: Int) -> Int { (index * 7 + rank * 3) % 11 }

    private func tensor(_ type: DType, _ count: Int, _ value: (Int) -> Int) -> Tensor {
        let result = Tensor(uninitialized: [count], dtype: type)
        func fill<T>(_: T.Type, _ convert: (Int) -> T) {
            result.withMutableElements(of: T.self) { for index in 0..<count { $0[index] = convert(value(index)) } }
        }
        switch type {
        case .f32: fill(Float.self) { Float($0) }
        case .f64: fill(Double.self) { Double($0) }
        case .bf16: fill(UInt16.self) { UInt16(truncatingIfNeeded: Float($0).bitPattern >> 16) }
        case .i32: fill(Int32.self) { Int32($0) }
        case .i64: fill(Int64.self) { Int64($0) }
        default: fill(UInt8.self) { UInt8($0) }
        }
        return result
    }

    private mutating func expect(_ what: String, _ found: Tensor, _ value: (Int) -> Int) {
        outcome.cases += 1
        let expected = tensor(found.dtype, found.count, value)
        let width = found.dtype.bytesPerBlock
        for index in 0..<found.count {
            let same = (0..<width).allSatisfy {
                found.pointer(as: UInt8.self)[index * width + $0]
                    == expected.pointer(as: UInt8.self)[index * width + $0]
            }
            guard same else {
                outcome.failures.append(
                    "\(what) of \(found.count) \(found.dtype): element \(index) on rank \(rank) is not \(value(index))")
                return
            }
        }
    }
}
