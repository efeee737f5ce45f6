extension DeviceFigures {
    /// Accelerators by their makers' published figures, dense rates; links in one direction (half of what data sheets give),
    /// the network at 400 Gbit/s a device.
    public static let table: [(key: String, figures: DeviceFigures)] = [
        (
            "a100",
            DeviceFigures(
                name: "NVIDIA A100 SXM 80GB", memoryBytes: 80 * gibibyte, memoryBandwidth: 2.039e12, bf16Rate: 312e12,
                f32Rate: 19.5e12, linkBandwidth: 300e9, networkBandwidth: 50e9, devicesPerNode: 8,
                source: "NVIDIA A100 Tensor Core GPU data sheet (2022): 2,039 GB/s, 312 TFLOPS bf16, NVLink 600 GB/s")
        ),
        (
            "h100",
            DeviceFigures(
                name: "NVIDIA H100 SXM 80GB", memoryBytes: 80 * gibibyte, memoryBandwidth: 3.35e12, bf16Rate: 989e12,
                f32Rate: 67e12, f8Rate: 1979e12, linkBandwidth: 450e9, networkBandwidth: 50e9, devicesPerNode: 8,
                source: "NVIDIA H100 Tensor Core GPU data sheet (2023): 3.35 TB/s, 1,979 TFLOPS bf16 and 3,958 TFLOPS "
                    + "FP8 with sparsity, NVLink 900 GB/s")
        ),
        (
            "h200",
            DeviceFigures(
                name: "NVIDIA H200 SXM 141GB", memoryBytes: 141e9, memoryBandwidth: 4.8e12, bf16Rate: 989e12,
                f32Rate: 67e12, f8Rate: 1979e12, linkBandwidth: 450e9, networkBandwidth: 50e9, devicesPerNode: 8,
                source: "NVIDIA H200 Tensor Core GPU data sheet (2024): 141 GB, 4.8 TB/s, rates and NVLink as the H100")
        ),
        (
            "b200",
            DeviceFigures(
                name: "NVIDIA B200 SXM 180GB", memoryBytes: 180e9, memoryBandwidth: 8e12, bf16Rate: 2250e12,
                f32Rate: 75e12, f8Rate: 4500e12, linkBandwidth: 900e9, networkBandwidth: 50e9, devicesPerNode: 8,
                source: "NVIDIA DGX B200 data sheet (2024), an eighth of the system: 1,440 GB, 64 TB/s, 72 PFLOPS FP8 "
                    + "with sparsity, NVLink 14.4 TB/s")
        ),
    ]

    private static let gibibyte = Double(1 << 30)

    /// A device of the table.
    /// - Throws: ``PlanningError/unknownName(kind:expected:found:)``.
    public static func named(_ name: String) throws(PlanningError) -> DeviceFigures {
        guard let entry = table.first(where: { $0.key == name.lowercased() }) else {
            throw PlanningError.unknownName(
                kind: "device", expected: table.map(\.key) + ["a file that apus doctor --json wrote"], found: name)
        }
        return entry.figures
    }
}
