import ApusTensor
import CApusKernels

extension PagedCache {
    /// A sequence's cached rows of one layer as float32: shared [tokens, groups, width] and the key kept once
    /// [tokens, width].
    ///
    /// Precondition: the layer's geometry keeps its key once and no value apart (MLA, GLA); `tokens` have been appended.
    func latents(layer: Int, batch: CacheBatch, sequence: Int, tokens: Range<Int>) -> (shared: Tensor, key: Tensor) {
        let geometry = geometries[layer]
        precondition(geometry.keyKept == .once && geometry.value == 0, "latents of \(geometry)")
        let shared = Tensor(uninitialized: [tokens.count, geometry.groups, geometry.shared])
        let key = Tensor(uninitialized: [tokens.count, geometry.key])
        let kernelLayout = kernelLayouts[layer]
        let firstPage = tokens.lowerBound / pageSize
        let pageCount = (tokens.upperBound + pageSize - 1) / pageSize - firstPage
        backend.concurrently(pageCount) { [layout, pageSize, memory] index in
            let page = firstPage + index
            let range = max(page * pageSize, tokens.lowerBound)..<min((page + 1) * pageSize, tokens.upperBound)
            let number = batch.page(ofSequence: sequence, token: range.lowerBound, pageSize: pageSize)
            let base = memory.pages(ofLayer: layer) + number * Int(kernelLayout.page_bytes)
            let row = range.lowerBound - tokens.lowerBound
            for group in 0..<geometry.groups {
                let start = base + group * Int(kernelLayout.group_stride)
                CachedRows(type: layout.shared, stride: Int(kernelLayout.row_stride), width: geometry.shared).expand(
                    start + range.lowerBound % pageSize * Int(kernelLayout.row_stride), rows: range.count,
                    into: shared.pointer(as: Float.self) + (row * geometry.groups + group) * geometry.shared,
                    stride: geometry.groups * geometry.shared)
            }
            CachedRows(type: layout.key, stride: Int(kernelLayout.once_stride), width: geometry.key).expand(
                base + Int(kernelLayout.once_offset) + range.lowerBound % pageSize * Int(kernelLayout.once_stride),
                rows: range.count, into: key.pointer(as: Float.self) + row * geometry.key, stride: geometry.key)
        }
        return (shared, key)
    }
}

/// Rows of one part of a page: their type, their distance in bytes, their elements.
private struct CachedRows {
    let type: DType
    let stride: Int
    let width: Int

    func expand(
        _ source: UnsafeRawPointer, rows: Int, into target: UnsafeMutablePointer<Float>, stride targetStride: Int
    ) {
        switch type {
        case .bf16: convert(APUS_FLOAT_BF16, source, rows, target, targetStride)
        case .f16: convert(APUS_FLOAT_F16, source, rows, target, targetStride)
        case .q8_0:
            let padded = (width + 31) / 32 * 32
            withUnsafeTemporaryAllocation(of: Float.self, capacity: padded) { buffer in
                for row in 0..<rows {
                    apus_dequantize(APUS_Q8_0, source + row * stride, Int64(padded), buffer.baseAddress!)
                    (target + row * targetStride).update(from: buffer.baseAddress!, count: width)
                }
            }
        default:
            for row in 0..<rows {
                UnsafeMutableRawPointer(target + row * targetStride).copyMemory(
                    from: source + row * stride, byteCount: 4 * width)
            }
        }
    }

    private func convert(
        _ from: apus_float_type, _ source: UnsafeRawPointer, _ rows: Int, _ target: UnsafeMutablePointer<Float>,
        _ targetStride: Int
    ) {
        apus_convert(
            nil, Int64(rows), Int64(width), from, source, Int64(stride / 2), APUS_FLOAT_F32, target, Int64(targetStride)
        )
    }
}
