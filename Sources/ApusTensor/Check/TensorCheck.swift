/// Holds every operation of a backend, forward and backward, against float64 on fresh random data of odd shapes.
public struct TensorCheck {
    /// What became of one result of an operation over all its cases.
    public struct Row: Sendable, Equatable {
        /// The operation.
        public let operation: String
        /// Dtypes, as "f32" or "bf16 > f32" where result and operands differ.
        public let dtypes: String
        /// Which result: "output", "gradient of the weight".
        public let part: String
        /// Cases it occurred in.
        public var cases = 0
        /// The largest ||a - b|| / ||b|| over the cases, b being float64.
        public var worstError = 0.0
        /// What that must stay below; 0: the same bits.
        public let tolerance: Double
        /// Whether all cases did.
        public var passes: Bool { worstError <= tolerance }
    }

    /// What is checked.
    public let backend: any DifferentiableBackend
    /// Cases of each operation.
    public let cases: Int
    private(set) var rows: [Row] = []
    var random: CheckNumbers

    /// A check of a backend.
    public init(_ backend: any DifferentiableBackend, cases: Int = 6, seed: UInt64) {
        self.backend = backend
        self.cases = cases
        random = CheckNumbers(state: seed)
    }

    /// Runs all operations.
    /// - Throws: what fails on the device.
    public mutating func run() throws -> [Row] {
        for _ in 0..<cases {
            try checkConversions()
            try checkProducts()
            try checkJoinedProducts()
            try checkNorms()
            try checkSwiGLU()
            try checkActivations()
            try checkRows()
            try checkCrossEntropy()
            try checkShardedCrossEntropy()
            try checkRotation()
            try checkSums()
            try checkAdamW()
            try checkInference()
        }
        for variant in AttentionCase.variants { try checkAttention(variant) }
        return rows
    }

    /// Dtypes of activations and operands that the backend takes beside float32.
    var activationTypes: [DType] { backend.device == .cpu ? [.f32] : [.f32, .bf16] }

    // MARK: Data

    /// A random extent: often one that is no multiple of anything.
    mutating func extent(most: Int = 300) -> Int {
        let odd = [1, 3, 7, 16, 33, 64, 130, 257, 576, 1030].filter { $0 <= most }
        return Bool.random(using: &random)
            ? odd.randomElement(using: &random)! : Int.random(in: 1...most, using: &random)
    }

    /// Numbers about 0 that the dtype has, and a tensor of them in the device's memory.
    mutating func tensor(_ shape: Shape, _ dtype: DType = .f32, scale: Float = 1) -> (tensor: Tensor, values: [Double])
    {
        let values = (0..<shape.count).map { _ in random.normal() * scale }
        return tensor(values, shape, dtype)
    }

    func tensor(_ values: [Float], _ shape: Shape, _ dtype: DType = .f32) -> (tensor: Tensor, values: [Double]) {
        guard dtype == .bf16 else {
            return (backend.copyToDevice(Tensor(values, shape: shape)), values.map(Double.init))
        }
        let bits = values.map(Self.bf16)
        let host = Tensor(uninitialized: shape, dtype: .bf16)
        host.withMutableElements(of: UInt16.self) { _ = $0.update(from: bits) }
        return (backend.copyToDevice(host), bits.map(Self.value))
    }

    /// To nearest even.
    static func bf16(_ x: Float) -> UInt16 {
        let bits = x.bitPattern
        return UInt16((UInt64(bits) + 0x7fff + UInt64(bits >> 16 & 1)) >> 16)
    }

    static func value(_ bits: UInt16) -> Double { Double(Float(bitPattern: UInt32(bits) << 16)) }

    /// The elements of a tensor, from wherever it lies.
    func values(_ x: Tensor) throws -> [Double] {
        let host = try backend.toHost([x])[0]
        switch host.dtype {
        case .bf16: return host.withElements(of: UInt16.self) { $0.map(Self.value) }
        case .f64: return host.doubles
        default: return host.floats.map(Double.init)
        }
    }

    // MARK: Comparison

    /// What rounding to a dtype, and sums in float32, leave.
    static func tolerance(_ dtype: DType) -> Double { dtype == .bf16 ? 5e-3 : 2e-5 }

    mutating func compare(
        _ operation: String, _ dtypes: String, _ part: String, _ found: Tensor, _ expected: [Double],
        tolerance: Double? = nil, about zero: [Double]? = nil
    ) throws {
        let values = try values(found)
        record(
            operation, dtypes, part, Self.error(values, expected, about: zero),
            tolerance ?? Self.tolerance(found.dtype))
    }

    /// ||a - b|| / ||b||, or, where b was added to something, over the norm of both.
    static func error(_ a: [Double], _ b: [Double], about zero: [Double]? = nil) -> Double {
        guard a.count == b.count else { return .infinity }
        var (difference, norm) = (0.0, 0.0)
        for (index, value) in b.enumerated() {
            difference += (a[index] - value) * (a[index] - value)
            norm += value * value + (zero.map { $0[index] * $0[index] } ?? 0)
        }
        if difference == 0 { return 0 }
        let result = (difference / max(norm, 1e-300)).squareRoot()
        return result.isNaN ? .infinity : result
    }

    mutating func record(
        _ operation: String, _ dtypes: String, _ part: String, _ error: Double, _ tolerance: Double
    ) {
        let place =
            rows.firstIndex { $0.operation == operation && $0.dtypes == dtypes && $0.part == part }
            ?? {
                rows.append(Row(operation: operation, dtypes: dtypes, part: part, tolerance: tolerance))
                return rows.count - 1
            }()
        rows[place].cases += 1
        rows[place].worstError = max(rows[place].worstError, error)
    }
}

/// Random numbers by SplitMix64.
struct CheckNumbers: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// About N(0, 1): the sum of twelve uniform numbers less 6.
    mutating func normal() -> Float {
        (0..<12).reduce(-6) { sum, _ in sum + Float.random(in: 0..<1, using: &self) }
    }
}

/// A row-major matrix in float64.
struct ReferenceMatrix {
    let rows: Int
    let columns: Int
    var values: [Double]

    init(_ rows: Int, _ columns: Int, _ values: [Double]) {
        (self.rows, self.columns, self.values) = (rows, columns, values)
    }

    subscript(row: Int, column: Int) -> Double { values[row * columns + column] }

    var transposed: ReferenceMatrix {
        ReferenceMatrix(columns, rows, (0..<values.count).map { self[$0 % rows, $0 / rows] })
    }

    static func * (a: ReferenceMatrix, b: ReferenceMatrix) -> ReferenceMatrix {
        var result = [Double](repeating: 0, count: a.rows * b.columns)
        for i in 0..<a.rows {
            for k in 0..<a.columns {
                let x = a[i, k]
                for j in 0..<b.columns { result[i * b.columns + j] += x * b.values[k * b.columns + j] }
            }
        }
        return ReferenceMatrix(a.rows, b.columns, result)
    }
}
