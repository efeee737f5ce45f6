import ApusAttention
import ApusEngine
import ApusModels
import ApusTensor
import ArgumentParser

extension Precision: ExpressibleByArgument {}

/// Where a model computes.
enum ComputeDevice: String, ExpressibleByArgument, CaseIterable {
    /// On this machine's processor.
    case cpu
    /// On this machine's NVIDIA GPU.
    case cuda

    /// The first of its kind.
    var device: Device { self == .cpu ? .cpu : .cuda(0) }
}

/// Flags of every command that loads a model.
struct ModelOptions: ParsableArguments {
    @Argument(help: "A GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.")
    var model: String
    @OptionGroup var compute: ComputeOptions

    /// The cache's dtype, where one was given.
    func cacheDType() throws -> DType? { try compute.cacheDType() }

    /// Loads the network alone: no tokenizer is needed.
    func loadDecoder(_ context: RankContext? = nil) throws -> Decoder { try compute.loadDecoder(model, context) }

    /// Loads the model, with progress on a terminal.
    /// - Parameters:
    ///   - acceptsScoreHead: whether a model that gives scores will do.
    ///   - loadsWeights: false where a GPU has them.
    func load(
        acceptsScoreHead: Bool = false, loadsWeights: Bool = true, _ context: RankContext? = nil
    ) throws -> LanguageModel {
        let progress = ProgressLine(label: "loading \(model)", isShown: context?.isFirst ?? true)
        defer { progress.end() }
        let backend = CPUBackend(threads: compute.threads, precision: compute.precision)
        func load() throws -> LanguageModel {
            try LanguageModel.load(
                path: model, backend: backend, acceptsScoreHead: acceptsScoreHead, loadsWeights: loadsWeights,
                ranks: { try context?.cut($0) }
            ) { progress.update($0) }
        }
        return try context?.loading(load) ?? load()
    }
}

/// Flags of how a model computes on the CPU.
struct ComputeOptions: ParsableArguments {
    @Option(name: .shortAndLong, help: "Threads; all usable cores by default.")
    var threads: Int?

    @Option(help: "Arithmetic of products: automatic follows the file, float32 never rounds activations.")
    var precision: Precision = .automatic

    @Option(help: "Type of the key-value cache: f32, bf16, f16 or q8_0; f32 for models of f32 weights, otherwise bf16.")
    var cacheType: String?

    func validate() throws {
        if let threads, threads < 1 { throw ValidationError("--threads: expected an integer >= 1, found \(threads)") }
        _ = try cacheDType()
    }

    /// The cache's dtype, where one was given.
    func cacheDType() throws -> DType? {
        guard let cacheType else { return nil }
        guard let type = DType(rawValue: cacheType), CacheLayout.dtypes.contains(type) else {
            throw ValidationError("--cache-type: expected f32, bf16, f16 or q8_0, found \(cacheType)")
        }
        return type
    }

    /// Loads the network at a path.
    func loadDecoder(_ path: String, _ context: RankContext? = nil) throws -> Decoder {
        let progress = ProgressLine(label: "loading \(path)", isShown: context?.isFirst ?? true)
        defer { progress.end() }
        let backend = CPUBackend(threads: threads, precision: precision)
        let checkpoint = try Checkpoints.open(path)
        let ranks = try context?.cut(checkpoint)
        func load() throws -> Decoder {
            try Decoder(checkpoint: checkpoint, backend: backend, ranks: ranks) { progress.update($0) }
        }
        return try context?.loading(load) ?? load()
    }
}

/// A line on standard error that shows how far long work is; silent where standard error is no terminal, and for work that
/// takes less than half a second.
final class ProgressLine {
    private let label: String
    private let isShown: Bool
    private let start = ContinuousClock.now
    private var shown = false

    init(label: String, isShown: Bool = true) {
        self.label = label
        self.isShown = isShown
    }

    func update(_ share: Double) {
        guard isShown, Terminal.errorIsTerminal, ContinuousClock.now - start > .milliseconds(500) else { return }
        shown = true
        Terminal.error("\r\(label): \(Int(share * 100)) %")
    }

    func end() {
        if shown { Terminal.error("\r\u{1B}[K") }
    }
}
