import ApusText

/// Chat templates: whatever parses must render a conversation within its limits, or end in an error.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    fuzzTemplate(UnsafeRawBufferPointer(start: start, count: count))
    return 0
}
