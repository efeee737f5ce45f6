/// The classes of Unicode scalars that pre-tokenizers and patterns ask for, one byte a scalar: the general category in
/// the low five bits, \s above it, and the `Kind` on top. The table takes 1.1 MB and is filled once a process.
struct ScalarClasses: Sendable {
    static let shared = ScalarClasses()

    private let classes: FixedBuffer<UInt8>

    static let spaceBit: UInt8 = 0x20

    /// What the common word patterns tell apart.
    enum Kind {
        static let other: UInt8 = 0
        static let letter: UInt8 = 1
        static let number: UInt8 = 2
        static let space: UInt8 = 3
    }

    /// The table itself, indexed by scalar, for loops over text. It lives as long as the process.
    var base: UnsafePointer<UInt8> { UnsafePointer(classes.base) }

    private init() {
        classes = FixedBuffer(repeating: GeneralCategory.surrogate.rawValue, count: 0x11_0000)
        var position = 0
        var length = 0
        GeneralCategoryData.runs.withUTF8Buffer { text in
            for byte in text {
                if let digit = HexText.digit(byte) {
                    length = length << 4 | digit
                } else {
                    let category = GeneralCategory.letters.firstIndex(of: byte)!
                    let byte = UInt8(category)
                    let kind =
                        ClassSet.letter.contains(byte)
                        ? Kind.letter : ClassSet.number.contains(byte) ? Kind.number : Kind.other
                    (classes.base + position).update(repeating: byte | kind << 6, count: Swift.max(length, 1))
                    position += Swift.max(length, 1)
                    length = 0
                }
            }
        }
        for range in [
            9...13, 0x20...0x20, 0x85...0x85, 0xA0...0xA0, 0x1680...0x1680, 0x2000...0x200A, 0x2028...0x2029,
            0x202F...0x202F, 0x205F...0x205F, 0x3000...0x3000,
        ] {
            for scalar in range { classes[scalar] |= Self.spaceBit | Kind.space << 6 }
        }
    }

    /// The class byte of a scalar.
    @inline(__always)
    subscript(scalar: UInt32) -> UInt8 { classes[Int(scalar)] }
}

/// The general category of a scalar, in the order of the generated table.
enum GeneralCategory: UInt8, CaseIterable {
    case unassigned, uppercaseLetter, lowercaseLetter, titlecaseLetter, modifierLetter, otherLetter
    case nonspacingMark, spacingMark, enclosingMark, decimalNumber, letterNumber, otherNumber
    case connectorPunctuation, dashPunctuation, openPunctuation, closePunctuation, initialPunctuation
    case finalPunctuation, otherPunctuation, mathSymbol, currencySymbol, modifierSymbol, otherSymbol
    case spaceSeparator, lineSeparator, paragraphSeparator, control, format, privateUse, surrogate

    /// How the generated table spells the categories.
    static let letters = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZwxyz".utf8)

    /// The two letters of Unicode's abbreviation, in the same order.
    static let abbreviations = [
        "Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf",
        "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs",
    ]
}

/// A set of general categories and, apart from them, white space.
struct ClassSet: Sendable, Hashable {
    /// One bit a category.
    var categories: UInt32 = 0
    var hasSpace = false

    static let letter = ClassSet("L")!
    static let number = ClassSet("N")!
    static let punctuation = ClassSet("P")!
    static let mark = ClassSet("M")!
    static let space = ClassSet(categories: 0, hasSpace: true)

    init(categories: UInt32, hasSpace: Bool = false) {
        self.categories = categories
        self.hasSpace = hasSpace
    }

    /// The categories whose abbreviation begins with `name` ("L", "Lu"), or nil where there is none.
    init?(_ name: String) {
        for (index, abbreviation) in GeneralCategory.abbreviations.enumerated() where abbreviation.hasPrefix(name) {
            categories |= 1 << UInt32(index)
        }
        if categories == 0 { return nil }
    }

    /// Whether a scalar of this class byte belongs to the set.
    @inline(__always)
    func contains(_ byte: UInt8) -> Bool {
        categories >> UInt32(byte & 0x1F) & 1 != 0 || (hasSpace && byte & ScalarClasses.spaceBit != 0)
    }
}

/// Reads the hexadecimal numbers of the generated tables.
enum HexText {
    @inline(__always)
    static func digit(_ byte: UInt8) -> Int? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): Int(byte) - 48
        case UInt8(ascii: "a")...UInt8(ascii: "f"): Int(byte) - 87
        default: nil
        }
    }

    /// Calls `body` with the numbers of each record, records being separated by commas.
    static func forEachRecord(of text: StaticString, _ body: ([Int]) -> Void) {
        text.withUTF8Buffer { text in
            var numbers: [Int] = []
            var number = 0
            for byte in text {
                if let digit = digit(byte) {
                    number = number << 4 | digit
                    continue
                }
                numbers.append(number)
                number = 0
                if byte == UInt8(ascii: ",") {
                    body(numbers)
                    numbers.removeAll(keepingCapacity: true)
                }
            }
            numbers.append(number)
            body(numbers)
        }
    }
}
