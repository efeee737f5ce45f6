import ApusTensor
import ApusText

extension TrainableDecoder {
    /// Writes `config.json` and `model.safetensors`, float32, in Hugging Face's layout; each file appears when it is whole.
    /// - Throws: file errors; a full disk leaves older files as they were.
    public func writeHuggingFaceFiles(to folder: String) throws {
        let file = try AtomicFile(path: FilePath.join(folder, "config.json"))
        try file.write(Array((configuration.huggingFaceJSON.serialized(.pretty) + "\n").utf8))
        try file.publish()
        var writer = SafetensorsWriter()
        var values: [String: Tensor] = [:]
        visitParameters { name, parameter in
            writer.add(name, shape: parameter.shape, dtype: .f32)
            values[name] = parameter.value
        }
        try writer.write(to: FilePath.join(folder, "model.safetensors")) { values[$0]! }
    }
}
