/// A set of Unicode scalars: categories, white space and ranges, minus nothing, perhaps inverted.
struct CharacterSet: Sendable {
    private var classes = ClassSet(categories: 0)
    private var ranges: [ClosedRange<UInt32>] = []
    private var nested: [CharacterSet] = []
    /// Scalars that belong where the rest says they do not, and the other way round.
    private var flipped: [ClosedRange<UInt32>] = []
    private var isInverted = false
    // Membership of ASCII, set by `seal`.
    private var ascii: (UInt64, UInt64) = (0, 0)

    /// The empty set.
    init() {}

    /// The scalars of some classes, except that those of `difference` are swapped in or out.
    init(_ classes: ClassSet, difference: StaticString? = nil, adding extra: [ClosedRange<UInt32>] = []) {
        self.classes = classes
        ranges = extra
        if let difference {
            var collected: [ClosedRange<UInt32>] = []
            HexText.forEachRecord(of: difference) { numbers in
                collected.append(UInt32(numbers[0])...UInt32(numbers[0] + numbers[1] - 1))
            }
            flipped = collected
        }
        seal()
    }

    mutating func insert(_ range: ClosedRange<UInt32>) { ranges.append(range) }
    mutating func insert(_ other: ClassSet) {
        classes.categories |= other.categories
        classes.hasSpace = classes.hasSpace || other.hasSpace
    }
    mutating func insert(_ other: CharacterSet) { nested.append(other) }
    mutating func invert() { isInverted.toggle() }

    /// Prepares the fast path for ASCII; to be called after the last change.
    mutating func seal() {
        ascii = (0, 0)
        for scalar in UInt32(0)..<128 where slowContains(scalar) {
            if scalar < 64 { ascii.0 |= 1 << UInt64(scalar) } else { ascii.1 |= 1 << UInt64(scalar - 64) }
        }
    }

    /// Whether the scalar belongs to the set.
    @inline(__always)
    func contains(_ scalar: UInt32) -> Bool {
        scalar < 128 ? containsASCII(UInt8(truncatingIfNeeded: scalar)) : slowContains(scalar)
    }

    /// Whether the scalar, below 128, belongs to the set.
    @inline(__always)
    func containsASCII(_ byte: UInt8) -> Bool {
        (byte < 64 ? ascii.0 : ascii.1) >> UInt64(byte & 63) & 1 != 0
    }

    private func slowContains(_ scalar: UInt32) -> Bool {
        let belongs =
            classes.contains(ScalarClasses.shared[scalar]) || ranges.contains { $0.contains(scalar) }
            || nested.contains { $0.slowContains(scalar) }
        return (belongs != flipped.contains { $0.contains(scalar) }) != isInverted
    }

    /// What `Digits` splits on.
    static let numeric = CharacterSet(.number, difference: GeneralCategoryData.numericDifference)
    /// \p{N}.
    static let number = CharacterSet(ClassSet.number)
    /// What `Punctuation` splits on.
    static let punctuation = CharacterSet(
        .punctuation, difference: GeneralCategoryData.punctuationDifference,
        adding: [0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E])
    /// White space.
    static let whiteSpace = CharacterSet(ClassSet.space)
    /// \w of `Whitespace` and of added tokens.
    static let word = CharacterSet(wordClasses, difference: GeneralCategoryData.wordDifference)
    /// What is neither a word nor white space to `Whitespace`.
    static let neitherWordNorSpace: CharacterSet = {
        var set = CharacterSet()
        set.insert(word)
        set.insert(whiteSpace)
        set.invert()
        set.seal()
        return set
    }()
    /// \w of patterns.
    static let regexWord = CharacterSet(wordClasses, difference: GeneralCategoryData.regexWordDifference)
    /// What `StripAccents` removes.
    static let combiningMark = CharacterSet(.mark, difference: GeneralCategoryData.combiningMarkDifference)

    private static let wordClasses = ClassSet(
        categories: ["L", "M", "Nd", "Pc"].reduce(0) { $0 | ClassSet($1)!.categories })
}
