import ApusText

/// How a token is named in a response with log-probabilities.
struct TokenNames: Sendable {
    let tokenizer: Tokenizer

    /// The token's text. A token whose bytes are a part of a character is named `bytes:\xe2\x80`, as OpenAI does, so that two
    /// tokens have two names.
    func name(_ token: Int32) -> String {
        guard let bytes = tokenizer.bytes(of: token) else { return "" }
        return String(validating: bytes, as: UTF8.self)
            ?? "bytes:"
            + bytes.map { byte in
                let digits = String(byte, radix: 16)
                return "\\x" + (digits.count < 2 ? "0" : "") + digits
            }.joined()
    }

    /// The token's bytes; none where no token has the id.
    func bytes(_ token: Int32) -> [UInt8] { tokenizer.bytes(of: token) ?? [] }
}
