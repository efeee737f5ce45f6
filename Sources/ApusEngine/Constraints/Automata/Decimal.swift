/// A decimal number, digit by digit: no size is too large for it and nothing is rounded.
struct Decimal: Hashable, Sendable {
    var isNegative = false
    /// Without leading zeros; [0] for numbers below 1.
    var whole: [UInt8] = [0]
    /// Without trailing zeros.
    var fraction: [UInt8] = []

    static let zero = Decimal()

    init() {}

    /// The shortest decimal number that reads back as this double, which must be finite.
    init(_ value: Double) { self.init(text: value.magnitude.description, isNegative: value < 0) }

    init(_ value: Int64) { self.init(text: String(value.magnitude), isNegative: value < 0) }

    /// Digits with a point and an exponent, as Swift writes numbers.
    private init(text: String, isNegative: Bool) {
        let parts = text.split(separator: "e")
        let mantissa = parts[0].split(separator: ".", omittingEmptySubsequences: false)
        var whole = mantissa[0].utf8.map { $0 - 48 }
        var fraction = mantissa.count > 1 ? mantissa[1].utf8.map { $0 - 48 } : []
        var exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
        while exponent > 0 {
            whole.append(fraction.isEmpty ? 0 : fraction.removeFirst())
            exponent -= 1
        }
        while exponent < 0 {
            fraction.insert(whole.isEmpty ? 0 : whole.removeLast(), at: 0)
            exponent += 1
        }
        while whole.count > 1, whole[0] == 0 { whole.removeFirst() }
        while fraction.last == 0 { fraction.removeLast() }
        self.whole = whole.isEmpty ? [0] : whole
        self.fraction = fraction
        self.isNegative = isNegative && !isZero
    }

    var isZero: Bool { whole == [0] && fraction.isEmpty }

    var magnitude: Decimal {
        var copy = self
        copy.isNegative = false
        return copy
    }

    /// The whole number next above (or below, where `down`) in magnitude.
    private func whole(plusOne: Bool) -> Decimal {
        var result = self
        result.fraction = []
        guard plusOne else { return result }
        var place = whole.count - 1
        while place >= 0, whole[place] == 9 {
            result.whole[place] = 0
            place -= 1
        }
        if place >= 0 { result.whole[place] += 1 } else { result.whole.insert(1, at: 0) }
        return result
    }

    /// The least whole number not below this one (above it, where it must not be reached itself).
    func ceiling(isExclusive: Bool) -> Decimal {
        if fraction.isEmpty, !isExclusive { return self }
        if !isNegative { return whole(plusOne: true) }
        // Towards zero; from a whole negative number, one less in magnitude.
        return fraction.isEmpty ? minusOneInMagnitude : normalized(whole(plusOne: false))
    }

    /// The greatest whole number not above this one (below it, where it must not be reached itself).
    func floor(isExclusive: Bool) -> Decimal {
        if fraction.isEmpty, !isExclusive { return self }
        if isNegative { return whole(plusOne: true) }
        if isZero { return Decimal(-1 as Int64) }
        return fraction.isEmpty ? minusOneInMagnitude : whole(plusOne: false)
    }

    private var minusOneInMagnitude: Decimal {
        var result = self
        var place = whole.count - 1
        while whole[place] == 0 {
            result.whole[place] = 9
            place -= 1
        }
        result.whole[place] -= 1
        while result.whole.count > 1, result.whole[0] == 0 { result.whole.removeFirst() }
        return normalized(result)
    }

    private func normalized(_ value: Decimal) -> Decimal {
        var value = value
        if value.isZero { value.isNegative = false }
        return value
    }

    /// Whether this magnitude is below the other; signs do not count.
    private func isSmaller(than other: Decimal) -> Bool {
        if whole.count != other.whole.count { return whole.count < other.whole.count }
        if whole != other.whole { return whole.lexicographicallyPrecedes(other.whole) }
        return fraction.lexicographicallyPrecedes(other.fraction)
    }

    static func < (left: Decimal, right: Decimal) -> Bool {
        if left.isNegative != right.isNegative { return left.isNegative }
        return left.isNegative ? right.isSmaller(than: left) : left.isSmaller(than: right)
    }
}
