import ApusText

/// tokenizer.json, and the JSON parser under it: whatever is accepted must encode, decode and read back.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    let bytes = UnsafeRawBufferPointer(start: start, count: count)
    precondition(fuzzJSON(bytes), "a JSON value changed when written and read back")
    fuzzTokenizerJSON(bytes)
    return 0
}
