/// One end of a range of numbers.
struct NumberBound: Hashable, Sendable {
    var value: Decimal
    var isExclusive = false
}

/// The decimal texts of the numbers in a range.
///
/// Without bounds, numbers have up to 40 digits before and after the point and exponents to 250 either way, so that none
/// is beyond a double; with bounds there is no exponent. Whole numbers are written without point and exponent.
struct NumberLanguage {
    var low: NumberBound?
    var high: NumberBound?
    var isInteger: Bool
    /// At most this many digits after the point.
    var fractionDigits = NumberLanguage.digitLimit

    static let digitLimit = 40

    /// All texts, or `.nothing` for an empty range.
    var expression: RegularExpression {
        var language = self
        if isInteger {
            language.low = low.map { NumberBound(value: $0.value.ceiling(isExclusive: $0.isExclusive)) }
            language.high = high.map { NumberBound(value: $0.value.floor(isExclusive: $0.isExclusive)) }
        }
        return language.bounded
    }

    private var bounded: RegularExpression {
        guard low != nil || high != nil else { return unbounded }
        if let low, let high {
            if high.value < low.value { return .nothing }
            if low.value == high.value, low.isExclusive || high.isExclusive { return .nothing }
        }
        var parts: [RegularExpression] = []
        if high.map({ !$0.value.isNegative && !($0.value.isZero && $0.isExclusive) }) ?? true {
            let least = low.flatMap { $0.value.isNegative ? nil : $0 } ?? NumberBound(value: .zero)
            parts.append(magnitudes(from: least, to: high))
        }
        // Zero may be written with a sign, but no whole number is.
        let mayBeZero = !isInteger && low.map { $0.value.isZero && !$0.isExclusive } ?? false
        if low.map({ $0.value.isNegative }) ?? true || mayBeZero {
            var least = high.flatMap { $0.value.isNegative || $0.value.isZero ? $0 : nil } ?? NumberBound(value: .zero)
            least.value.isNegative = false
            if isInteger, least.value.isZero { least.value = Decimal(1 as Int64) }
            let most = low.map { NumberBound(value: $0.value.magnitude, isExclusive: $0.isExclusive) }
            parts.append(.sequence([.ascii("-"), magnitudes(from: least, to: most)]))
        }
        return .alternatives(parts)
    }

    private var unbounded: RegularExpression {
        let whole = RegularExpression.sequence([
            .ascii("-").optional, .alternatives([.ascii("0"), Self.positive(Self.digitLimit)]),
        ])
        guard !isInteger else { return whole }
        guard fractionDigits == Self.digitLimit else { return .sequence([whole, freeFraction]) }
        let exponent = RegularExpression.sequence([
            .set(ScalarSet(ascii: "eE")), .set(ScalarSet(ascii: "+-")).optional,
            .repetition(.ascii("0"), min: 0, max: 2),
            .alternatives([
                .digits(1, 2), .sequence([.ascii("1"), .digits(2, 2)]),
                .sequence([.ascii("2"), .set(ScalarSet(ascii: "01234")), .digits(1, 1)]), .ascii("250"),
            ]),
        ])
        return .sequence([whole, freeFraction, exponent.optional])
    }

    /// A first digit that is not 0, and up to `count - 1` more.
    private static func positive(_ count: Int, atLeast least: Int = 1) -> RegularExpression {
        .sequence([.set(ScalarSet([0x31...0x39])), .digits(least - 1, count - 1)])
    }

    private var freeFraction: RegularExpression {
        isInteger || fractionDigits == 0 ? .empty : .sequence([.ascii("."), .digits(1, fractionDigits)]).optional
    }

    private func magnitudes(from low: NumberBound, to high: NumberBound?) -> RegularExpression {
        if let high, high.value < low.value { return .nothing }
        let least = low.value.whole
        let most = high?.value.whole
        var choices: [RegularExpression] = []
        for length in least.count...(most?.count ?? least.count) {
            choices.append(
                digits(
                    at: 0, of: length, low: length == least.count ? low : nil,
                    high: length == most?.count ? high : nil))
        }
        if most == nil {
            let count = max(Self.digitLimit, least.count + 1)
            choices.append(.sequence([Self.positive(count, atLeast: least.count + 1), freeFraction]))
        }
        return .alternatives(choices)
    }

    /// The digits from `place` of a whole part of `length` digits and what follows, where the digits before equal those
    /// of the bounds that are given.
    private func digits(at place: Int, of length: Int, low: NumberBound?, high: NumberBound?) -> RegularExpression {
        guard low != nil || high != nil else {
            let rest = length - place
            let whole = place == 0 ? Self.positive(rest, atLeast: rest) : .digits(rest, rest)
            return .sequence([whole, freeFraction])
        }
        guard place < length else {
            return fraction(
                after: 0, low: low.map { ($0.value.fraction[...], $0.isExclusive) },
                high: high.map { ($0.value.fraction[...], $0.isExclusive) })
        }
        let first: UInt8 = place == 0 && length > 1 ? 1 : 0
        return split(
            from: low.map { $0.value.whole[place] }, to: high.map { $0.value.whole[place] }, least: first,
            inside: .sequence([.digits(length - place - 1, length - place - 1), freeFraction]),
            edge: { digits(at: place + 1, of: length, low: $0 ? low : nil, high: $1 ? high : nil) })
    }

    /// One digit between bounds: strictly inside, then `inside`; on a bound, then `edge(onLow, onHigh)`.
    private func split(
        from low: UInt8?, to high: UInt8?, least: UInt8, inside: RegularExpression,
        edge: (Bool, Bool) -> RegularExpression
    ) -> RegularExpression {
        var choices: [RegularExpression] = []
        let first = max(low.map { $0 + 1 } ?? least, least)
        let last = high.map { Int($0) - 1 } ?? 9
        if Int(first) <= last {
            choices.append(.sequence([.set(ScalarSet([UInt32(first) + 48...UInt32(last) + 48])), inside]))
        }
        func on(_ digit: UInt8, _ isLow: Bool, _ isHigh: Bool) {
            choices.append(.sequence([.set(ScalarSet(UInt32(digit) + 48)), edge(isLow, isHigh)]))
        }
        if let low, let high, low == high {
            on(low, true, true)
        } else {
            if let low, low >= least, low <= high ?? 9 { on(low, true, false) }
            if let high, high >= least, high >= low ?? 0 { on(high, false, true) }
        }
        return .alternatives(choices)
    }

    private typealias Rest = (digits: ArraySlice<UInt8>, isExclusive: Bool)

    /// What may follow a whole part that equals the bounds given, `count` digits after the point having been read.
    private func fraction(after count: Int, low: Rest?, high: Rest?) -> RegularExpression {
        guard low != nil || high != nil else {
            return .digits(0, fractionDigits - count)
        }
        // Zeros beyond the last digit of the bounds, then anything larger (or nothing larger).
        let mayEnd =
            (low.map { $0.digits.isEmpty && !$0.isExclusive } ?? true)
            && (high.map { !$0.digits.isEmpty || !$0.isExclusive } ?? true)
        var choices: [RegularExpression] = mayEnd ? [.empty] : []
        if !isInteger, count < fractionDigits {
            let next = { (rest: Rest?) -> Rest? in rest.map { ($0.digits.dropFirst(), $0.isExclusive) } }
            let digit = split(
                from: low.map { $0.digits.first ?? 0 }, to: high.map { $0.digits.first ?? 0 }, least: 0,
                inside: .digits(0, fractionDigits - count - 1),
                edge: { fraction(after: count + 1, low: $0 ? next(low) : nil, high: $1 ? next(high) : nil) })
            choices.append(count == 0 ? .sequence([.ascii("."), digit]) : digit)
        }
        return .alternatives(choices)
    }
}
