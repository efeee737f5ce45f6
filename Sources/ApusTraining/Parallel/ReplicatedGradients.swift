import ApusDistributed
import ApusModels
import ApusTensor

/// Data parallelism: replicas of a model that learn from parts of each batch, with the optimiser's state cut over them
/// (ZeRO-1; Rajbhandari et al. 2020, arXiv 1910.02054).
///
/// Parameters lie in buckets, one a layer, in the order in which the backward pass finishes them. As soon as it has finished a
/// bucket, the ranks begin to sum its gradients, each keeping its part of the sum; the backward pass goes on meanwhile. Each
/// rank then changes its part of the parameters, and all gather the parts. On GPUs all of it is queued there, the exchanges on
/// a stream of their own; this thread waits for them at ``settle()`` only.
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

        init(_ members: [Member], count: Int, ranks: Int, on backend: any DifferentiableBackend) {
            self.members = members
            share = Self.aligned((count + ranks - 1) / ranks)
            whole = backend.makeTensor([share * ranks], .f32)
            part = backend.makeTensor([share], .f32)
        }

        /// The elements of a member.
        func elements(of member: Member) -> Tensor {
            whole.rows(member.offset..<member.offset + member.parameter.shape.count)
        }

        /// Parts and members begin at multiples of 128 bytes, which GPUs read and write at their full rate.
        static func aligned(_ count: Int) -> Int { (count + 31) / 32 * 32 }
    }

    /// The ranks.
    public let communicator: any Communicator
    private let buckets: [Bucket]
    private let model: TrainableDecoder
    private var backend: any DifferentiableBackend { model.operations.backend }
    /// What the device follows and this thread has not waited for, in the order of starting.
    private var followed: [any PendingCollective] = []
    private var error: (any Error)?

    /// Replicas of a model with the heads of its objective.
    init(_ model: TrainableDecoder, heads: (any Module)?, over communicator: any Communicator) {
        self.model = model
        self.communicator = communicator
        var groups = model.parametersByBackward()
        heads?.visitParameters { groups[groups.count - 1].append((TrainedModule.headPrefix + $0, $1)) }
        let backend = model.operations.backend
        buckets = groups.map { group in
            var (members, offset) = ([Member](), 0)
            for (name, parameter) in group where parameter.isTrainable {
                members.append(Member(name: name, parameter: parameter, offset: offset))
                offset += Bucket.aligned(parameter.shape.count)
            }
            return Bucket(members, count: offset, ranks: communicator.size, on: backend)
        }
        // Without memory for the buckets the first step says so.
        do { try backend.check() } catch { self.error = error }
        for bucket in buckets { bucket.whole.fillWithZeros() }
    }

    /// Sets all gradients to zero, those of other ranks' parts too.
    func zeroGradients() {
        for bucket in buckets { for member in bucket.members { member.parameter.zeroGradient() } }
    }

    /// The next backward pass is the step's last: its gradients are summed as they are finished.
    func beginLastPass() {
        model.afterLayerBackward = { [unowned self] layer in send(buckets[buckets.count - 2 - layer]) }
    }

    /// The device goes on when all gradients are summed.
    func finish() throws {
        model.afterLayerBackward = nil
        for bucket in buckets where bucket.pending == nil { send(bucket) }
        if let error { throw error }
        for bucket in buckets { try follow(bucket) }
    }

    private func send(_ bucket: Bucket) {
        guard bucket.share > 0, bucket.pending == nil, error == nil else { return }
        do {
            try model.sumSharedGradients(Set(bucket.members.map(\.name)))
            for member in bucket.members {
                let target = bucket.elements(of: member)
                if let gradient = member.parameter.gradient {
                    backend.convert(gradient.reshaped([gradient.count]), into: target)
                } else {
                    target.fillWithZeros()
                }
            }
            bucket.pending = try communicator.start(
                .reduceScatter(from: CommunicationBuffer(bucket.whole), into: CommunicationBuffer(bucket.part), .sum))
        } catch { self.error = error }
    }

    /// Makes the parameters whole again after each rank has changed its part; the device goes on when they are.
    func gather() throws {
        for bucket in buckets where bucket.share > 0 {
            each(bucket) { member, elements, place in
                let value = member.parameter.value
                backend.convert(
                    value.reshaped([value.count]).rows(elements),
                    into: bucket.part.rows(place..<place + elements.count))
            }
            bucket.pending = try communicator.start(
                .allGather(from: CommunicationBuffer(bucket.part), into: CommunicationBuffer(bucket.whole)))
        }
        for bucket in buckets {
            try follow(bucket)
            for member in bucket.members {
                member.parameter.assign(bucket.elements(of: member).reshaped(member.parameter.shape), on: backend)
            }
        }
    }

    /// The sum of a tensor over the ranks, in its place, which the device goes on with.
    func sum(_ tensor: Tensor) throws {
        // There was no memory for it: the backend says so.
        if tensor.device != .cpu, tensor.storage.deviceMemory == nil { return try backend.check() }
        let collective = Collective.allReduce(CommunicationBuffer(tensor), .sum)
        // In the background a small sum takes longer on CPUs.
        guard tensor.device != .cpu else { return try communicator.run(collective) }
        try follow(communicator.start(collective))
    }

    /// Waits until the ranks have done all that was started.
    func settle() throws {
        for pending in followed { try pending.wait() }
        followed = []
    }

    private func follow(_ bucket: Bucket) throws {
        guard let pending = bucket.pending else { return }
        bucket.pending = nil
        try follow(pending)
    }

    private func follow(_ pending: any PendingCollective) throws {
        if try !pending.follow() { followed.append(pending) }
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

    /// The moments of whole parameters by their name, gathered from the ranks: what a checkpoint holds, whatever the ranks. The
    /// first rank has them, in main memory; others nothing.
    func wholeMoments(_ optimizer: AdamW) throws -> [String: (first: Tensor, second: Tensor)] {
        var own: [String: [AdamW.Entry]] = [:]
        for entry in optimizer.entries { own[entry.name, default: []].append(entry) }
        func gathered(_ bucket: Bucket, _ moment: KeyPath<AdamW.Entry, Tensor>) throws -> Tensor? {
            let part = backend.makeTensor([bucket.share], .f32)
            let whole = backend.makeTensor([bucket.share * communicator.size], .f32)
            try backend.check()
            part.fillWithZeros()
            each(bucket) { member, elements, place in
                guard let entry = own[member.name]?.first(where: { $0.elements == elements }) else { return }
                let values = entry[keyPath: moment]
                backend.convert(
                    values.reshaped([values.count]), into: part.rows(place..<place + elements.count))
            }
            try communicator.run(.allGather(from: CommunicationBuffer(part), into: CommunicationBuffer(whole)))
            return communicator.rank == 0 ? try backend.toHost([whole])[0] : nil
        }
        var result: [String: (first: Tensor, second: Tensor)] = [:]
        for bucket in buckets where bucket.share > 0 {
            let moments = (try gathered(bucket, \.firstMoment), try gathered(bucket, \.secondMoment))
            guard case (let first?, let second?) = moments else { continue }
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
