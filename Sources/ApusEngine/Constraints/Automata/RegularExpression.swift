/// A regular language over Unicode scalars, as a tree.
indirect enum RegularExpression: Sendable {
    /// The empty text alone.
    case empty
    /// Nothing at all.
    case nothing
    case set(ScalarSet)
    case sequence([RegularExpression])
    case alternatives([RegularExpression])
    case repetition(RegularExpression, min: Int, max: Int?)

    static let any = RegularExpression.repetition(.set(.all), min: 0, max: nil)

    /// The texts of scalars given one by one.
    static func text(_ scalars: some Sequence<UInt32>) -> RegularExpression {
        .sequence(scalars.map { .set(ScalarSet($0)) })
    }

    /// ASCII text as it stands.
    static func ascii(_ text: String) -> RegularExpression { .text(text.utf8.map(UInt32.init)) }

    var optional: RegularExpression { .repetition(self, min: 0, max: 1) }

    /// Between `min` and `max` decimal digits.
    static func digits(_ min: Int, _ max: Int) -> RegularExpression {
        max == 0 ? .empty : .repetition(.set(.digits), min: min, max: max)
    }
}
