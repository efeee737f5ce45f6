import ApusTensor

/// An element type as safetensors names it (source: the safetensors format and its reference implementation).
public struct SafetensorsDType: Sendable, Hashable, CustomStringConvertible {
    /// The name in the header.
    public let description: String
    /// Bits of one element.
    let bits: Int
    /// The dtype of its tensors here, or nil when they cannot be used.
    public let dtype: DType?

    private init(_ description: String, _ bits: Int, _ dtype: DType? = nil) {
        self.description = description
        self.bits = bits
        self.dtype = dtype
    }

    private static let all = [
        Self("F64", 64, .f64), Self("F32", 32, .f32), Self("F16", 16, .f16), Self("BF16", 16, .bf16),
        Self("F8_E4M3", 8, .f8e4m3), Self("I64", 64, .i64), Self("I32", 32, .i32), Self("I16", 16, .i16),
        Self("I8", 8, .i8), Self("U8", 8, .u8), Self("BOOL", 8, .bool),
        Self("U16", 16), Self("U32", 32), Self("U64", 64), Self("C64", 64), Self("F8_E5M2", 8), Self("F8_E8M0", 8),
        Self("F8_E4M3FNUZ", 8), Self("F8_E5M2FNUZ", 8),
        Self("F6_E2M3", 6), Self("F6_E3M2", 6), Self("F4", 4),
    ]

    static let supportedNames = all.filter { $0.dtype != nil }.map(\.description).joined(separator: ", ")

    /// The type of this name, or nil for an unknown one.
    init?(name: String) {
        guard let found = Self.all.first(where: { $0.description == name }) else { return nil }
        self = found
    }

    /// The type that holds tensors of `dtype`, or nil for packed ones.
    init?(_ dtype: DType) {
        guard let found = Self.all.first(where: { $0.dtype == dtype }) else { return nil }
        self = found
    }

    /// Bytes of `count` elements, or nil when they are no whole number of bytes or overflow.
    func byteCount(elements count: Int) -> Int? {
        let (total, overflow) = count.multipliedReportingOverflow(by: bits)
        return overflow || total % 8 != 0 ? nil : total / 8
    }
}
