import CApusKernels

/// A small deterministic generator (SplitMix64), so that a failing case is the same case tomorrow.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func floats(_ count: Int, in range: ClosedRange<Float> = -4...4) -> [Float] {
        (0..<count).map { _ in Float.random(in: range, using: &self) }
    }
}

/// Rows with a gap between them: a gap that a kernel writes to shows up.
struct StridedRows {
    static let poison: Float = -12345.5
    let rows: Int
    let width: Int
    let stride: Int
    var values: [Float]

    init(rows: Int, width: Int) {
        self.rows = rows
        self.width = width
        stride = width + 3
        values = Array(repeating: Self.poison, count: rows * stride)
    }

    init(rows: Int, width: Int, random: inout SplitMix, in range: ClosedRange<Float> = -4...4) {
        self.init(rows: rows, width: width)
        for row in 0..<rows {
            for (i, value) in random.floats(width, in: range).enumerated() { values[row * stride + i] = value }
        }
    }

    func row(_ row: Int) -> [Double] { values[row * stride..<row * stride + width].map(Double.init) }

    var gapsAreUntouched: Bool {
        (0..<rows).allSatisfy { row in
            values[row * stride + width..<(row + 1) * stride].allSatisfy { $0 == Self.poison }
        }
    }

    /// Largest |found - expected| / max(|expected|, floor).
    func largestError(against expected: (Int) -> [Double], floor: Double) -> Double {
        largestError(against: expected) { _ in floor }
    }

    func largestError(against expected: (Int) -> [Double], floor: (Int) -> Double) -> Double {
        var worst = 0.0
        for r in 0..<rows {
            let least = floor(r)
            for (found, exact) in zip(row(r), expected(r)) {
                let error = abs(found - exact) / max(abs(exact), least)
                if !(error <= worst) { worst = error }
            }
        }
        return worst
    }
}

/// Every shape a row kernel sees: below, at and above vector widths, and real ones.
let rowShapes: [(rows: Int, width: Int)] = [
    (1, 1), (2, 2), (3, 3), (1, 5), (2, 15), (3, 16), (1, 17), (2, 31), (5, 33), (2, 64), (3, 67), (1, 100), (64, 576),
    (70, 1000),
]

/// Runs `body` on every instruction set this machine has, without a pool and with one of three threads.
func onEveryInstructionSet(_ body: (OpaquePointer?) -> Void) {
    let pool = apus_pool_create(3)
    defer { apus_pool_destroy(pool) }
    for name in ["portable", "avx2", "avx512", "avx512bf16"] where apus_select_isa(name) == 0 {
        body(nil)
        body(pool)
    }
    _ = apus_select_isa("best")
}

/// 2^-24: half a unit in the last place of a float32 at 1.
let unit = 0x1p-24
