import ApusDistributed
import ApusTensor

/// What ranks exchange while a model that is cut over them is trained: two all-reduces a half layer, one forward and one
/// backward (Shoeybi et al. 2019, arXiv 1909.08053).
extension TensorParallel {
    /// The input of a cut half, which all ranks have: its gradient is the sum of what the ranks' parts give.
    func enter(_ x: Tensor, _ operations: DifferentiableOperations) -> Tensor {
        operations.recorded([x], from: [x]) { [self] gradients in
            guard let gradient = gradients[0] else { return [nil] }
            // The gradient may be held by others too, so a copy is summed.
            let sum = copied(gradient, operations)
            finishSum(sum)
            return [sum]
        }[0]
    }

    /// A gradient in float32, in memory of its own.
    private func copied(_ gradient: Tensor, _ operations: DifferentiableOperations) -> Tensor {
        let copy = Tensor(uninitialized: gradient.shape)
        operations.backend.convert(gradient, into: copy)
        return copy
    }

    /// The output of a cut half: the sum of the ranks' parts. Precondition: nobody else holds `part`.
    func leave(_ part: Tensor, _ operations: DifferentiableOperations) -> Tensor {
        finishSum(part)
        return operations.recorded([part], from: [part]) { $0 }[0]
    }

    /// As ``DifferentiableOperations/embedding(_:table:)``, of a table whose rows the ranks share.
    func embedding(_ tokens: [Int32], table: Parameter, _ operations: DifferentiableOperations) -> Tensor {
        let own = sharding.vocabulary(ofRank: communicator.rank)
        let rows = tokens.indices.filter { own.contains(Int(tokens[$0])) }
        let width = table.shape[1]
        let sum = Tensor(uninitialized: [tokens.count, width])
        sum.fillWithZeros()
        guard !rows.isEmpty else {
            finishSum(sum)
            return sum
        }
        let found = operations.embedding(rows.map { tokens[$0] - Int32(own.lowerBound) }, table: table)
        for (index, row) in rows.enumerated() {
            (sum.pointer(as: Float.self) + row * width).update(
                from: found.pointer(as: Float.self) + index * width, count: width)
        }
        finishSum(sum)
        return operations.recorded([sum], from: [found]) { [self] gradients in
            guard let gradient = gradients[0] else { return [nil] }
            return [copied(gradient, operations).gatheringRows(rows)]
        }[0]
    }

    /// What the loss over a shared vocabulary needs of the ranks.
    var vocabularyShard: VocabularyShard {
        VocabularyShard(
            first: sharding.vocabulary(ofRank: communicator.rank).lowerBound, widest: sharding.widestVocabulary
        ) { [self] values, isMaximum in
            run(.allReduce(CommunicationBuffer(values), isMaximum ? .max : .sum))
        }
    }
}
