import ApusDistributed
import ArgumentParser

/// How the ranks of a job train together: neighbours share a model that is cut over them, and those with the same part share
/// batches.
struct TrainingRanks {
    /// The ranks that this one's model is cut over; nil for a whole model.
    let cut: (any Communicator)?
    /// The ranks that share batches with this one; nil for none.
    let replicas: (any Communicator)?

    /// - Parameter tensorParallel: ranks that share a model.
    /// - Throws: `ValidationError` where they do not divide the ranks.
    init(_ world: any Communicator, tensorParallel: Int) throws {
        guard world.size % tensorParallel == 0 else {
            throw ValidationError(
                "--tensor-parallel \(tensorParallel): expected a divisor of the \(world.size) ranks that were started")
        }
        cut =
            tensorParallel > 1
            ? try world.split(color: world.rank / tensorParallel, key: world.rank) : nil
        replicas =
            world.size > tensorParallel
            ? tensorParallel == 1 ? world : try world.split(color: world.rank % tensorParallel, key: world.rank) : nil
    }
}
