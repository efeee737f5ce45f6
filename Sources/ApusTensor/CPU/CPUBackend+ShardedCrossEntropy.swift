#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension CPUBackend {
    /// See ``DifferentiableBackend/crossEntropy(ofShard:targets:scale:gradient:logProbabilities:reduce:)``. Writes over the
    /// logits.
    public func crossEntropy(
        ofShard logits: Tensor, targets: Tensor, scale: Tensor, gradient: Tensor?, logProbabilities: Tensor,
        reduce: (_ values: Tensor, _ isMaximum: Bool) -> Void
    ) {
        let (rows, width) = (targets.count, logits.shape[1])
        precondition(
            logits.shape[0] == rows && targets.dtype == .i32 && scale.count == rows && logProbabilities.count == rows,
            "crossEntropy: \(targets.count) targets, logits \(logits.shape)")
        // Each row's largest logit over all ranks, the sum of the powers of the rest, and the target's distance from it.
        let statistics = Tensor(uninitialized: [3, rows])
        let places = ShardedRows(
            values: logits.pointer(as: Float.self), width: width, targets: targets.pointer(as: Int32.self),
            largest: statistics.pointer(as: Float.self), sums: statistics.pointer(as: Float.self) + rows,
            chosen: statistics.pointer(as: Float.self) + 2 * rows, scale: scale.pointer(as: Float.self),
            logProbabilities: logProbabilities.pointer(as: Float.self), isDifferentiated: gradient != nil)
        concurrently(rows) { places.findLargest($0) }
        reduce(statistics.rows(0..<1), true)
        concurrently(rows) { places.raise($0) }
        reduce(statistics.rows(1..<3), false)
        concurrently(rows) { places.finish($0) }
        // What is in the logits' own memory stands where it is wanted.
        if let gradient, gradient.dtype != .f32 || gradient.rawPointer != logits.rawPointer {
            convert(logits, into: gradient)
        }
        withExtendedLifetime((logits, targets, scale, statistics, logProbabilities)) {}
    }
}

/// A block of rows of logits, of which this rank has some columns. Different rows may be worked on at once.
private struct ShardedRows: @unchecked Sendable {
    let values: UnsafeMutablePointer<Float>
    let width: Int
    let targets: UnsafeMutablePointer<Int32>
    let largest, sums, chosen, scale, logProbabilities: UnsafeMutablePointer<Float>
    let isDifferentiated: Bool

    func findLargest(_ row: Int) {
        let own = values + row * width
        var most = -Float.infinity
        for column in 0..<width { most = max(most, own[column]) }
        largest[row] = most
    }

    /// The logits become e to the power of their distance from the largest.
    func raise(_ row: Int) {
        let (own, most) = (values + row * width, largest[row])
        chosen[row] = targets[row] >= 0 ? own[Int(targets[row])] - most : 0
        var sum = 0.0
        for column in 0..<width {
            own[column] = expf(own[column] - most)
            sum += Double(own[column])
        }
        sums[row] = Float(sum)
    }

    /// The powers become the gradient: scale x (probability - 1 at the target).
    func finish(_ row: Int) {
        let counts = targets[row] >= -1
        logProbabilities[row] = counts ? chosen[row] - logf(sums[row]) : 0
        guard isDifferentiated else { return }
        let own = values + row * width
        let factor = counts ? scale[row] / sums[row] : 0
        for column in 0..<width { own[column] *= factor }
        if targets[row] >= 0 { own[Int(targets[row])] -= scale[row] }
    }
}
