/// Comparison by Unicode scalars. Swift's `==` on strings is canonical equivalence, under which the two spellings of
/// an accented letter are one key; JSON, vocabularies and templates tell them apart.
extension String {
    /// Whether both strings are the same sequence of Unicode scalars.
    @inline(__always)
    package func hasSameScalars(as other: String) -> Bool {
        let left = utf8
        let right = other.utf8
        return left.count == right.count && left.elementsEqual(right)
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
        utf8.lexicographicallyPrecedes(other.utf8)
    }
}
