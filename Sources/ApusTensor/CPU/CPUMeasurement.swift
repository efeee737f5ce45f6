#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Rates of a CPU, measured as the decoder meets them: bytes of weights a second in products with one row, operations a
/// second in products with many.
public struct CPUMeasurement: Sendable {
    /// What is measured.
    public let backend: CPUBackend

    /// Measures on the threads of a backend.
    public init(backend: CPUBackend = .shared) { self.backend = backend }

    /// Bytes of memory of the machine.
    public static var memoryBytes: Int { sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE)) }

    /// Bytes a second that products of one row read of bf16 weights, 256 MB of them: the median of nine products.
    /// - Throws: ``TensorError`` when memory does not suffice.
    public func readBandwidth() throws -> Double {
        let (outputs, inputs) = (1 << 14, 1 << 13)
        let weight = try prepared(outputs: outputs, inputs: inputs, .bf16)
        let x = Self.numbers([1, inputs])
        let seconds = median(of: 9) { _ = backend.linear(x, [LinearTerm(weight)]) }
        return 2 * Double(outputs * inputs) / seconds
    }

    /// Operations a second (a multiply and an add are two) of products of 512 rows with 2048 x 2048 weights of a dtype: the
    /// median of five.
    /// - Throws: ``TensorError`` when the dtype has no product or memory does not suffice.
    public func productRate(weights dtype: DType) throws -> Double {
        let (rows, width) = (512, 2048)
        let weight = try prepared(outputs: width, inputs: width, dtype)
        let x = Self.numbers([rows, width])
        let seconds = median(of: 5) { _ = backend.linear(x, [LinearTerm(weight)]) }
        return 2 * Double(rows * width * width) / seconds
    }

    private func prepared(outputs: Int, inputs: Int, _ dtype: DType) throws -> any PreparedWeight {
        try backend.prepare(try Self.numbers([outputs, inputs]).encoded(as: dtype, backend: backend))
    }

    private static func numbers(_ shape: Shape) -> Tensor {
        let tensor = Tensor(uninitialized: shape, dtype: .f32)
        tensor.withMutableElements(of: Float.self) { elements in
            for index in elements.indices { elements[index] = Float((index &* 2_654_435_761) & 0xFFFF) / 65536 - 0.5 }
        }
        return tensor
    }

    private func median(of count: Int, _ work: () -> Void) -> Double {
        let clock = ContinuousClock()
        work()
        return (0..<count).map { _ in clock.measure(work).inSeconds }.sorted()[count / 2]
    }
}
