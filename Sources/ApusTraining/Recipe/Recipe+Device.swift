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
    ///   - ranks: processes that train together.
    /// - Throws: ``TrainerError/deviceOfRanks(device:ranks:)``, ``TrainerError/noDevice(device:problem:)``.
    public func backend(cpu: CPUBackend, ranks: Int = 1) throws -> any DifferentiableBackend {
        guard case .cuda(let ordinal) = training.device else { return cpu }
        guard ranks == 1 else {
            throw TrainerError.deviceOfRanks(device: training.device.description, ranks: ranks)
        }
        do {
            return try CUDABackend(ordinal: ordinal)
        } catch {
            throw TrainerError.noDevice(device: training.device.description, problem: "\(error)")
        }
    }
}
