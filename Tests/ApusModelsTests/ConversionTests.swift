import ApusModels
import ApusTensor
import Testing

/// Conversion between safetensors and GGUF, and quantisation.
@Suite struct ConversionTests {
    static let models =
        [
            "llama2", "llama3", "smollm2", "mistral-window", "qwen2", "qwen2-tied", "qwen3", "gptneox",
            "gptneox-sequential", "llama-bf16", "llama-reward",
        ] + AttentionVariantTests.formulas + AttentionVariantTests.families

    private let backend = CPUBackend(threads: 2)

    private func open(_ name: String) throws -> any Checkpoint { try Checkpoints.open(Fixtures.path("models/\(name)")) }

    private func logits(_ path: String, _ tokens: [Int32]) throws -> [Float] {
        let decoder = try Decoder(checkpoint: try Checkpoints.open(path), backend: backend)
        return try decoder.logits(of: tokens, cacheType: .f32).flatMap { $0 }
    }

    @Test(arguments: models) func thereAndBackIsTheSameFile(_ name: String) throws {
        let folder = try TestFolder()
        _ = try CheckpointConverter(try open(name), format: .kept, backend: backend).writeGGUF(
            to: folder.path("model.gguf"))
        let packed = try Checkpoints.open(folder.path("model.gguf"))
        _ = try CheckpointConverter(packed, format: .kept, backend: backend).writeHuggingFace(to: folder.path("back"))
        #expect(try folder.bytes("back/model.safetensors") == Fixtures.bytes("models/\(name)/model.safetensors"))
        #expect(try folder.names == ["back", "model.gguf"])
    }

    @Test(arguments: models) func logitsStayTheSame(_ name: String) throws {
        let folder = try TestFolder()
        let source = try open(name)
        _ = try CheckpointConverter(source, format: .kept, backend: backend).writeGGUF(to: folder.path("model.gguf"))
        _ = try CheckpointConverter(
            try Checkpoints.open(folder.path("model.gguf")), format: .kept, backend: backend
        ).writeHuggingFace(to: folder.path("back"))
        let tokens = (0..<40).map { Int32($0 * 7 % source.configuration.vocabularySize) }
        let expected = try logits(Fixtures.path("models/\(name)"), tokens)
        for path in ["model.gguf", "back"] {
            let error = FamilyLogitsTests.relativeError(try logits(folder.path(path), tokens), expected)
            #expect(error <= (name == "llama-bf16" ? 1e-5 : 1e-6), "\(path)")
        }
    }

    @Test func narrowTypesRoundToNearest() throws {
        let folder = try TestFolder()
        for (format, dtype, bound) in [(WeightFormat.bf16, DType.bf16, 0x1p-8), (.f16, .f16, 0x1p-11)] {
            let path = folder.path("\(format)")
            let report = try CheckpointConverter(try open("llama2"), format: format, backend: backend)
                .writeHuggingFace(to: path)
            #expect(report.totals.map(\.key) == [dtype])
            let (source, target) = (try open("llama2"), try Checkpoints.open(path))
            #expect(target.configuration.weightDType == dtype)
            for role in source.configuration.tensorRoles {
                let (exact, rounded) = (try source.tensor(role).floats, try target.tensor(role).float32().floats)
                for (a, b) in zip(exact, rounded) { #expect(Double(abs(a - b)) <= bound * Double(abs(a)) + 1e-7) }
            }
        }
    }

    /// Rows of 32 and 64 elements: blocks of 32 fit, blocks of 256 do not and fall back.
    @Test(arguments: WeightFormat.quantised) func quantisedModelsStayNear(_ format: WeightFormat) throws {
        let folder = try TestFolder()
        let path = folder.path("model.gguf")
        let report = try CheckpointConverter(try open("llama3"), format: format, isPure: true, backend: backend)
            .writeGGUF(to: path)
        let packed: DType = format == .q4_K ? .q8_0 : DType(rawValue: format.rawValue)!
        #expect(report.totals[packed] != nil && report.totals[.f32] != nil)
        let expected = try FamilyLogitsTests.Expected("llama3")
        let found = try expected.tokens.flatMap { try logits(path, $0) }
        let error = FamilyLogitsTests.relativeError(found, expected.values)
        #expect(error > 1e-4 && error <= (packed == .q8_0 ? 3e-2 : 5e-1))
    }

    @Test func outputsAppearWholeOrNotAtAll() throws {
        let folder = try TestFolder()
        let converter = CheckpointConverter(try open("llama2"), format: .kept, backend: backend)
        try folder.write("old", "taken")
        #expect(throws: ModelFileError.self) { try converter.writeHuggingFace(to: folder.path("taken")) }
        #expect(throws: ModelFileError.self) { try converter.writeHuggingFace(to: folder.path("no/such/folder")) }
        #expect(throws: ModelFileError.self) { try converter.writeGGUF(to: folder.path("no/such/model.gguf")) }
        struct Stop: Error {}
        #expect(throws: ModelFileError.self) { try converter.writeGGUF(to: folder.path("taken/model.gguf")) }
        #expect(try folder.names == ["taken"] && folder.bytes("taken") == Array("old".utf8))
        // Overflow of f16 is found in the middle of writing.
        try overflowing(folder)
        let broken = CheckpointConverter(
            try Checkpoints.open(folder.path("source")), format: .f16, backend: backend)
        #expect(throws: (any Error).self) { try broken.writeHuggingFace(to: folder.path("out")) }
        #expect(throws: (any Error).self) { try broken.writeGGUF(to: folder.path("out.gguf")) }
        #expect(try folder.names == ["source", "taken"])
    }

    /// A copy of a model in which one weight is too large for f16.
    private func overflowing(_ folder: TestFolder) throws {
        let source = try open("llama2")
        _ = try CheckpointConverter(source, format: .kept, backend: backend).writeHuggingFace(to: folder.path("source"))
        var writer = SafetensorsWriter()
        for name in source.tensorNames { writer.add(name, shape: try source.tensor(named: name).shape, dtype: .f32) }
        try writer.write(to: folder.path("source/model.safetensors")) { name in
            var values = try source.tensor(named: name).floats
            if name.hasSuffix("1.mlp.down_proj.weight") { values[3] = 1e6 }
            return Tensor(values, shape: try source.tensor(named: name).shape)
        }
    }

    /// llama.cpp's newer files keep the up-projection of MLA in two, keys transposed.
    @Test func splitUpProjectionsAreJoined() throws {
        let folder = try TestFolder()
        _ = try CheckpointConverter(try open("deepseek-v3"), format: .kept, backend: backend).writeGGUF(
            to: folder.path("whole.gguf"))
        let whole = try GGUFFile(path: folder.path("whole.gguf"))
        let (heads, content, value, latent) = (4, 6, 5, 18)
        var writer = GGUFWriter()
        for (key, entry) in whole.metadata.entries { writer.set(key, entry) }
        var tensors: [String: Tensor] = [:]
        for info in whole.tensors {
            let tensor = try whole.tensor(named: info.name)
            guard info.name.hasSuffix("attn_kv_b.weight") else {
                tensors[info.name] = tensor
                continue
            }
            let rows = tensor.floats
            var keys = [Float](repeating: 0, count: heads * latent * content)
            var values: [Float] = []
            for head in 0..<heads {
                for row in 0..<content {
                    for column in 0..<latent {
                        keys[(head * latent + column) * content + row] =
                            rows[(head * (content + value) + row) * latent + column]
                    }
                }
                let start = (head * (content + value) + content) * latent
                values += rows[start..<start + value * latent]
            }
            let layer = info.name.replacing("attn_kv_b.weight", with: "")
            tensors[layer + "attn_k_b.weight"] = Tensor(keys, shape: [heads, latent, content])
            tensors[layer + "attn_v_b.weight"] = Tensor(values, shape: [heads, value, latent])
        }
        let names = tensors.keys.sorted()
        for name in names { writer.add(name, shape: tensors[name]!.shape, dtype: .f32) }
        try writer.write(to: folder.path("split.gguf")) { tensors[$0]! }
        let tokens: [Int32] = [3, 9, 27, 4, 12]
        #expect(try logits(folder.path("split.gguf"), tokens) == logits(folder.path("whole.gguf"), tokens))
    }
}
