import ApusSynchronization

/// How a weight lies in a GPU's memory.
package enum CUDAWeightFormat: Int, Sendable, Hashable, CaseIterable {
    /// `[rows][width]` bf16.
    case bf16
    /// The codes and scales of GGUF's blocks, in the order of `quantised_weights.cuh`.
    case q8_0, q4_0, q4_1, q4_K, q6_K

    /// The format in which a tensor's elements are kept: packed ones as they are, others in bf16.
    package init(_ dtype: DType) {
        self =
            switch dtype {
            case .q8_0: .q8_0
            case .q4_0: .q4_0
            case .q4_1: .q4_1
            case .q4_K: .q4_K
            case .q6_K: .q6_K
            default: .bf16
            }
    }

    /// What a file calls it.
    package var dtype: DType {
        switch self {
        case .bf16: .bf16
        case .q8_0: .q8_0
        case .q4_0: .q4_0
        case .q4_1: .q4_1
        case .q4_K: .q4_K
        case .q6_K: .q6_K
        }
    }

    /// Whether elements are codes with scales.
    package var isQuantised: Bool { self != .bf16 }

    /// Bytes of a matrix. Precondition: rows are whole blocks.
    package func byteCount(rows: Int, width: Int) -> Int {
        precondition(width % dtype.blockSize == 0, "rows of \(width) elements of \(self)")
        let (tiles, units) = ((rows + 15) / 16, (width + 63) / 64)
        switch self {
        case .bf16: return rows * width * 2
        case .q8_0: return tiles * units * 1088
        case .q4_0: return tiles * units * 576
        case .q4_1: return tiles * units * 640
        case .q4_K: return tiles * units / 4 * (4 * 576 + 64)
        case .q6_K: return tiles * units / 4 * (4 * 1088 + 64)
        }
    }

    /// Scales of ``CUDAQuantisedKernels/fill(_:seed:on:)``: words of two rows and of a super-block, which give elements a
    /// deviation of about 0.02.
    fileprivate var randomScales: (scales: UInt32, super: UInt32) {
        switch self {
        case .bf16: (0, 0)
        case .q8_0: (0x0c00_0c00, 0)  // 2^-12
        case .q4_0: (0x1c00_1c00, 0)  // 2^-8
        case .q4_1: (0xa780_1c00, 0)  // 2^-8, -7.5 / 2^8
        case .q4_K: (0x0f08_0f08, 0x1800_1000)  // 8 / 2^11, 15 / 2^9
        case .q6_K: (0x0101_0101, 0x0c00)
        }
    }
}

/// A matrix in a GPU's memory that activations are multiplied with.
package struct CUDAWeight: Sendable {
    /// Its memory, or that of several that are alike, one after the other.
    package let buffer: CUDABuffer
    package let format: CUDAWeightFormat
    /// Rows are outputs.
    package let rows: Int, width: Int

    /// A matrix in memory that holds it.
    package init(_ buffer: CUDABuffer, _ format: CUDAWeightFormat, rows: Int, width: Int) {
        precondition(buffer.byteCount >= format.byteCount(rows: rows, width: width), "[\(rows), \(width)] \(format)")
        (self.buffer, self.format, self.rows, self.width) = (buffer, format, rows, width)
    }

    package var address: UInt64 { buffer.address }
    package var byteCount: Int { format.byteCount(rows: rows, width: width) }
}

/// The kernels of `quantised_weights.cu`, each found once.
package final class CUDAQuantisedKernels: Sendable {
    private enum Name: String {
        case repack = "repack_rows"
        case expand = "expand_rows"
        case embed = "embed_quantised"
        case fill = "fill_quantised"
    }

    private struct Key: Hashable {
        let name: Name
        let format: CUDAWeightFormat
    }

    private let modules: CUDAModuleCache
    private let kernels = Locked<[Key: CUDAKernel]>([:])

    /// Those of a GPU.
    package init(_ device: CUDADevice) { modules = device.modules }

    private func kernel(_ name: Name, _ format: CUDAWeightFormat) throws -> CUDAKernel {
        precondition(format.isQuantised, "\(name) of \(format)")
        let key = Key(name: name, format: format)
        if let known = kernels.withLock({ $0[key] }) { return known }
        let source = KernelSources.source("quantised_weights.cu", defines: ["FORMAT": "\(format.rawValue)"])
        let kernel = try modules.kernel(name.rawValue, in: source)
        kernels.withLock { $0[key] = kernel }
        return kernel
    }

    /// Where the rows of a tensor go: row i becomes first + i / run x step + i % run.
    package struct Places: Sendable {
        let first: Int, run: Int, step: Int

        /// One after the other, from `first` on.
        package static func from(_ first: Int) -> Places { Places(first: first, run: 1 << 30, step: 0) }
        /// Eight, then room for eight of another tensor, and so on.
        package static func turns(_ first: Int) -> Places { Places(first: first, run: 8, step: 16) }
    }

    /// Queues the way of a file's rows into a weight, which is zero where nothing is written: without a change to codes or
    /// scales. Precondition: a contiguous packed tensor of the format.
    /// - Parameter offset: where the matrix begins in the buffer, in bytes.
    package func repack(
        _ tensor: Tensor, _ places: Places, into buffer: CUDABuffer, at offset: Int = 0, on stream: CUDAStream
    ) throws {
        let format = CUDAWeightFormat(tensor.dtype)
        let (rows, width) = (tensor.count / tensor.shape[-1], tensor.shape[-1])
        precondition(tensor.isContiguous && format.isQuantised, "repacking \(tensor.dtype) \(tensor.shape)")
        let staged = try CUDABuffer(byteCount: tensor.byteCount, stream: stream)
        try stream.upload(
            UnsafeRawBufferPointer(start: tensor.rawPointer, count: tensor.byteCount), to: staged.address)
        let threads = rows * ((width + 63) / 64) * 4
        try kernel(.repack, format).launch(
            grid: Self.blocks(threads, stream), block: 256, on: stream, .buffer(staged),
            .value(buffer.address + UInt64(offset)), .value(Int32(rows)), .value(Int32(width)),
            .value(Int64(tensor.byteCount / rows)), .value(Int32(places.first)), .value(Int32(places.run)),
            .value(Int32(places.step)))
    }

    /// Queues a quantised weight's elements, rounded to bf16, `[rows][width]`.
    /// - Parameter offset: where the matrix begins in the weight's buffer, in bytes.
    package func expand(_ weight: CUDAWeight, at offset: Int = 0, to target: UInt64, on stream: CUDAStream) throws {
        let warps = (weight.rows + 15) / 16 * ((weight.width + 63) / 64)
        try kernel(.expand, weight.format).launch(
            grid: Self.blocks(warps * 32, stream), block: 256, attributes: [.overlapsPredecessor], on: stream,
            .value(weight.address + UInt64(offset)), .value(target), .value(Int32(weight.rows)),
            .value(Int32(weight.width)))
    }

    /// The kernel that brings rows of a table into the residual stream, with the parameters of `embed_rows`.
    package func embedding(_ format: CUDAWeightFormat) throws -> CUDAKernel { try kernel(.embed, format) }

    /// Queues random codes with the same scales everywhere into all of a weight's memory: elements between about -0.03 and 0.03.
    package func fill(_ weight: CUDAWeight, seed: UInt64, on stream: CUDAStream) throws {
        let (words, scales) = (weight.buffer.byteCount / 4, weight.format.randomScales)
        try kernel(.fill, weight.format).launch(
            grid: Self.blocks(words, stream), block: 256, on: stream, .buffer(weight.buffer), .value(Int64(words)),
            .value(seed), .value(scales.scales), .value(scales.super))
    }

    private static func blocks(_ threads: Int, _ stream: CUDAStream) -> CUDAExtent {
        CUDAExtent(min((threads + 255) / 256, 16 * stream.device.multiprocessorCount))
    }
}
