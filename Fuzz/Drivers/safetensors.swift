import ApusModels

/// Safetensors: whatever opens must be readable to its last byte.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let bytes = UnsafeBufferPointer(start: start, count: count)
    guard let file = try? SafetensorsFile(MappedFile(copying: bytes, name: "fuzz")) else { return 0 }
    precondition(file.tensors.reduce(0) { $0 + $1.byteCount } <= count)
    let summary = try! FileSummary(file.file)
    _ = (summary.text, summary.json.serialized())
    for info in file.tensors {
        guard let tensor = try? file.tensor(named: info.name) else { continue }
        precondition(tensor.byteCount == info.byteCount)
        _ = tensor.firstNotFinite()
    }
    return 0
}
