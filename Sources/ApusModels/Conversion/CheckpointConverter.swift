import ApusTensor
import ApusText

/// Writes a model in another format, with its tokenizer and chat template: GGUF in one file, or a folder as transformers
/// saves it.
///
/// Rows move to where the target expects them (rotated pairs, fused projections, stacked experts); elements change only where
/// the format asked for changes them. Outputs appear whole or not at all.
public struct CheckpointConverter {
    /// What a conversion wrote.
    public struct Report: Sendable {
        /// Tensors and their bytes, by dtype.
        public var totals: [DType: (tensors: Int, byteCount: Int)] = [:]
        /// What could not be carried over, in words.
        public var notes: [String] = []
        /// Bytes of all tensors.
        public var byteCount: Int { totals.values.reduce(0) { $0 + $1.byteCount } }
        /// Elements of all tensors.
        public var parameterCount = 0
    }

    private let checkpoint: any Checkpoint
    private let format: WeightFormat
    private let isPure: Bool
    private let backend: CPUBackend

    /// A conversion of a checkpoint.
    /// - Parameters:
    ///   - format: dtype of the matrices.
    ///   - isPure: gives the head and the token embedding the same 4-bit format as the rest, instead of Q8_0.
    public init(_ checkpoint: any Checkpoint, format: WeightFormat, isPure: Bool = false, backend: CPUBackend) {
        self.checkpoint = checkpoint
        self.format = format
        self.isPure = isPure
        self.backend = backend
    }

    /// Writes one GGUF file.
    /// - Parameter progress: called with the share of the tensors written.
    /// - Throws: ``ModelFileError``, `TensorError`; the file at `path` is then as before.
    public func writeGGUF(to path: String, progress: (Double) -> Void = { _ in }) throws -> Report {
        let configuration = checkpoint.configuration
        let architecture = try configuration.ggufArchitecture(source: checkpoint.name)
        let target = configuration.inGGUF
        let plan = try ConversionPlan(checkpoint, to: target, names: .gguf, backend: backend) {
            format.ggufType($0, shape: $1.shape, source: $1.dtype, isPure: isPure)
        }
        var report = Report(plan)
        var writer = GGUFWriter()
        for (key, value) in GGUFMetadataWriter(target, architecture: architecture).entries { writer.set(key, value) }
        for (key, value) in try GGUFTokenizerWriter.entries(checkpoint, &report.notes) { writer.set(key, value) }
        writer.set("general.file_type", .uint32(format.fileType(plan)))
        let rotary = GGUFMetadataWriter.rotaryTensors(target)
        for (name, values) in rotary { writer.add(name, shape: [values.count], dtype: .f32) }
        for output in plan.outputs { writer.add(output.name, shape: output.shape, dtype: output.dtype) }
        var written = 0
        try writer.write(to: path) { name in
            if let (_, values) = rotary.first(where: { $0.name == name }) {
                return Tensor(values, shape: [values.count])
            }
            written += 1
            progress(Double(written) / Double(plan.outputs.count))
            return try plan.tensor(named: name)
        }
        return report
    }

    /// Writes a folder with `config.json`, `model.safetensors` and the tokenizer's files. There must be nothing at `path`.
    /// - Parameters:
    ///   - shardByteCount: most bytes of one safetensors file.
    ///   - progress: called with the share of the tensors written.
    /// - Throws: ``ModelFileError``, `TensorError`; nothing is left at `path` then.
    public func writeHuggingFace(
        to path: String, shardByteCount: Int = 5_000_000_000, progress: (Double) -> Void = { _ in }
    ) throws -> Report {
        var target = checkpoint.configuration.inHuggingFace
        try target.requireHuggingFaceForm(in: checkpoint.name)
        let matrices = try checkpoint.tensor(.layer(0, .output)).dtype
        let plan = try ConversionPlan(checkpoint, to: target, names: .huggingFace(target), backend: backend) {
            _, tensor in
            try format.safetensorsType(tensor, matrices: matrices, backend: backend)
        }
        target.weightDType = plan.outputs.first { $0.shape.rank >= 2 }?.dtype
        var report = Report(plan)
        var writer = SafetensorsWriter()
        for output in plan.outputs { writer.add(output.name, shape: output.shape, dtype: output.dtype) }
        let folder = try AtomicFolder(path: path)
        var written = 0
        try writer.write(folder: folder.temporary, shardByteCount: shardByteCount) { name in
            written += 1
            progress(Double(written) / Double(plan.outputs.count))
            return try plan.tensor(named: name)
        }
        try folder.write("config.json", target.huggingFaceJSON.serialized(.pretty) + "\n")
        try HuggingFaceTokenizerWriter.write(checkpoint, to: folder, &report.notes)
        try folder.publish()
        return report
    }
}

extension CheckpointConverter.Report {
    fileprivate init(_ plan: ConversionPlan) {
        for output in plan.outputs {
            let bytes = Tensor.byteCount(shape: output.shape, dtype: output.dtype) ?? 0
            let total = totals[output.dtype] ?? (0, 0)
            totals[output.dtype] = (total.tensors + 1, total.byteCount + bytes)
            parameterCount += output.shape.count
        }
    }
}

extension WeightFormat {
    /// `general.file_type` of the dtype that most matrices have (source: the GGUF specification).
    fileprivate func fileType(_ plan: ConversionPlan) -> UInt32 {
        let matrices = plan.outputs.filter { $0.shape.rank >= 2 }.map(\.dtype)
        let most = matrices.max { first, second in
            matrices.count { $0 == first } < matrices.count { $0 == second }
        }
        return switch most {
        case .f16: 1
        case .q4_0: 2
        case .q4_1: 3
        case .q8_0: 7
        case .q4_K: 15
        case .q6_K: 18
        case .bf16: 32
        default: 0
        }
    }
}
