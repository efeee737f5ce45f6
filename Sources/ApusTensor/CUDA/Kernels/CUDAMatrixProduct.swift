/// A matrix product by cuBLASLt: out[m, n] = x[m, k] weight[n, k]^T, all row-major bf16, float32 sums. The algorithm is chosen
/// when the product is made; running it needs no further memory than its workspace, which is why it has one stream.
public final class CUDAMatrixProduct: Sendable {
    /// Rows of x, rows of the weight, and their common width.
    public let m: Int, n: Int, k: Int
    private let stream: CUDAStream
    private let products: CUDAProducts
    private let shape: CUDAProductShape

    /// A product of bf16 matrices with a bf16 result. `workspaceBytes`: what an algorithm may use beside.
    public init(bf16 m: Int, _ n: Int, _ k: Int, stream: CUDAStream, workspaceBytes: Int = 64 << 20) throws {
        products = try CUDAProducts(stream: stream, workspaceBytes: workspaceBytes)
        // Buffers begin at multiples of 512.
        shape = CUDAProductShape(
            m: m, n: n, k: k, aStride: k, bStride: k, cStride: n, aTransposed: false, bTransposed: true, input: .bf16,
            output: .bf16, alignments: [256, 256, 256])
        try products.prepare(shape)
        (self.m, self.n, self.k) = (m, n, k)
        self.stream = stream
    }

    /// Queues the product. The buffers hold at least m k, n k and m n elements.
    public func run(x: CUDABuffer, weight: CUDABuffer, out: CUDABuffer) throws {
        let element = MemoryLayout<UInt16>.size
        try x.check("product, x", offset: 0, count: m * k * element)
        try weight.check("product, weight", offset: 0, count: n * k * element)
        try out.check("product, result", offset: 0, count: m * n * element)
        for buffer in [x, weight, out] { buffer.used(on: stream) }
        try products.multiply(shape, a: x.address, b: weight.address, c: out.address, accumulate: false)
    }
}
