import CApusKernels
import Testing

/// Products under every dtype and instruction set. Serialised: whether oneDNN serves is the process's choice.
@Suite(.serialized) struct ProductsSuite {}

/// A dtype with what the tests need to know of it.
struct ProductType: CustomTestStringConvertible, Sendable {
    let name: String
    let value: apus_dtype
    /// Bound on ||found - exact|| / ||exact|| in default precision for random operands, as the header states it.
    let bound: Double

    var testDescription: String { name }
    var block: Int { Int(apus_block_elements(value)) }
    var blockBytes: Int { Int(apus_block_bytes(value)) }
    var isQuantised: Bool { value.rawValue >= APUS_Q8_0.rawValue }

    static let all = [
        ProductType(name: "f32", value: APUS_F32, bound: 1e-6),
        ProductType(name: "bf16", value: APUS_BF16, bound: 4e-3),
        ProductType(name: "f16", value: APUS_F16, bound: 1e-6),
        ProductType(name: "q8_0", value: APUS_Q8_0, bound: 1e-2),
        ProductType(name: "q4_0", value: APUS_Q4_0, bound: 1e-2),
        ProductType(name: "q4_1", value: APUS_Q4_1, bound: 1e-2),
        ProductType(name: "q4_k", value: APUS_Q4_K, bound: 1e-2),
        ProductType(name: "q6_k", value: APUS_Q6_K, bound: 1e-2),
    ]
    static let quantised = all.filter(\.isQuantised)
}

/// The instruction sets of this machine.
let productInstructionSets: [String] = {
    let found = ["portable", "avx2", "avx512", "avx512bf16"].filter { (name: String) in apus_select_isa(name) == 0 }
    _ = apus_select_isa("best")
    return found
}()

/// Runs `body` under an instruction set and goes back to the best one.
func withInstructionSet(_ name: String, _ body: () -> Void) {
    #expect(apus_select_isa(name) == 0)
    #expect(String(cString: apus_isa()) == name)
    body()
    _ = apus_select_isa("best")
}

func withPool(threads: Int, _ body: (OpaquePointer) -> Void) {
    guard let pool = apus_pool_create(Int32(threads)) else {
        Issue.record("no pool of \(threads) threads")
        return
    }
    body(pool)
    apus_pool_destroy(pool)
}

/// A random weight: its file bytes (at an odd address), the prepared weight and its rows in f32.
final class TestWeight {
    let type: ProductType
    let rows: Int
    let columns: Int
    let expanded: [Float]
    let handle: OpaquePointer
    private let memory: UnsafeMutableRawPointer

    init(_ type: ProductType, rows: Int, columns: Int, pool: OpaquePointer, random: inout SplitMix) {
        self.type = type
        self.rows = rows
        self.columns = columns
        let blocks = rows * columns / type.block
        memory = .allocate(byteCount: blocks * type.blockBytes + 64, alignment: 64)
        let data = memory + 2
        for i in 0..<blocks * type.blockBytes {
            data.storeBytes(of: UInt8.random(in: 0...255, using: &random), toByteOffset: i, as: UInt8.self)
        }
        for i in 0..<blocks { Self.setScales(data + i * type.blockBytes, type, &random) }
        var expanded = [Float](repeating: 0, count: rows * columns)
        apus_dequantize(type.value, data, Int64(rows * columns), &expanded)
        self.expanded = expanded
        handle = apus_weight_create(pool, type.value, data, Int64(rows), Int64(columns))!
    }

    /// Another prepared weight of the same bytes, which owns its memory.
    func copied(_ pool: OpaquePointer) -> OpaquePointer {
        apus_weight_create_copy(pool, type.value, memory + 2, Int64(rows), Int64(columns))!
    }

    deinit {
        apus_weight_destroy(handle)
        memory.deallocate()
    }

    /// Random bytes are fine quants but not fine scales.
    private static func setScales(_ block: UnsafeMutableRawPointer, _ type: ProductType, _ random: inout SplitMix) {
        let value = Float.random(in: -1...1, using: &random)
        func half(_ float: Float) -> UInt16 { halfBits(float) }
        func store(_ bits: UInt16, at offset: Int) { block.storeBytes(of: bits, toByteOffset: offset, as: UInt16.self) }
        switch type.value {
        case APUS_F32: block.storeBytes(of: value, as: Float.self)
        case APUS_BF16: store(UInt16(value.bitPattern >> 16), at: 0)
        case APUS_F16: store(half(value), at: 0)
        case APUS_Q6_K: store(half(value / 64), at: 208)
        case APUS_Q4_1, APUS_Q4_K:
            store(half(value / 8), at: 0)
            store(half(Float.random(in: -1...1, using: &random)), at: 2)
        default: store(half(value / 8), at: 0)
        }
    }
}

/// The nearest half-precision float of a value between 2^-14 and 65504 in magnitude, towards zero; below, zero.
func halfBits(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    let sign = UInt16(bits >> 16) & 0x8000
    let exponent = Int((bits >> 23) & 255) - 112
    guard exponent > 0 else { return sign }
    return sign | UInt16(exponent << 10) | UInt16((bits >> 13) & 0x3ff)
}

/// x W^T + bias in float64.
func exactLinear(_ x: StridedRows, _ weight: TestWeight, bias: [Float]? = nil) -> [Double] {
    var out = [Double](repeating: 0, count: x.rows * weight.rows)
    for t in 0..<x.rows {
        for r in 0..<weight.rows {
            var sum = bias.map { Double($0[r]) } ?? 0
            for i in 0..<weight.columns {
                sum += Double(x.values[t * x.stride + i]) * Double(weight.expanded[r * weight.columns + i])
            }
            out[t * weight.rows + r] = sum
        }
    }
    return out
}

/// ||found - exact|| / ||exact||; not a number when something found is not.
func relativeError(_ found: StridedRows, _ exact: [Double]) -> Double {
    var difference = 0.0
    var norm = 0.0
    for t in 0..<found.rows {
        for r in 0..<found.width {
            let expected = exact[t * found.width + r]
            let distance = Double(found.values[t * found.stride + r]) - expected
            difference += distance * distance
            norm += expected * expected
        }
    }
    return (difference / max(norm, 1e-30)).squareRoot()
}

/// One product of x with one weight.
func linear(
    _ pool: OpaquePointer, _ precision: apus_precision, _ x: StridedRows, _ weight: TestWeight, bias: [Float]? = nil,
    onto start: StridedRows? = nil
) -> StridedRows {
    var out = start ?? StridedRows(rows: x.rows, width: weight.rows)
    let stride = Int64(out.stride)
    let status = out.values.withUnsafeMutableBufferPointer { values in
        (bias ?? []).withUnsafeBufferPointer { bias in
            var output = apus_linear_output(
                weight: weight.handle, out: values.baseAddress, out_stride: stride,
                bias: bias.isEmpty ? nil : bias.baseAddress, accumulate: start == nil ? 0 : 1)
            return apus_linear(pool, precision, x.values, Int64(x.rows), Int64(x.stride), &output, 1)
        }
    }
    #expect(status == 0)
    #expect(out.gapsAreUntouched)
    return out
}
