import ApusDistributed
import ApusTensor

/// Training a model that is cut over ranks.
extension TrainableDecoder {
    /// Sums the gradients of weights that several ranks have and each computes a part of: the RoPE key's, latents' where
    /// they are kept more than once, norms of queries and keys. All ranks call it after the backward passes of a step.
    /// - Parameter names: of the weights to look at; nil for all.
    package func sumSharedGradients(_ wanted: Set<String>? = nil) throws {
        guard let ranks else { return }
        for role in local.tensorRoles where ranks.sharding.hasPartialGradient(role) {
            if let wanted, !wanted.contains(names.name(of: role)) { continue }
            let parameter = weights[role]!
            guard parameter.isTrainable else { continue }
            if parameter.gradient == nil { continue }
            for copies in ranks.sharding.copies(of: role) where copies.count > 1 && !copies.rows.isEmpty {
                let rows = parameter.gradient!.rows(copies.rows)
                ranks.reduce(rows, .sum, over: try ranks.copies(copies.count))
            }
        }
        try ranks.check()
    }

    /// The factor with which the squares of a weight's rows count in a sum over the ranks, so that what several have counts
    /// once; by elements in row-major order.
    package func weightsInSums(of name: String) -> [(elements: Range<Int>, factor: Double)] {
        guard let ranks, let role = local.tensorRoles.first(where: { names.name(of: $0) == name }) else { return [] }
        let shape = local.shape(of: role)
        let width = shape[0] == 0 ? 0 : shape.count / shape[0]
        return ranks.sharding.copies(of: role).map {
            ($0.rows.lowerBound * width..<$0.rows.upperBound * width, 1 / Double($0.count))
        }
    }

    /// Tensors of the whole model from those of this rank's weights, by the names of the whole: all ranks call it.
    /// - Parameter own: float32, by the names that the weights have here.
    package func assembled(_ own: [String: Tensor]) throws -> [String: Tensor] {
        guard let ranks else { return own }
        let sharding = ranks.sharding
        var result: [String: Tensor] = [:]
        let parts = try sharding.parts()
        for role in configuration.tensorRoles {
            let whole = Tensor(uninitialized: configuration.shape(of: role))
            for part in parts[role] ?? [] {
                let other = try ModelSharding(configuration, rank: part.rank, ranks: sharding.ranks)
                let isOwn = part.rank == sharding.rank
                let tensor = Tensor(uninitialized: other.local.shape(of: part.role))
                if isOwn, let value = own[names.name(of: part.role)] {
                    CPUBackend.shared.convert(try operations.backend.toHost([value])[0], into: tensor)
                }
                try ranks.communicator.onHost.broadcast(tensor, from: part.rank)
                ModelSharding.place(tensor, part.cut, into: whole)
            }
            result[names.name(of: role)] = whole
        }
        return result
    }

    /// A rank's part of a tensor of the whole model: what a weight of this name has here.
    /// - Parameter whole: gives the tensor of the whole by its name and shape, in main memory.
    package func part(
        of name: String, _ whole: (_ name: String, _ shape: Shape) throws -> Tensor
    ) throws -> Tensor? {
        guard let role = local.tensorRoles.first(where: { names.name(of: $0) == name }) else { return nil }
        guard let sharding = ranks?.sharding else { return try whole(name, configuration.shape(of: role)) }
        let share = sharding.share(of: role)
        let tensor = try whole(names.name(of: share.role), configuration.shape(of: share.role))
        let part = try sharding.part(tensor, share.cut)
        let copy = Tensor(uninitialized: part.shape)
        CPUBackend.shared.convert(part, into: copy)
        return copy
    }
}
