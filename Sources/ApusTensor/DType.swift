/// The element type of a tensor.
///
/// Plain types hold one element in `bytesPerBlock` bytes. Packed types are GGUF's quantised blocks: `blockSize`
/// consecutive elements of a row share one block (source: the GGUF specification and ggml's block structs).
public enum DType: String, Sendable, Hashable, CaseIterable {
    case f64, f32, bf16, f16, f8e4m3, i64, i32, i16, i8, u8, bool
    case q8_0, q4_0, q4_1, q4_K, q6_K

    /// Elements in one block: 1 for plain types.
    public var blockSize: Int {
        switch self {
        case .q8_0, .q4_0, .q4_1: 32
        case .q4_K, .q6_K: 256
        default: 1
        }
    }

    /// Bytes of one block; for plain types, of one element.
    public var bytesPerBlock: Int {
        switch self {
        case .f64, .i64: 8
        case .f32, .i32: 4
        case .bf16, .f16, .i16: 2
        case .f8e4m3, .i8, .u8, .bool: 1
        case .q8_0: 34
        case .q4_0: 18
        case .q4_1: 20
        case .q4_K: 144
        case .q6_K: 210
        }
    }

    /// Whether elements lie in packed blocks.
    public var isPacked: Bool { blockSize > 1 }

    /// Whether it stands for real numbers.
    public var isFloatingPoint: Bool {
        switch self {
        case .f64, .f32, .bf16, .f16, .f8e4m3: true
        default: isPacked
        }
    }

    /// Bytes of a row of `count` elements, or nil when `count` is no multiple of the block or the size overflows.
    public func byteCount(elements count: Int) -> Int? {
        guard count >= 0, count % blockSize == 0 else { return nil }
        let (bytes, overflow) = (count / blockSize).multipliedReportingOverflow(by: bytesPerBlock)
        return overflow ? nil : bytes
    }
}
