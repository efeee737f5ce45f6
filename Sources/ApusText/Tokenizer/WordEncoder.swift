/// The memory that one encoding thread works in.
final class EncodingWorkspace: @unchecked Sendable {
    // Unchecked: a tokenizer takes a workspace out of its pool under a lock, uses it within one call and puts it back,
    // so never two threads hold the same one.
    let output = GrowableBuffer<Int32>(capacity: 1024)
    let merger = SymbolMerger()
    let cache = WordCache()
}

/// Appends the tokens of each word to the output.
struct WordEncoder: WordConsumer {
    let model: BPEModel
    let workspace: EncodingWorkspace

    @inline(__always)
    mutating func consume(_ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>) {
        if model.cutsBeforeMetaspace {
            cut(word, count, readable: readable)
        } else {
            encode(word, count, readable: readable)
        }
    }

    @inline(__always)
    private func encode(_ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>) {
        var isFound = false
        let place = workspace.cache.lookUp(
            word, count, readable: readable, into: workspace.output, isFound: &isFound)
        if !isFound { encodeNew(word, count, place) }
    }

    @inline(never)
    private func encodeNew(_ word: UnsafePointer<UInt8>, _ count: Int, _ place: WordCache.Place?) {
        let merger = workspace.merger
        model.tokenize(UnsafeBufferPointer(start: word, count: count), merger)
        let result = UnsafeBufferPointer(start: merger.symbols.base, count: merger.symbols.count)
        workspace.output.append(merger.symbols.base, result.count)
        if let place { workspace.cache.remember(word, count, result, at: place) }
    }

    /// Cuts before each U+2581 that another character precedes.
    private func cut(_ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>) {
        var start = 0
        var index = 1
        while index + 3 <= count {
            if isMetaspace(word + index), index < 3 || !isMetaspace(word + index - 3) {
                encode(word + start, index - start, readable: readable)
                start = index
                index += 3
            } else {
                index += 1
            }
        }
        encode(word + start, count - start, readable: readable)
    }

    @inline(__always)
    private func isMetaspace(_ pointer: UnsafePointer<UInt8>) -> Bool {
        pointer[0] == 0xE2 && pointer[1] == 0x96 && pointer[2] == 0x81
    }
}
