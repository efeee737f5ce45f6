import ApusTensor

/// A tensor's element type as a GGUF file numbers it (source: `ggml_type` and the block structs of ggml).
public struct GGUFTensorType: Sendable, Hashable, CustomStringConvertible {
    /// The number in the file.
    public let rawValue: UInt32

    /// The type of this number, known or not.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The type that holds tensors of `dtype`, or nil when GGUF has none (`u8`, `bool`, `f8e4m3`).
    public init?(_ dtype: DType) {
        guard let entry = Self.table.first(where: { $0.value.dtype == dtype }) else { return nil }
        rawValue = entry.key
    }

    private struct Entry {
        let name: String
        let blockSize: Int
        let bytesPerBlock: Int
        let dtype: DType?

        init(_ name: String, _ blockSize: Int, _ bytesPerBlock: Int, _ dtype: DType? = nil) {
            self.name = name
            self.blockSize = blockSize
            self.bytesPerBlock = bytesPerBlock
            self.dtype = dtype
        }
    }

    private static let table: [UInt32: Entry] = [
        0: Entry("F32", 1, 4, .f32), 1: Entry("F16", 1, 2, .f16),
        2: Entry("Q4_0", 32, 18, .q4_0), 3: Entry("Q4_1", 32, 20, .q4_1),
        6: Entry("Q5_0", 32, 22), 7: Entry("Q5_1", 32, 24),
        8: Entry("Q8_0", 32, 34, .q8_0), 9: Entry("Q8_1", 32, 40),
        10: Entry("Q2_K", 256, 84), 11: Entry("Q3_K", 256, 110),
        12: Entry("Q4_K", 256, 144, .q4_K), 13: Entry("Q5_K", 256, 176),
        14: Entry("Q6_K", 256, 210, .q6_K), 15: Entry("Q8_K", 256, 292),
        16: Entry("IQ2_XXS", 256, 66), 17: Entry("IQ2_XS", 256, 74),
        18: Entry("IQ3_XXS", 256, 98), 19: Entry("IQ1_S", 256, 50),
        20: Entry("IQ4_NL", 32, 18), 21: Entry("IQ3_S", 256, 110),
        22: Entry("IQ2_S", 256, 82), 23: Entry("IQ4_XS", 256, 136),
        24: Entry("I8", 1, 1, .i8), 25: Entry("I16", 1, 2, .i16),
        26: Entry("I32", 1, 4, .i32), 27: Entry("I64", 1, 8, .i64),
        28: Entry("F64", 1, 8, .f64), 29: Entry("IQ1_M", 256, 56),
        30: Entry("BF16", 1, 2, .bf16),
        34: Entry("TQ1_0", 256, 54), 35: Entry("TQ2_0", 256, 66),
        39: Entry("MXFP4", 32, 17), 40: Entry("NVFP4", 64, 36), 41: Entry("Q1_0", 128, 18),
    ]

    /// Names of the types whose tensors can be used, for messages.
    static let supportedNames = table.sorted { $0.key < $1.key }.filter { $0.value.dtype != nil }
        .map(\.value.name).joined(separator: ", ")

    /// The name ggml gives it, or `type N` for an unknown number.
    public var description: String { Self.table[rawValue]?.name ?? "type \(rawValue)" }

    /// The dtype of its tensors here, or nil when they cannot be used.
    public var dtype: DType? { Self.table[rawValue]?.dtype }

    /// Elements in one block, or nil for an unknown number.
    public var blockSize: Int? { Self.table[rawValue]?.blockSize }

    /// Bytes of a tensor with rows of `row` elements, or nil when the type is unknown, a row is no whole number of
    /// blocks, or the size overflows.
    func byteCount(row: Int, rows: Int) -> Int? {
        guard let entry = Self.table[rawValue], row % entry.blockSize == 0 else { return nil }
        let (rowBytes, overflow) = (row / entry.blockSize).multipliedReportingOverflow(by: entry.bytesPerBlock)
        let (bytes, overflow2) = rowBytes.multipliedReportingOverflow(by: rows)
        return overflow || overflow2 ? nil : bytes
    }
}
