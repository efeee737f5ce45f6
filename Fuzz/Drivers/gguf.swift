import ApusModels
import ApusText

/// GGUF: whatever opens must be readable to its last byte, and its configuration a value or an error.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let bytes = UnsafeBufferPointer(start: start, count: count)
    guard let file = try? GGUFFile(MappedFile(copying: bytes, name: "fuzz")) else { return 0 }
    for (_, value) in file.metadata.entries {
        guard let array = value.array else { continue }
        _ = try! array.values(limit: 1000)
        _ = (array.strings, array.integers, array.numbers, array.bools)
    }
    if let vocabulary = try? GGUFVocabulary(file.metadata), let tokenizer = try? Tokenizer(gguf: vocabulary) {
        _ = tokenizer.decode(tokenizer.encode("Hello, it's 2024!\r\n  \u{e9} <s>", addSpecialTokens: true))
    }
    for info in file.tensors {
        guard let tensor = try? file.tensor(named: info.name) else { continue }
        precondition(tensor.byteCount == info.byteCount)
        _ = tensor.firstNotFinite()
    }
    let summary = try! FileSummary(file.file)
    _ = (summary.text, summary.json.serialized())
    guard let checkpoint = try? GGUFCheckpoint(file) else { return 0 }
    for role in checkpoint.configuration.tensorRoles.prefix(1000) { _ = try? checkpoint.finiteTensor(role) }
    if checkpoint.configuration.rotary.width <= 1024 { _ = checkpoint.configuration.rotary.embedding.rows([0, 1]) }
    return 0
}
