#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Comparison by Unicode scalars. Swift's `==` on strings is canonical equivalence, under which the two spellings of
/// an accented letter are one key; JSON, vocabularies and templates tell them apart.
extension String {
    /// Whether both strings are the same sequence of Unicode scalars.
    package func hasSameScalars(as other: String) -> Bool {
        utf8.count == other.utf8.count && compareBytes(with: other) == 0
    }

    /// Negative, zero or positive as this string's bytes come before, with or after the other's, as far as the shorter
    /// one reaches.
    private func compareBytes(with other: String) -> Int32 {
        var left = self
        var right = other
        return left.withUTF8 { left in
            right.withUTF8 { right in
                let count = min(left.count, right.count)
                guard count > 0, let left = left.baseAddress, let right = right.baseAddress else { return 0 }
                return memcmp(left, right, count)
            }
        }
    }

    /// A seeded hash of the Unicode scalars, never negative.
    package var scalarHash: Int {
        var hasher = Hasher()
        var copy = self
        copy.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
        return hasher.finalize() & Int.max
    }

    /// Whether this string comes before the other when both are ordered by Unicode scalars.
    package func precedesByScalars(_ other: String) -> Bool {
        // The order of UTF-8 bytes is the order of scalars.
        let order = compareBytes(with: other)
        return order < 0 || order == 0 && utf8.count < other.utf8.count
    }
}
