/// The keys that let requests in.
struct APIKeys: Sendable {
    private let keys: [[UInt8]]

    init(_ keys: [String]) { self.keys = keys.map { Array($0.utf8) } }

    /// Whether a path needs a key: what runs the model or names it. Health, metrics, the page and the API's description do
    /// not.
    static func guards(_ path: String) -> Bool {
        path.hasPrefix("/v1/") || path == "/tokenize" || path == "/detokenize"
    }

    /// Checks an `Authorization` header. Takes as long for a wrong key as for a right one of the same length.
    /// - Throws: 401.
    func check(_ header: String?) throws(APIError) {
        guard !keys.isEmpty else { return }
        let scheme = "bearer "
        if let header, header.lowercased().hasPrefix(scheme) {
            let given = Array(header.dropFirst(scheme.count).utf8)
            var isKnown = false
            for key in keys where Self.areEqual(key, given) { isKnown = true }
            if isKnown { return }
        }
        throw APIError(
            status: .unauthorized,
            message: header == nil
                ? "expected an API key in the header Authorization: Bearer KEY, found none"
                : "the API key is not one of this server's",
            type: "invalid_request_error", code: "invalid_api_key")
    }

    private static func areEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        guard a.count == b.count else { return false }
        var difference: UInt8 = 0
        for (x, y) in zip(a, b) { difference |= x ^ y }
        return difference == 0
    }
}
