extension Decoder {
    /// Tokens of one prefill step: long prompts run in pieces of this size, which bounds the memory of activations.
    public static let prefillChunk = 512

    /// How a prompt of `count` tokens is cut into steps whose last row of logits is wanted.
    ///
    /// Pieces of ``prefillChunk``; and the last token apart where a step as long as the last piece would round activations
    /// that a step of one token takes as they are. So the row of logits that the answer begins with is as exact as those
    /// that follow, for the time of one generated token.
    public func prefillSteps(_ count: Int) -> [Int] {
        guard count > 0 else { return [] }
        var steps = Array(repeating: Self.prefillChunk, count: (count - 1) / Self.prefillChunk)
        let rest = count - steps.count * Self.prefillChunk
        let exact = backend.exactRows(weights: weightType)
        if exact >= 1, rest > exact {
            steps += [rest - 1, 1]
        } else {
            steps.append(rest)
        }
        return steps
    }

    /// The most rows of a step whose products round no activations that they would not round for one row.
    package var exactRows: Int {
        let limits = [weightType, head.term.weight.dtype].map { backend.exactRows(weights: $0) }
        return limits.filter { $0 >= 1 }.min() ?? Int.max
    }
}
