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
            let sum = operations.backend.makeTensor(gradient.shape, operations.activation)
            operations.backend.convert(gradient, into: sum)
            finishSum(sum)
            return [sum]
        }[0]
    }

    /// The output of a cut half: the sum of the ranks' parts. Precondition: nobody else holds `part`.
    func leave(_ part: Tensor, _ operations: DifferentiableOperations) -> Tensor {
        finishSum(part)
        return operations.recorded([part], from: [part]) { $0 }[0]
    }

    /// As ``DifferentiableOperations/embedding(_:table:)``, of a table whose rows the ranks share.
    func embedding(_ tokens: [Int32], table: Parameter, _ operations: DifferentiableOperations) -> Tensor {
        let own = sharding.vocabulary(ofRank: communicator.rank)
        let local = tokens.map { own.contains(Int($0)) ? $0 - Int32(own.lowerBound) : -1 }
        return leave(operations.embedding(local, table: table), operations)
    }

    /// What the loss over a shared vocabulary needs of the ranks.
    var vocabularyShard: VocabularyShard {
        VocabularyShard(
            first: sharding.vocabulary(ofRank: communicator.rank).lowerBound, widest: sharding.widestVocabulary
        ) { [self] values, isMaximum in
            reduce(values, isMaximum ? .max : .sum, over: communicator)
        }
    }
}
