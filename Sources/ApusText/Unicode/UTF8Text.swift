/// Steps through UTF-8 that is known to be valid.
enum UTF8Text {
    /// The length of the sequence that a lead byte opens.
    @inline(__always)
    static func length(_ lead: UInt8) -> Int { lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4 }

    /// The scalar at `pointer` and its length in bytes.
    @inline(__always)
    static func decode(_ pointer: UnsafePointer<UInt8>) -> (scalar: UInt32, length: Int) {
        let lead = UInt32(pointer[0])
        if lead < 0x80 { return (lead, 1) }
        let second = UInt32(pointer[1] & 0x3F)
        if lead < 0xE0 { return ((lead & 0x1F) << 6 | second, 2) }
        let third = UInt32(pointer[2] & 0x3F)
        if lead < 0xF0 { return ((lead & 0x0F) << 12 | second << 6 | third, 3) }
        return ((lead & 0x07) << 18 | second << 12 | third << 6 | UInt32(pointer[3] & 0x3F), 4)
    }

    /// The start of the character before `pointer`.
    @inline(__always)
    static func previous(_ pointer: UnsafePointer<UInt8>) -> UnsafePointer<UInt8> {
        var pointer = pointer - 1
        while pointer[0] & 0xC0 == 0x80 { pointer -= 1 }
        return pointer
    }

    /// Appends a scalar in UTF-8.
    @inline(__always)
    static func append(_ scalar: UInt32, to bytes: inout [UInt8]) {
        if scalar < 0x80 {
            bytes.append(UInt8(scalar))
        } else if scalar < 0x800 {
            bytes.append(0xC0 | UInt8(scalar >> 6))
            bytes.append(0x80 | UInt8(scalar & 0x3F))
        } else if scalar < 0x10000 {
            bytes.append(0xE0 | UInt8(scalar >> 12))
            bytes.append(0x80 | UInt8(scalar >> 6 & 0x3F))
            bytes.append(0x80 | UInt8(scalar & 0x3F))
        } else {
            bytes.append(0xF0 | UInt8(scalar >> 18))
            bytes.append(0x80 | UInt8(scalar >> 12 & 0x3F))
            bytes.append(0x80 | UInt8(scalar >> 6 & 0x3F))
            bytes.append(0x80 | UInt8(scalar & 0x3F))
        }
    }

    /// The number of bytes before the first that is not part of valid UTF-8, or nil where all are.
    static func firstInvalid(_ bytes: UnsafeBufferPointer<UInt8>) -> Int? {
        var index = 0
        let count = bytes.count
        guard let base = bytes.baseAddress else { return nil }
        let raw = UnsafeRawPointer(base)
        while index < count {
            if index + 8 <= count,
                raw.loadUnaligned(fromByteOffset: index, as: UInt64.self) & 0x8080_8080_8080_8080 == 0
            {
                index += 8
                continue
            }
            let length = validLength(base + index, count - index)
            guard length > 0 else { return index }
            index += length
        }
        return nil
    }

    /// The length of the valid sequence at `pointer` within `available` bytes, or 0.
    static func validLength(_ pointer: UnsafePointer<UInt8>, _ available: Int) -> Int {
        let lead = pointer[0]
        if lead < 0x80 { return 1 }
        guard lead >= 0xC2, lead <= 0xF4 else { return 0 }
        let length = length(lead)
        guard available >= length else { return 0 }
        let second = pointer[1]
        let low: UInt8 = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80
        let high: UInt8 = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF
        guard second >= low, second <= high else { return 0 }
        for index in 2..<Swift.max(length, 2) where pointer[index] & 0xC0 != 0x80 { return 0 }
        return length
    }
}
