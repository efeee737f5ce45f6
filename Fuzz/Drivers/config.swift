import ApusModels
import ApusText

/// config.json and generation_config.json: a configuration that its own consumers can take, or an error.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let bytes = UnsafeBufferPointer(start: start, count: count)
    if let value = try? JSONValue(parsing: UnsafeRawBufferPointer(bytes)) {
        _ = try? GenerationDefaults(json: JSONNode(value, name: "fuzz"), file: "fuzz")
    }
    guard let configuration = try? DecoderConfiguration(json: MappedFile(copying: bytes, name: "fuzz")) else {
        return 0
    }
    for role in configuration.tensorRoles { precondition(configuration.shape(of: role).count > 0) }
    for layer in 0..<configuration.layerCount { _ = configuration.rotary(layer: layer) }
    if configuration.rotary.width <= 1024 { _ = configuration.rotary.embedding.rows([0, 1]) }
    return 0
}
