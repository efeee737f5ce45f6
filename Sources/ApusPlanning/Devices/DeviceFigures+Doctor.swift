import ApusText

extension DeviceFigures {
    /// The first GPU of what `apus doctor --json` printed, or else the CPU.
    ///
    /// Rates are measured ones, so all of them is reached. What the doctor does not measure (links, float32 products of GPUs)
    /// is taken from the table's device of the same name where there is one, and is otherwise that of the memory (a CPU's
    /// ranks share it).
    /// - Throws: ``JSONError`` where a member is missing or no number: the doctor was run with --quick, or is an older one.
    public init(doctor node: JSONNode) throws {
        if let gpus = try node.optional("gpus"), let gpu = try gpus.elements().first {
            try self.init(gpu: gpu)
        } else {
            try self.init(cpu: try node.child("cpu"))
        }
    }

    private init(gpu: JSONNode) throws {
        let name = try gpu.string("name")
        let relative = Self.table.first { name.lowercased().contains($0.key) }?.figures
        let bandwidth = try gpu.double("copyBytesPerSecond")
        let rate = try gpu.double("bf16OperationsPerSecond")
        try self.init(
            name: name, memoryBytes: gpu.double("memoryBytes"), memoryBandwidth: bandwidth, bf16Rate: rate,
            f32Rate: relative.map { rate * $0.f32Rate / $0.bf16Rate } ?? rate / 16,
            f8Rate: relative.flatMap { known in known.f8Rate.map { rate * $0 / known.bf16Rate } },
            linkBandwidth: relative?.linkBandwidth ?? 25e9, networkBandwidth: relative?.networkBandwidth ?? 12.5e9,
            devicesPerNode: relative?.devicesPerNode ?? 8, source: "apus doctor",
            reached: .ofMeasuredFigures(isGPU: true))
    }

    /// A CPU as `apus doctor --json` describes it under `cpu`.
    /// - Throws: ``JSONError`` as ``init(doctor:)``.
    public init(cpu: JSONNode) throws {
        let bandwidth = try cpu.double("readBytesPerSecond")
        try self.init(
            name: "CPU, \(cpu.int("threads")) threads (\(cpu.string("instructionSet")))",
            memoryBytes: cpu.double("memoryBytes"), memoryBandwidth: bandwidth,
            bf16Rate: cpu.double("bf16OperationsPerSecond"), f32Rate: cpu.double("f32OperationsPerSecond"),
            packedRate: cpu.double("packedOperationsPerSecond"), linkBandwidth: bandwidth / 4,
            networkBandwidth: 1.25e9, devicesPerNode: 64, source: "apus doctor",
            reached: .ofMeasuredFigures(isGPU: false))
    }
}
