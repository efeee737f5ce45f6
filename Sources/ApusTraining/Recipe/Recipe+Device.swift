import ApusDistributed
import ApusTensor

extension Device: RecipeConvertible {
    static var expected: String { "cpu, cuda, or cuda:N for the GPU with ordinal N" }

    init?(_ value: RecipeValue) {
        guard case .scalar(let text, isQuoted: _) = value else { return nil }
        self.init(text)
    }

    /// `cpu`, `cuda` or `cuda:1`; nil for anything else.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        switch (parts.first, parts.count) {
        case ("cpu", 1): self = .cpu
        case ("cuda", 1): self = .cuda(0)
        case ("cuda", 2):
            guard let ordinal = Int(parts[1]), ordinal >= 0 else { return nil }
            self = .cuda(ordinal)
        default: return nil
        }
    }

    var yaml: String { description }
}

extension Recipe {
    /// The backend of the recipe's device.
    /// - Parameters:
    ///   - cpu: the backend where the device is the CPU.
    ///   - gpu: that of this rank's GPU (``gpu(localRank:)``), on whose stream the ranks exchange; nil for one process.
    ///   - ranks: processes that train together.
    /// - Throws: ``TrainerError/deviceOfRanks(device:ranks:)``, ``TrainerError/noDevice(device:problem:)``.
    public func backend(
        cpu: CPUBackend, gpu: CUDABackend? = nil, ranks: Int = 1
    ) throws -> any DifferentiableBackend {
        guard training.device != .cpu else { return cpu }
        if let gpu { return gpu }
        guard ranks == 1 else {
            throw TrainerError.deviceOfRanks(device: training.device.description, ranks: ranks)
        }
        return try self.gpu(localRank: 0) ?? cpu
    }

    /// The backend of a rank's GPU: the ranks of a machine take GPUs from the recipe's on. Nil where the device is the CPU.
    /// - Parameter localRank: this rank among those of its machine.
    /// - Throws: ``TrainerError/noDevice(device:problem:)``.
    public func gpu(localRank: Int) throws -> CUDABackend? {
        guard case .cuda(let first) = training.device else { return nil }
        do {
            return try CUDABackend(ordinal: CUDADevice.ordinal(localRank: localRank, from: first))
        } catch {
            throw TrainerError.noDevice(device: Device.cuda(first + localRank).description, problem: "\(error)")
        }
    }
}
