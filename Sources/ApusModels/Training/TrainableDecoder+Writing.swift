import ApusTensor
import ApusText

extension TrainableDecoder {
    /// Writes `config.json` and `model.safetensors`, float32, in Hugging Face's layout; each file appears when it is whole.
    /// - Parameter values: the weights by their names in the whole model; nil for this model's own.
    /// - Throws: file errors; a full disk leaves older files as they were. ``ModelFileError/unsupported(file:what:found:supported:)``
    ///   where `config.json` would read back as another model.
    public func writeHuggingFaceFiles(to folder: String, values given: [String: Tensor]? = nil) throws {
        try configuration.requireHuggingFaceForm(in: folder)
        let file = try AtomicFile(path: FilePath.join(folder, "config.json"))
        try file.write(Array((configuration.huggingFaceJSON.serialized(.pretty) + "\n").utf8))
        try file.publish()
        var writer = SafetensorsWriter()
        let values = given ?? Dictionary(uniqueKeysWithValues: parameters().map { ($0.name, $0.parameter.value) })
        for role in configuration.tensorRoles {
            writer.add(names.name(of: role), shape: configuration.shape(of: role), dtype: .f32)
        }
        try writer.write(to: FilePath.join(folder, "model.safetensors")) {
            try operations.backend.toHost([values[$0]!])[0]
        }
    }
}
