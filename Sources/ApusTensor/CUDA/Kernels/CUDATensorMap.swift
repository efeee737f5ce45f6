import CApusCUDA

/// A description of a tensor in GPU memory for the copy engine of Hopper (TMA): handed to kernels by value, as
/// `.value(map)` for a parameter `const __grid_constant__ CUtensorMap`.
public typealias CUDATensorMap = apus_cuda_tensor_map

extension CUDATensorMap {
    /// Types of elements (CUtensorMapDataType).
    public enum Element: Int32, Sendable {
        /// One byte, FP8 too.
        case u8 = 0
        /// Half precision.
        case f16 = 6
        /// Single precision.
        case f32 = 7
        /// bfloat16.
        case bf16 = 9
    }

    /// How 16-byte pieces are permuted in shared memory (CUtensorMapSwizzle), against bank conflicts.
    public enum Swizzle: Int32, Sendable {
        /// Not at all.
        case none = 0
        /// Within 32 bytes.
        case b32 = 1
        /// Within 64 bytes.
        case b64 = 2
        /// Within 128 bytes.
        case b128 = 3
    }

    /// How much the L2 cache fetches at once (CUtensorMapL2promotion).
    public enum L2Promotion: Int32, Sendable {
        /// What is asked for.
        case none = 0
        /// 64 bytes.
        case b64 = 1
        /// 128 bytes.
        case b128 = 2
        /// 256 bytes.
        case b256 = 3
    }

    /// A map. `extents` of the tensor and of the `box` that one copy takes, in elements, innermost first; `strides` in bytes,
    /// from the second axis on. Elements outside the tensor read as zero. A copy must begin at a multiple of 16 bytes of the
    /// innermost axis: elsewhere the GPU stops it as an illegal instruction.
    ///
    /// Throws ``CUDAError/call(name:code:codeName:meaning:kernel:)`` when the driver refuses it: the address must be a
    /// multiple of 16, strides too, box extents at most 256, and the innermost box extent as wide as the swizzle or less.
    public init(
        _ element: Element, address: UInt64, extents: [Int], strides: [Int], box: [Int], swizzle: Swizzle = .b128,
        l2Promotion: L2Promotion = .b128
    ) throws(CUDAError) {
        let rank = extents.count
        guard (1...5).contains(rank), strides.count == rank - 1, box.count == rank,
            (extents + strides + box).allSatisfy({ $0 >= 0 }), box.allSatisfy({ $0 <= 256 })
        else {
            throw .launch(kernel: "tensor map", problem: "extents \(extents), strides \(strides), box \(box)")
        }
        let driver = try CUDADriver.shared.get()
        // The array has an entry also at rank 1, where the driver reads none.
        let wideStrides = strides.map { UInt64($0) } + [0]
        self.init()
        let code = withUnsafeTemporaryAllocation(byteCount: MemoryLayout<Self>.size, alignment: 64) { storage in
            let map = storage.bindMemory(to: CUDATensorMap.self)
            map.initialize(repeating: CUDATensorMap())
            let code = driver.functions.pointee.cuTensorMapEncodeTiled(
                map.baseAddress, element.rawValue, UInt32(rank), UnsafeMutableRawPointer(bitPattern: UInt(address)),
                extents.map { UInt64($0) }, wideStrides, box.map { UInt32($0) }, [UInt32](repeating: 1, count: rank), 0,
                swizzle.rawValue, l2Promotion.rawValue, 0)
            self = map[0]
            return code
        }
        try driver.check(
            "cuTensorMapEncodeTiled", code, kernel: "extents \(extents), strides \(strides), box \(box), \(swizzle)")
    }
}
