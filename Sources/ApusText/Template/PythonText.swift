/// What Python's `str` does, on Swift strings, counted in Unicode scalars.
extension Unicode.Scalar {
    /// Whether Python's `str.isspace` holds.
    var isPythonSpace: Bool {
        switch value {
        case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: true
        default: false
        }
    }

    var isASCIIDigit: Bool { value >= 0x30 && value <= 0x39 }

    /// Whether Python's `str.splitlines` breaks after it.
    var isPythonLineBreak: Bool {
        switch value {
        case 0x0A...0x0D, 0x1C...0x1E, 0x85, 0x2028, 0x2029: true
        default: false
        }
    }

    /// Whether Python's `repr` shows it as it is.
    var isPythonPrintable: Bool {
        switch properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
        case .spaceSeparator: self == " "
        default: true
        }
    }
}

extension String {
    init(_ scalars: some Sequence<Unicode.Scalar>) {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        self.init(view)
    }

    /// `strip`, `lstrip` and `rstrip`; without `characters`, white space goes.
    func stripped(of characters: String? = nil, left: Bool = true, right: Bool = true) -> String {
        let set = characters.map { Set($0.unicodeScalars) }
        let goes = { (scalar: Unicode.Scalar) in set.map { $0.contains(scalar) } ?? scalar.isPythonSpace }
        var view = Substring(self).unicodeScalars
        if left { view = view.drop(while: goes) }
        if right { while let last = view.last, goes(last) { view.removeLast() } }
        return String(Substring(view))
    }

    /// `split` and `rsplit` at white space; the remainder after `limit` cuts stays whole.
    func splitAtSpace(limit: Int, fromRight: Bool) -> [String] {
        guard limit >= 0 else {
            return unicodeScalars.split(whereSeparator: \.isPythonSpace).map { String(Substring($0)) }
        }
        var words: [String] = []
        var rest = Substring(self).unicodeScalars
        while words.count < limit {
            rest = fromRight ? rest.droppingLast(while: \.isPythonSpace) : rest.drop(while: \.isPythonSpace)
            guard !rest.isEmpty else { break }
            if fromRight {
                let remainder = rest.droppingLast { !$0.isPythonSpace }
                words.append(String(Substring(rest[remainder.endIndex...])))
                rest = remainder
            } else {
                let remainder = rest.drop { !$0.isPythonSpace }
                words.append(String(Substring(rest[..<remainder.startIndex])))
                rest = remainder
            }
        }
        rest = fromRight ? rest.droppingLast(while: \.isPythonSpace) : rest.drop(while: \.isPythonSpace)
        if !rest.isEmpty { words.append(String(Substring(rest))) }
        return fromRight ? words.reversed() : words
    }

    /// `split` and `rsplit` at a separator, which must not be empty.
    func split(at separator: String, limit: Int, fromRight: Bool) -> [String] {
        let bytes = Array(utf8)
        let width = separator.utf8.count
        var places = ByteSearch(separator).places(in: bytes, fromRight: fromRight)
        if limit >= 0 { places = Array(fromRight ? places.suffix(limit) : places.prefix(limit)) }
        var parts: [String] = []
        var start = 0
        for place in places {
            parts.append(String(decoding: bytes[start..<place], as: UTF8.self))
            start = place + width
        }
        parts.append(String(decoding: bytes[start...], as: UTF8.self))
        return parts
    }

    /// `splitlines`.
    func lines(keepingEnds: Bool) -> [String] {
        var lines: [String] = []
        var view = Substring(self).unicodeScalars
        while !view.isEmpty {
            guard let end = view.firstIndex(where: \.isPythonLineBreak) else {
                lines.append(String(Substring(view)))
                break
            }
            var next = view.index(after: end)
            if view[end] == "\r", next < view.endIndex, view[next] == "\n" { next = view.index(after: next) }
            lines.append(String(Substring(view[..<(keepingEnds ? next : end)])))
            view = view[next...]
        }
        return lines
    }

    /// `replace`; a negative limit replaces all.
    func replacing(_ old: String, with new: String, limit: Int) -> String {
        if limit == 0 { return self }
        if old.isEmpty {
            var result = ""
            var left = limit
            for scalar in unicodeScalars {
                if left != 0 {
                    result += new
                    left -= 1
                }
                result.unicodeScalars.append(scalar)
            }
            return left != 0 ? result + new : result
        }
        let parts = split(at: old, limit: limit, fromRight: false)
        return parts.count == 1 ? self : parts.joined(separator: new)
    }

    /// How often `needle` occurs without overlap.
    func occurrences(of needle: String) -> Int {
        needle.isEmpty
            ? unicodeScalars.count + 1 : ByteSearch(needle).places(in: Array(utf8), fromRight: false).count
    }

    /// The first or last place of `needle`, in scalars.
    func place(of needle: String, fromRight: Bool) -> Int? {
        if needle.isEmpty { return fromRight ? unicodeScalars.count : 0 }
        let bytes = Array(utf8)
        let places = ByteSearch(needle).places(in: bytes, fromRight: fromRight)
        guard let place = fromRight ? places.last : places.first else { return nil }
        return bytes[..<place].lazy.filter { $0 & 0xC0 != 0x80 }.count
    }

    func contains(scalars needle: String) -> Bool {
        needle.isEmpty || ByteSearch(needle).contains(in: Array(utf8))
    }

    /// `capitalize`.
    var pythonCapitalized: String {
        guard let first = unicodeScalars.first else { return self }
        return first.properties.titlecaseMapping + String(Substring(unicodeScalars.dropFirst())).lowercased()
    }

    /// `title`: every run of letters begins with a title-case letter.
    var pythonTitle: String {
        var result = ""
        var isInWord = false
        for scalar in unicodeScalars {
            result += isInWord ? scalar.properties.lowercaseMapping : scalar.properties.titlecaseMapping
            isInWord = scalar.properties.isCased
        }
        return result
    }

    /// `swapcase`.
    var swappedCase: String {
        unicodeScalars.map {
            $0.properties.isUppercase ? $0.properties.lowercaseMapping : $0.properties.uppercaseMapping
        }.joined()
    }

    /// What Python's `repr` writes for the string.
    var pythonRepr: String {
        let quote: Unicode.Scalar = unicodeScalars.contains("'") && !unicodeScalars.contains("\"") ? "\"" : "'"
        var result = String(quote)
        for scalar in unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case quote: result += "\\\(scalar)"
            case " "..."~": result.unicodeScalars.append(scalar)
            case _ where scalar.isPythonPrintable: result.unicodeScalars.append(scalar)
            default:
                let (letter, width) =
                    scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
                let digits = String(scalar.value, radix: 16)
                result += "\\" + letter + String(repeating: "0", count: width - digits.count) + digits
            }
        }
        result.unicodeScalars.append(quote)
        return result
    }

    /// The text with `&`, `<`, `>` and quotes as HTML entities.
    var escapedForHTML: String {
        var result = ""
        for scalar in unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "'": result += "&#39;"
            case "\"": result += "&#34;"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}

extension BidirectionalCollection where SubSequence == Self {
    fileprivate func droppingLast(while predicate: (Element) -> Bool) -> Self {
        var result = self
        while let last = result.last, predicate(last) { result.removeLast() }
        return result
    }
}

/// Finds a non-empty needle in linear time (Knuth, Morris, Pratt).
private struct ByteSearch {
    private let needle: [UInt8]
    /// For each prefix of the needle: the length of its longest border.
    private let borders: [Int]

    init(_ text: String) {
        needle = Array(text.utf8)
        var borders = [0]
        var length = 0
        for index in needle.indices.dropFirst() {
            while length > 0, needle[index] != needle[length] { length = borders[length - 1] }
            if needle[index] == needle[length] { length += 1 }
            borders.append(length)
        }
        self.borders = borders
    }

    /// The places of occurrences that do not overlap, ascending, chosen from the left or from the right.
    func places(in bytes: [UInt8], fromRight: Bool) -> [Int] {
        var places: [Int] = []
        scan(bytes, overlapping: fromRight) { place in
            places.append(place)
            return true
        }
        guard fromRight else { return places }
        var chosen: [Int] = []
        for place in places.reversed() where chosen.last.map({ place + needle.count <= $0 }) ?? true {
            chosen.append(place)
        }
        return chosen.reversed()
    }

    func contains(in bytes: [UInt8]) -> Bool {
        var isFound = false
        scan(bytes, overlapping: false) { _ in
            isFound = true
            return false
        }
        return isFound
    }

    /// Hands every occurrence to `body` until it returns false.
    private func scan(_ bytes: [UInt8], overlapping: Bool, _ body: (Int) -> Bool) {
        var matched = 0
        for (index, byte) in bytes.enumerated() {
            while matched > 0, byte != needle[matched] { matched = borders[matched - 1] }
            if byte == needle[matched] { matched += 1 }
            if matched == needle.count {
                guard body(index + 1 - needle.count) else { return }
                matched = overlapping ? borders[matched - 1] : 0
            }
        }
    }
}
