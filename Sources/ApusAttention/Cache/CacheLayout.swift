import ApusTensor
import CApusKernels

/// How a geometry's elements lie in memory: the dtype of each part and the order within a page.
///
/// A page holds `pageSize` tokens of one layer, in one of two orders:
///
/// - rows: first `[group][token][shared | value | own key]`, then `[token][key kept once]`. Rows are 16-byte aligned; each
///   group's plane and the plane of the keys kept once are 128-byte aligned. A part of q8_0 takes whole blocks of 32
///   elements, the last filled with zeros.
/// - blocks, where keys and values are separate (MHA, MQA, GQA), both f32 or both bf16, and a page is a multiple of 64
///   tokens: `[group][block of 64 tokens][keys | values]` with keys transposed and bf16 in pairs, as the products read
///   them. Why: transposing on every read cost a decode step on the CPU three times what its products cost, and hid the
///   stream from the hardware's prefetchers.
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

    /// Whether pages are in blocks rather than in rows.
    public func isBlocked(for geometry: CacheGeometry, pageSize: Int) -> Bool {
        geometry.shared == 0 && geometry.keyKept == .perGroup && key == value && (key == .f32 || key == .bf16)
            && pageSize % Self.blockTokens == 0
    }

    /// The offsets and strides that kernels read.
    func kernelLayout(of geometry: CacheGeometry, pageSize: Int) -> apus_cache_layout {
        var layout = apus_cache_layout()
        layout.query_heads = Int64(geometry.queryHeads)
        layout.groups = Int64(geometry.groups)
        layout.shared = Int64(geometry.shared)
        layout.key = Int64(geometry.key)
        layout.value = Int64(geometry.value)
        layout.key_once = geometry.keyKept == .once ? 1 : 0
        layout.shared_type = Self.kernelType(shared)
        layout.key_type = Self.kernelType(key)
        layout.value_type = Self.kernelType(value)
        layout.page_size = Int64(pageSize)
        if isBlocked(for: geometry, pageSize: pageSize) {
            setBlocks(&layout, geometry, pageSize: pageSize)
        } else {
            setRows(&layout, geometry, pageSize: pageSize)
        }
        return layout
    }

    /// Tokens that the products take at once.
    private static let blockTokens = 64

    private func setBlocks(_ layout: inout apus_cache_layout, _ geometry: CacheGeometry, pageSize: Int) {
        let elementBytes = key.bytesPerBlock
        let keyBytes = roundUp(geometry.key * elementBytes, 4) * Self.blockTokens
        let valueBytes = roundUp(geometry.value, 16) * elementBytes * Self.blockTokens
        layout.blocked = 1
        layout.value_offset = Int64(keyBytes)
        layout.block_bytes = Int64(keyBytes + valueBytes)
        layout.group_stride = Int64((keyBytes + valueBytes) * (pageSize / Self.blockTokens))
        layout.page_bytes = layout.group_stride * layout.groups
    }

    private func setRows(_ layout: inout apus_cache_layout, _ geometry: CacheGeometry, pageSize: Int) {
        let ownKey = geometry.keyKept == .perGroup
        let sharedBytes = Self.bytes(shared, geometry.shared)
        let valueBytes = Self.bytes(value, geometry.value)
        let keyBytes = Self.bytes(key, geometry.key)
        let row = roundUp(sharedBytes + valueBytes + (ownKey ? keyBytes : 0), 16)
        let plane = roundUp(row * pageSize, 128)
        let onceRow = ownKey ? 0 : roundUp(keyBytes, 16)
        layout.group_stride = Int64(plane)
        layout.row_stride = Int64(row)
        layout.value_offset = Int64(sharedBytes)
        layout.key_offset = Int64(sharedBytes + valueBytes)
        layout.once_offset = Int64(plane * geometry.groups)
        layout.once_stride = Int64(onceRow)
        layout.page_bytes = layout.once_offset + Int64(roundUp(onceRow * pageSize, 128))
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
