extension JSONParser {
    /// Parses the string whose opening quote is at `position`.
    mutating func parseString() throws(JSONError) -> String {
        let start = position + 1
        var end = start
        while end < bytes.count {
            let byte = bytes[end]
            if byte == UInt8(ascii: "\"") {
                position = end + 1
                return try text(start..<end)
            }
            if byte == UInt8(ascii: "\\") { break }
            if byte < 0x20 {
                position = end
                throw unexpected("an escape for the control character")
            }
            end += 1
        }
        guard end < bytes.count else {
            position = end
            throw unexpected("the string's closing quote")
        }
        return try parseEscapedString(start: start, firstEscape: end)
    }

    private mutating func parseEscapedString(start: Int, firstEscape: Int) throws(JSONError) -> String {
        var result = try text(start..<firstEscape)
        position = firstEscape
        var runStart = position
        while position < bytes.count {
            let byte = bytes[position]
            if byte == UInt8(ascii: "\"") {
                result += try text(runStart..<position)
                position += 1
                return result
            } else if byte == UInt8(ascii: "\\") {
                result += try text(runStart..<position)
                result.unicodeScalars.append(try parseEscape())
                runStart = position
            } else if byte < 0x20 {
                throw unexpected("an escape for the control character")
            } else {
                position += 1
            }
        }
        throw unexpected("the string's closing quote")
    }

    /// Parses the escape whose backslash is at `position`.
    private mutating func parseEscape() throws(JSONError) -> Unicode.Scalar {
        let backslash = position
        position += 1
        guard position < bytes.count else { throw unexpected("an escape") }
        let scalar: Unicode.Scalar
        switch bytes[position] {
        case UInt8(ascii: "\""): scalar = "\""
        case UInt8(ascii: "\\"): scalar = "\\"
        case UInt8(ascii: "/"): scalar = "/"
        case UInt8(ascii: "b"): scalar = "\u{8}"
        case UInt8(ascii: "f"): scalar = "\u{C}"
        case UInt8(ascii: "n"): scalar = "\n"
        case UInt8(ascii: "r"): scalar = "\r"
        case UInt8(ascii: "t"): scalar = "\t"
        case UInt8(ascii: "u"):
            position += 1
            return try parseUnicodeEscape(backslash: backslash)
        default: throw unexpected("one of \" \\ / b f n r t u after a backslash")
        }
        position += 1
        return scalar
    }

    private mutating func parseUnicodeEscape(backslash: Int) throws(JSONError) -> Unicode.Scalar {
        let unit = try parseHex4()
        if let scalar = Unicode.Scalar(unit) { return scalar }
        let isHigh = unit < 0xDC00
        guard isHigh, position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"),
            bytes[position + 1] == UInt8(ascii: "u")
        else { throw .loneSurrogate(unit: unit, at: location(backslash)) }
        position += 2
        let low = try parseHex4()
        guard low >= 0xDC00, low < 0xE000,
            let scalar = Unicode.Scalar(0x10000 + (UInt32(unit) - 0xD800) << 10 + (UInt32(low) - 0xDC00))
        else { throw .loneSurrogate(unit: unit, at: location(backslash)) }
        return scalar
    }

    private mutating func parseHex4() throws(JSONError) -> UInt16 {
        var unit: UInt16 = 0
        for _ in 0..<4 {
            guard position < bytes.count, let digit = Character(Unicode.Scalar(bytes[position])).hexDigitValue,
                bytes[position] < 0x80
            else { throw unexpected("four hexadecimal digits") }
            unit = unit << 4 | UInt16(digit)
            position += 1
        }
        return unit
    }

    private func text(_ range: Range<Int>) throws(JSONError) -> String {
        let slice = UnsafeRawBufferPointer(rebasing: bytes[range]).bindMemory(to: UInt8.self)
        if let string = String(validating: slice, as: UTF8.self) { return string }
        var decoder = Unicode.UTF8.ForwardParser()
        var input = slice.makeIterator()
        var valid = range.lowerBound
        while case .valid(let scalar) = decoder.parseScalar(from: &input) { valid += scalar.count }
        throw .invalidUTF8(byte: bytes[valid], at: location(valid))
    }

    /// Parses the number that begins at `position`.
    mutating func parseNumber() throws(JSONError) -> JSONValue {
        let start = position
        let isNegative = bytes[position] == UInt8(ascii: "-")
        if isNegative { position += 1 }
        let integerStart = position
        var magnitude: UInt64 = 0
        var overflows = false
        while position < bytes.count, let digit = digitValue(bytes[position]) {
            let (product, over) = magnitude.multipliedReportingOverflow(by: 10)
            let (sum, carry) = product.addingReportingOverflow(UInt64(digit))
            overflows = overflows || over || carry
            magnitude = sum
            position += 1
        }
        guard position > integerStart else { throw unexpected("a digit") }
        if bytes[integerStart] == UInt8(ascii: "0"), position - integerStart > 1 {
            position = integerStart + 1
            throw unexpected("no digit after a leading zero")
        }
        var isInteger = true
        if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
            isInteger = false
            position += 1
            try skipDigits()
        }
        if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
            isInteger = false
            position += 1
            if position < bytes.count, bytes[position] == UInt8(ascii: "+") || bytes[position] == UInt8(ascii: "-") {
                position += 1
            }
            try skipDigits()
        }
        if isInteger, !overflows {
            if magnitude <= UInt64(Int64.max) {
                return .integer(isNegative ? -Int64(magnitude) : Int64(magnitude))
            }
            if isNegative, magnitude == UInt64(Int64.max) + 1 { return .integer(.min) }
        }
        let digits = try text(start..<position)
        guard let value = Double(digits), value.isFinite else {
            throw .numberOutOfRange(text: String(digits.prefix(40)), at: location(start))
        }
        return .double(value)
    }

    @inline(__always)
    private func digitValue(_ byte: UInt8) -> UInt8? {
        byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") ? byte - UInt8(ascii: "0") : nil
    }

    private mutating func skipDigits() throws(JSONError) {
        let start = position
        while position < bytes.count, digitValue(bytes[position]) != nil { position += 1 }
        guard position > start else { throw unexpected("a digit") }
    }
}
