/// Receives the words of a text in order. Each is valid UTF-8, read only during the call.
protocol WordConsumer {
    /// One word; `readable` ends the memory that may be read beyond it.
    mutating func consume(_ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>)
}

/// Splits text into words, step by step as the `pre_tokenizer` of a `tokenizer.json` says.
///
/// Most steps only cut, so a word is a pair of pointers into the text; the few that change text (a space put before
/// it, spaces replaced) copy the piece once.
struct PreTokenizer: Sendable {
    /// One step.
    enum Step: Sendable {
        case scan(WordScanner)
        case split(TextPattern, SplitBehavior, isInverted: Bool)
        case replaceSpaces(by: [UInt8], prepend: MetaspacePrefix)
        case prefixSpace
        /// The characters of `ByteAlphabet` in place of the bytes.
        case spellBytes
        case chunks(Int)
    }

    /// When `Metaspace` puts its character before a piece that does not begin with it.
    enum MetaspacePrefix: String, Sendable {
        case always, first, never
    }

    var steps: [Step]

    /// Gives the words of `text` to `consumer`.
    /// - Parameter isAtStart: whether the text begins where the whole input begins.
    func forEachWord<Consumer: WordConsumer>(
        of text: UnsafeBufferPointer<UInt8>, isAtStart: Bool, _ consumer: inout Consumer
    ) {
        guard let start = text.baseAddress else { return }
        run(0, start, start + text.count, isAtStart: isAtStart, &consumer)
    }

    private func run<Consumer: WordConsumer>(
        _ index: Int, _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>, isAtStart: Bool,
        _ consumer: inout Consumer
    ) {
        guard start < end else { return }
        guard index < steps.count else { return consumer.consume(start, end - start, readable: end) }
        let isLast = index + 1 == steps.count
        switch steps[index] {
        case .scan(let scanner):
            let scan = WordScan(end: end)
            var position = start
            while position < end {
                let next: UnsafePointer<UInt8>
                switch scanner {
                case .gpt2: next = scan.gpt2(position)
                case .llama3(let digits): next = scan.llama3(position, digits: digits)
                }
                if isLast {
                    consumer.consume(position, next - position, readable: end)
                } else {
                    run(index + 1, position, next, isAtStart: isAtStart && position == start, &consumer)
                }
                position = next
            }
        case .split(let pattern, .isolated, _):
            let text = UnsafeBufferPointer(start: start, count: end - start)
            var previous = 0
            pattern.forEachMatch(in: text) { match in
                if previous < match.lowerBound {
                    run(
                        index + 1, start + previous, start + match.lowerBound, isAtStart: isAtStart && previous == 0,
                        &consumer)
                }
                run(
                    index + 1, start + match.lowerBound, start + match.upperBound,
                    isAtStart: isAtStart && match.lowerBound == 0, &consumer)
                previous = match.upperBound
            }
            run(index + 1, start + previous, end, isAtStart: isAtStart && previous == 0, &consumer)
        case .split(let pattern, let behavior, let isInverted):
            let text = UnsafeBufferPointer(start: start, count: end - start)
            for piece in behavior.pieces(pattern.parts(of: text, isInverted: isInverted)) {
                run(
                    index + 1, start + piece.lowerBound, start + piece.upperBound,
                    isAtStart: isAtStart && piece.lowerBound == 0, &consumer)
            }
        case .replaceSpaces(let replacement, let prepend):
            var copy: [UInt8] = []
            copy.reserveCapacity((end - start) * 2)
            for byte in UnsafeBufferPointer(start: start, count: end - start) {
                if byte == UInt8(ascii: " ") { copy += replacement } else { copy.append(byte) }
            }
            let needsPrefix = prepend == .always || (prepend == .first && isAtStart)
            if needsPrefix, !copy.starts(with: replacement) { copy.insert(contentsOf: replacement, at: 0) }
            runCopy(index + 1, copy, isAtStart: isAtStart, &consumer)
        case .prefixSpace:
            if start[0] == UInt8(ascii: " ") {
                run(index + 1, start, end, isAtStart: isAtStart, &consumer)
            } else {
                var copy: [UInt8] = [UInt8(ascii: " ")]
                copy += UnsafeBufferPointer(start: start, count: end - start)
                runCopy(index + 1, copy, isAtStart: isAtStart, &consumer)
            }
        case .spellBytes:
            var copy: [UInt8] = []
            ByteAlphabet.spell(UnsafeBufferPointer(start: start, count: end - start), into: &copy)
            runCopy(index + 1, copy, isAtStart: isAtStart, &consumer)
        case .chunks(let length):
            var position = start
            while position < end {
                var next = position
                for _ in 0..<length where next < end { next += UTF8Text.length(next[0]) }
                run(index + 1, position, next, isAtStart: isAtStart && position == start, &consumer)
                position = next
            }
        }
    }

    private func runCopy<Consumer: WordConsumer>(
        _ index: Int, _ copy: [UInt8], isAtStart: Bool, _ consumer: inout Consumer
    ) {
        copy.withUnsafeBufferPointer { buffer in
            run(index, buffer.baseAddress!, buffer.baseAddress! + buffer.count, isAtStart: isAtStart, &consumer)
        }
    }
}
