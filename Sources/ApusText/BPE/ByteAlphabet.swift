/// The alphabet of byte-level BPE: each byte stands as a printable character, as GPT-2's encoder has it. Printable
/// Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and the following.
enum ByteAlphabet {
    /// The character of each byte.
    static let scalars: [UInt16] = {
        var result = [UInt16](repeating: 0, count: 256)
        var next: UInt16 = 256
        for byte in 0..<256 {
            if (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || (0xAE...0xFF).contains(byte) {
                result[byte] = UInt16(byte)
            } else {
                result[byte] = next
                next += 1
            }
        }
        return result
    }()

    /// The byte of each character below U+0180, -1 where it stands for none.
    private static let bytes: [Int16] = {
        var result = [Int16](repeating: -1, count: 0x180)
        for (byte, scalar) in scalars.enumerated() { result[Int(scalar)] = Int16(byte) }
        return result
    }()

    /// Appends the characters of `text` in UTF-8.
    static func spell(_ text: UnsafeBufferPointer<UInt8>, into result: inout [UInt8]) {
        for byte in text {
            let scalar = scalars[Int(byte)]
            if scalar < 0x80 {
                result.append(UInt8(scalar))
            } else {
                result.append(0xC0 | UInt8(scalar >> 6))
                result.append(0x80 | UInt8(scalar & 0x3F))
            }
        }
    }

    /// Appends the bytes that a token stands for; a token with any character outside the alphabet stands for its own
    /// UTF-8, as in `tokenizers`.
    static func appendBytes(spelledBy token: UnsafeBufferPointer<UInt8>, to result: inout [UInt8]) {
        let start = result.count
        var index = 0
        while index < token.count {
            let lead = token[index]
            var scalar = Int(lead)
            index += 1
            if lead >= 0x80 {
                scalar = lead & 0xE0 == 0xC0 && index < token.count ? join(lead, token[index]) : bytes.count
                index += 1
            }
            guard scalar < bytes.count, bytes[scalar] >= 0 else {
                result.removeSubrange(start...)
                result.append(contentsOf: token)
                return
            }
            result.append(UInt8(bytes[scalar]))
        }
    }

    private static func join(_ lead: UInt8, _ trail: UInt8) -> Int { Int(lead & 0x1F) << 6 | Int(trail & 0x3F) }
}
