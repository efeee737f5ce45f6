import ApusTensor

/// The rate of large matrix products on a backend, which training's own rate is held against.
public enum ProductRate {
    /// Floating-point operations a second of the best of a few products of 1024 x 1024 matrices (8192 x 8192 on a GPU): about
    /// 0.1 s of work.
    /// - Parameter compute: dtype of the operands, float32 or bf16.
    /// - Throws: what fails on the GPU.
    public static func measure(on backend: any DifferentiableBackend, compute: DType) throws -> Double {
        let size = backend.device == .cpu ? 1024 : 8192
        let ones = Tensor([Float](repeating: 1, count: size * size), shape: [size, size])
        let operand = backend.makeTensor(ones.shape, compute)
        backend.convert(ones, into: operand)
        let result = backend.makeTensor(ones.shape, backend.activationType(compute: compute))
        var best = Duration.seconds(1_000_000)
        for _ in 0..<6 {
            try backend.check()
            let duration = try ContinuousClock().measure {
                backend.multiply(
                    MatrixView(operand), MatrixView(operand, transposed: true), into: MatrixView(result),
                    accumulate: false)
                try backend.check()
            }
            best = min(best, duration)
        }
        return 2 * Double(size * size * size) / max(best.inSeconds, 1e-9)
    }
}
