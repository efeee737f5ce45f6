import ApusTensor

/// The rate of large matrix products on a backend, which training's own rate is held against.
public enum ProductRate {
    /// Floating-point operations a second of the best of a few products of 1024 x 1024 matrices: about 0.1 s of work.
    /// - Parameter compute: dtype of the operands, float32 or bf16.
    public static func measure(on backend: any DifferentiableBackend, compute: DType) -> Double {
        let size = 1024
        let ones = Tensor([Float](repeating: 1, count: size * size), shape: [size, size])
        let operand = Tensor(uninitialized: ones.shape, dtype: compute)
        backend.convert(ones, into: operand)
        let result = Tensor(uninitialized: ones.shape)
        var best = Duration.seconds(1_000_000)
        for _ in 0..<6 {
            let duration = ContinuousClock().measure {
                backend.multiply(
                    MatrixView(operand), MatrixView(operand, transposed: true), into: MatrixView(result),
                    accumulate: false)
            }
            best = min(best, duration)
        }
        return 2 * Double(size * size * size) / max(best.inSeconds, 1e-9)
    }
}
