import ApusTensor
import CApusKernels

/// How a geometry's elements lie in memory: the dtype of each part and the order within a page.
///
/// A page holds `pageSize` tokens of one layer: first `[group][token][shared | value | own key]`, then `[token][key kept
/// once]`. Rows are 16-byte aligned; each group's plane and the plane of the keys kept once are 128-byte aligned. A part of
/// q8_0 takes whole blocks of 32 elements, the last filled with zeros.
public struct CacheLayout: Sendable, Hashable {
    /// Dtypes a cache can have.
    public static let dtypes: [DType] = [.f32, .bf16, .f16, .q8_0]

    /// Dtype of the part that is read both as key and value.
    public let shared: DType
    /// Dtype of the key-only part.
    public let key: DType
    /// Dtype of the value-only part.
    public let value: DType

    /// One dtype for all parts.
    /// - Throws: ``CacheError/dtype(_:)`` when it is none of ``dtypes``.
    public init(dtype: DType) throws { try self.init(shared: dtype, key: dtype, value: dtype) }

    /// A dtype per part.
    /// - Throws: ``CacheError/dtype(_:)`` when one is none of ``dtypes``.
    public init(shared: DType, key: DType, value: DType) throws {
        for dtype in [shared, key, value] where !Self.dtypes.contains(dtype) { throw CacheError.dtype(dtype) }
        self.shared = shared
        self.key = key
        self.value = value
    }

    /// Bytes of one page of one layer, alignment included.
    public func pageBytes(of geometry: CacheGeometry, pageSize: Int) -> Int {
        Int(kernelLayout(of: geometry, pageSize: pageSize).page_bytes)
    }

    /// Bytes that one token takes in one layer, alignment included.
    public func bytesPerToken(of geometry: CacheGeometry, pageSize: Int) -> Double {
        Double(pageBytes(of: geometry, pageSize: pageSize)) / Double(pageSize)
    }

    /// The offsets and strides that kernels read.
    func kernelLayout(of geometry: CacheGeometry, pageSize: Int) -> apus_cache_layout {
        let ownKey = geometry.keyKept == .perGroup
        let sharedBytes = Self.bytes(shared, geometry.shared)
        let valueBytes = Self.bytes(value, geometry.value)
        let keyBytes = Self.bytes(key, geometry.key)
        let row = roundUp(sharedBytes + valueBytes + (ownKey ? keyBytes : 0), 16)
        let plane = roundUp(row * pageSize, 128)
        let onceRow = ownKey ? 0 : roundUp(keyBytes, 16)
        return apus_cache_layout(
            query_heads: Int64(geometry.queryHeads), groups: Int64(geometry.groups), shared: Int64(geometry.shared),
            key: Int64(geometry.key), value: Int64(geometry.value), key_once: ownKey ? 0 : 1,
            shared_type: Self.kernelType(shared), key_type: Self.kernelType(key), value_type: Self.kernelType(value),
            page_size: Int64(pageSize), page_bytes: Int64(plane * geometry.groups + roundUp(onceRow * pageSize, 128)),
            group_stride: Int64(plane), row_stride: Int64(row), value_offset: Int64(sharedBytes),
            key_offset: Int64(sharedBytes + valueBytes), once_offset: Int64(plane * geometry.groups),
            once_stride: Int64(onceRow))
    }

    private static func bytes(_ dtype: DType, _ width: Int) -> Int {
        Int(apus_cache_part_bytes(kernelType(dtype), Int64(width)))
    }

    private static func kernelType(_ dtype: DType) -> apus_cache_type {
        switch dtype {
        case .f32: APUS_CACHE_F32
        case .bf16: APUS_CACHE_BF16
        case .f16: APUS_CACHE_F16
        case .q8_0: APUS_CACHE_Q8_0
        default: preconditionFailure("a cache layout holds only \(dtypes)")
        }
    }
}

private func roundUp(_ value: Int, _ multiple: Int) -> Int { (value + multiple - 1) / multiple * multiple }
