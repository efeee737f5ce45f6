import ApusDistributed
import ApusModels
import ApusTensor

/// Data parallelism: replicas of a model that learn from parts of each batch, with the optimiser's state cut over them
/// (ZeRO-1; Rajbhandari et al. 2020, arXiv 1910.02054).
///
/// Parameters lie in buckets, one a layer, in the order in which the backward pass finishes them. As soon as it has finished a
/// bucket, the ranks begin to sum its gradients, each keeping its part of the sum; the backward pass goes on meanwhile. Each
/// rank then changes its part of the parameters, and all gather the parts.
///
/// Not for use from several threads at once.
public final class ReplicatedGradients {
    /// A run of a bucket's elements that are one parameter's.
    private struct Member {
        let name: String
        let parameter: Parameter
        let offset: Int
    }

    private final class Bucket {
        let members: [Member]
        /// Elements of one rank's part.
        let share: Int
        /// All elements, filled up to as many parts as there are ranks.
        let whole: Tensor
        /// This rank's part: of the gradients' sum, then of the parameters.
        let part: Tensor
        var pending: (any PendingCollective)?

        init(_ members: [Member], count: Int, ranks: Int) {
            self.members = members
            share = (count + ranks - 1) / ranks
            whole = Tensor(uninitialized: [share * ranks])
            part = Tensor(uninitialized: [share])
            whole.fillWithZeros()
        }
    }

    /// The ranks.
    public let communicator: any Communicator
    private let buckets: [Bucket]
    private let model: TrainableDecoder
    private var error: (any Error)?

    /// Replicas of a model with the heads of its objective.
    init(_ model: TrainableDecoder, heads: (any Module)?, over communicator: any Communicator) {
        self.model = model
        self.communicator = communicator
        var groups = model.parametersByBackward()
        heads?.visitParameters { groups[groups.count - 1].append((TrainedModule.headPrefix + $0, $1)) }
        buckets = groups.map { group in
            var (members, offset) = ([Member](), 0)
            for (name, parameter) in group where parameter.isTrainable {
                members.append(Member(name: name, parameter: parameter, offset: offset))
                offset += parameter.shape.count
            }
            return Bucket(members, count: offset, ranks: communicator.size)
        }
    }

    /// Sets all gradients to zero, those of other ranks' parts too.
    func zeroGradients() {
        for bucket in buckets { for member in bucket.members { member.parameter.zeroGradient() } }
    }

    /// The next backward pass is the step's last: its gradients are summed as they are finished.
    func beginLastPass() {
        model.afterLayerBackward = { [unowned self] layer in send(buckets[buckets.count - 2 - layer]) }
    }

    /// Waits until all gradients are summed.
    func finish() throws {
        model.afterLayerBackward = nil
        for bucket in buckets where bucket.pending == nil { send(bucket) }
        for bucket in buckets {
            try bucket.pending?.wait()
            bucket.pending = nil
        }
        if let error { throw error }
    }

    private func send(_ bucket: Bucket) {
        guard bucket.share > 0, bucket.pending == nil else { return }
        do { try model.sumSharedGradients(Set(bucket.members.map(\.name))) } catch { self.error = error }
        let (members, whole) = (bucket.members, bucket.whole)
        model.operations.backend.concurrently(members.count) { index in
            let member = members[index]
            let target = whole.pointer(as: Float.self) + member.offset
            guard let gradient = member.parameter.gradient else {
                target.update(repeating: 0, count: member.parameter.shape.count)
                return
            }
            target.update(from: gradient.pointer(as: Float.self), count: gradient.count)
        }
        do {
            bucket.pending = try communicator.start(
                .reduceScatter(from: CommunicationBuffer(whole), into: CommunicationBuffer(bucket.part), .sum))
        } catch { self.error = error }
    }

    /// Makes the parameters whole again after each rank has changed its part.
    func gather() throws {
        for bucket in buckets where bucket.share > 0 {
            each(bucket) { member, elements, place in
                (bucket.part.pointer(as: Float.self) + place).update(
                    from: member.parameter.value.pointer(as: Float.self) + elements.lowerBound, count: elements.count)
            }
            bucket.pending = try communicator.start(
                .allGather(from: CommunicationBuffer(bucket.part), into: CommunicationBuffer(bucket.whole)))
        }
        for bucket in buckets {
            try bucket.pending?.wait()
            bucket.pending = nil
            let (members, whole) = (bucket.members, bucket.whole)
            model.operations.backend.concurrently(members.count) { index in
                let member = members[index]
                let source = whole.pointer(as: Float.self) + member.offset
                member.parameter.update { value, _ in
                    value.pointer(as: Float.self).update(from: source, count: value.count)
                    return false
                }
            }
        }
    }

    /// Calls `body` with every run of elements that this rank changes, and where it stands in the bucket's part.
    private func each(_ bucket: Bucket, _ body: (_ member: Member, _ elements: Range<Int>, _ place: Int) -> Void) {
        let own = communicator.rank * bucket.share..<(communicator.rank + 1) * bucket.share
        for member in bucket.members {
            let range = own.clamped(to: member.offset..<member.offset + member.parameter.shape.count)
            guard !range.isEmpty else { continue }
            body(
                member, range.lowerBound - member.offset..<range.upperBound - member.offset,
                range.lowerBound - own.lowerBound)
        }
    }

    /// What this rank's optimiser changes, with the sums of its gradients.
    func slices() -> [AdamW.Slice] {
        buckets.flatMap { bucket in
            var result: [AdamW.Slice] = []
            each(bucket) { member, elements, place in
                let gradient = bucket.part.rows(place..<place + elements.count)
                result.append(
                    AdamW.Slice(name: member.name, parameter: member.parameter, elements: elements) { gradient })
            }
            return result
        }
    }

    /// The moments of whole parameters by their name, gathered from the ranks: what a checkpoint holds, whatever the ranks.
    func wholeMoments(_ optimizer: AdamW) throws -> [String: (first: Tensor, second: Tensor)] {
        var own: [String: [AdamW.Entry]] = [:]
        for entry in optimizer.entries { own[entry.name, default: []].append(entry) }
        func gathered(_ bucket: Bucket, _ moment: KeyPath<AdamW.Entry, Tensor>) throws -> Tensor {
            let part = Tensor(uninitialized: [bucket.share])
            part.fillWithZeros()
            each(bucket) { member, elements, place in
                guard let entry = own[member.name]?.first(where: { $0.elements == elements }) else { return }
                (part.pointer(as: Float.self) + place).update(
                    from: entry[keyPath: moment].pointer(as: Float.self), count: elements.count)
            }
            return try communicator.allGather(part)
        }
        var result: [String: (first: Tensor, second: Tensor)] = [:]
        for bucket in buckets where bucket.share > 0 {
            let (first, second) = (try gathered(bucket, \.firstMoment), try gathered(bucket, \.secondMoment))
            for member in bucket.members {
                let range = member.offset..<member.offset + member.parameter.shape.count
                result[member.name] = (
                    first.rows(range).reshaped(member.parameter.shape),
                    second.rows(range).reshaped(member.parameter.shape)
                )
            }
        }
        return result
    }
}
