import ApusModels
import ApusTensor
import FoundationEssentials
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Models whose files are well formed but whose weights are not what the configuration says.
@Suite struct MalformedWeightsTests {
    /// Saves the tiny llama fixture with some of its tensors replaced (nil: left out), and opens it.
    private func model(_ replace: [String: Tensor?]) throws -> (any Checkpoint, TestFolder) {
        let original = try Checkpoints.open(Fixtures.path("models/llama2"))
        let folder = try TestFolder()
        try folder.write(try Fixtures.bytes("models/llama2/config.json"), "config.json")
        var tensors: [String: Tensor] = [:]
        for name in original.tensorNames { tensors[name] = try original.tensor(named: name) }
        for (name, tensor) in replace {
            #expect(tensors[name] != nil)
            tensors[name] = tensor
        }
        var writer = SafetensorsWriter()
        for (name, tensor) in tensors { writer.add(name, shape: tensor.shape, dtype: tensor.dtype) }
        try writer.write(to: folder.path("model.safetensors")) { tensors[$0]! }
        return (try Checkpoints.open(folder.path), folder)
    }

    private func error(_ replace: [String: Tensor?]) throws -> String {
        let (checkpoint, folder) = try model(replace)
        let error = #expect(throws: ModelFileError.self) {
            for role in checkpoint.configuration.tensorRoles { _ = try checkpoint.finiteTensor(role) }
        }
        let text = "\(try #require(error))"
        #expect(text.contains(folder.path))
        return text
    }

    @Test func missingTensorsAreNamed() throws {
        #expect(try error(["model.norm.weight": Optional<Tensor>.none]).contains("model.norm.weight is missing"))
        #expect(try error(["lm_head.weight": Optional<Tensor>.none]).contains("lm_head.weight is missing"))
    }

    @Test func wrongShapesAreNamed() throws {
        let name = "model.layers.1.mlp.down_proj.weight"
        let shape = try Checkpoints.open(Fixtures.path("models/llama2")).tensor(named: name).shape
        let turned = Tensor(Array(repeating: 0, count: shape.count), shape: [shape[1], shape[0]])
        let text = try error([name: turned])
        #expect(
            text.contains(name) && text.contains("expected shape \(shape)") && text.contains("found \(turned.shape)"))
        #expect(try error([name: Tensor([1], shape: [1])]).contains("found [1]"))
    }

    @Test func wrongDTypesAreNamed() throws {
        let name = "model.norm.weight"
        let shape = try Checkpoints.open(Fixtures.path("models/llama2")).tensor(named: name).shape
        let text = try error([name: Tensor(Array(repeating: 1, count: shape.count) as [Int32], shape: shape)])
        #expect(text.contains(name) && text.contains("i32"))
    }

    @Test func notANumberIsNamed() throws {
        let name = "model.layers.0.mlp.up_proj.weight"
        let tensor = try Checkpoints.open(Fixtures.path("models/llama2")).tensor(named: name)
        for bad in [Float.nan, .infinity, -.infinity] {
            var values = tensor.floats
            values[37] = bad
            let text = try error([name: Tensor(values, shape: tensor.shape)])
            #expect(text.contains(name) && text.contains("element 37"))
        }
    }

    @Test func everyBadFloatIsFoundWhereItIs() throws {
        let count = 9001
        func check<T: FixedWidthInteger>(_ dtype: DType, one: T, largest: T, bad: [T]) {
            for position in [0, 1, 4095, 4096, count - 1] {
                var values = [T](repeating: one, count: count)
                values[position] = largest
                let good = Tensor(bytes: values.withUnsafeBytes(Array.init), shape: [count], dtype: dtype)
                #expect(good.firstNotFinite() == nil)
                for pattern in bad {
                    values[position] = pattern
                    let tensor = Tensor(bytes: values.withUnsafeBytes(Array.init), shape: [count], dtype: dtype)
                    #expect(tensor.firstNotFinite() == position, "\(dtype) \(pattern) at \(position)")
                }
            }
        }
        check(
            .f32, one: 0x3f80_0000, largest: 0xff7f_ffff,
            bad: [0x7f80_0000, 0xff80_0000, 0x7f80_0001, 0xffff_ffff] as [UInt32])
        check(
            .f64, one: 0, largest: 0xffef_ffff_ffff_ffff,
            bad: [0x7ff0 << 48, 0xfff8 << 48, 0x7ff0_0000_0000_0001] as [UInt64])
        check(.f16, one: 0x3c00, largest: 0xfbff, bad: [0x7c00, 0xfc00, 0x7c01, 0xffff] as [UInt16])
        check(.bf16, one: 0x3f80, largest: 0xff7f, bad: [0x7f80, 0xff80, 0x7f81, 0xffff] as [UInt16])
        check(.f8e4m3, one: 0x38, largest: 0xfe, bad: [0x7f, 0xff] as [UInt8])
    }

    @Test(arguments: [
        (DType.q8_0, [0]), (.q4_0, [0]), (.q4_1, [0, 2]), (.q4_K, [0, 2]), (.q6_K, [208]),
    ])
    func everyBadBlockScaleIsFound(_ dtype: DType, _ scales: [Int]) throws {
        let blocks = 300
        // All bits set is a NaN only where a scale stands, so that reading any other place as one would show.
        var bytes = [UInt8](repeating: 0xff, count: blocks * dtype.bytesPerBlock)
        func set(_ block: Int, _ offset: Int, _ value: UInt16) {
            let place = block * dtype.bytesPerBlock + offset
            withUnsafeBytes(of: value.littleEndian) { bytes.replaceSubrange(place..<place + 2, with: $0) }
        }
        for block in 0..<blocks { for offset in scales { set(block, offset, 0xfbff) } }
        func found() -> Int? {
            Tensor(bytes: bytes, shape: [blocks * dtype.blockSize], dtype: dtype).firstNotFinite()
        }
        #expect(found() == nil)
        for block in [0, 1, 151, blocks - 1] {
            for offset in scales {
                for bad in [0x7c00, 0xfc00, 0x7e01] as [UInt16] {
                    set(block, offset, bad)
                    #expect(found() == block * dtype.blockSize)
                    set(block, offset, 0x3c00)
                }
            }
        }
    }

    @Test func integersHaveNoBadValue() {
        #expect(Tensor([-1, .max] as [Int32]).firstNotFinite() == nil)
    }

    /// The file-size limit stands for a full disk: the write fails part-way either way.
    @Test func aFullDiskLeavesTheOldFilesAndNoOthers() async {
        await #expect(processExitsWith: .success) {
            let folder = try TestFolder()
            let big = Tensor(Array(repeating: 1, count: 1 << 20), shape: [1 << 20])
            try folder.write("old", "model.gguf")
            try folder.write("old", "model.safetensors")
            signal(SIGXFSZ, SIG_IGN)
            var limit = rlimit(rlim_cur: 1 << 20, rlim_max: 1 << 20)
            guard setrlimit(__rlimit_resource_t(UInt32(RLIMIT_FSIZE.rawValue)), &limit) == 0 else { exit(1) }
            func fails(_ write: () throws -> Void) -> Bool {
                do { try write() } catch let error as ModelFileError {
                    if case .system(_, _, EFBIG) = error { return true }
                } catch {}
                return false
            }
            var gguf = GGUFWriter()
            gguf.add("t", shape: big.shape, dtype: .f32)
            guard fails({ try gguf.write(to: folder.path("model.gguf")) { _ in big } }) else { exit(2) }
            var safetensors = SafetensorsWriter()
            safetensors.add("small", shape: [1], dtype: .f32)
            safetensors.add("t", shape: big.shape, dtype: .f32)
            func tensor(_ name: String) -> Tensor { name == "t" ? big : Tensor([1], shape: [1]) }
            guard fails({ try safetensors.write(to: folder.path("model.safetensors"), tensor: tensor) }) else {
                exit(3)
            }
            guard fails({ try safetensors.write(folder: folder.path, shardByteCount: 8, tensor: tensor) }) else {
                exit(4)
            }
            guard try folder.names == ["model.gguf", "model.safetensors"],
                try folder.bytes("model.gguf") == Array("old".utf8),
                try folder.bytes("model.safetensors") == Array("old".utf8)
            else { exit(5) }
        }
    }

    @Test func aFolderThatCannotBeWrittenIsNamed() throws {
        let folder = try TestFolder()
        let path = folder.path("absent/model.gguf")
        #expect(throws: ModelFileError.system(file: path, operation: "create a file beside it", code: ENOENT)) {
            try GGUFWriter().write(to: path) { _ in fatalError("no tensor was announced") }
        }
    }
}
