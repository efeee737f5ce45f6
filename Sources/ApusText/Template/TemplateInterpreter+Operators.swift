#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Arithmetic, comparison and conversion to text, with Python's rules.
extension TemplateInterpreter {
    func refusal(_ operation: String, _ value: TemplateValue) -> TemplateError {
        if case .undefined(let undefined) = value { return fail(undefined.message) }
        return fail("\(operation) a value of type \(value.typeName) is not possible")
    }

    private func refusal(
        _ left: TemplateValue, _ symbol: TemplateOperator, _ right: TemplateValue
    ) -> TemplateError {
        if case .undefined(let undefined) = left { return fail(undefined.message) }
        if case .undefined(let undefined) = right { return fail(undefined.message) }
        return fail("'\(symbol.rawValue)' between \(left.typeName) and \(right.typeName) is not possible")
    }

    // MARK: Text

    /// Python's `str(value)`.
    func printed(_ value: TemplateValue) throws(TemplateError) -> String {
        if let text = value.text { return text }
        if value.isUndefined { return "" }
        return try represented(value)
    }

    /// Python's `repr(value)`.
    func represented(_ value: TemplateValue) throws(TemplateError) -> String {
        var text = ""
        guard value.appendRepr(to: &text, budget: &work) else {
            throw fail("a value of type \(value.typeName) has no text")
        }
        try checkWork()
        return text
    }

    // MARK: Comparison

    func areEqual(_ left: TemplateValue, _ right: TemplateValue) throws(TemplateError) -> Bool {
        let isEqual = left.isEqual(to: right, budget: &work)
        try checkWork()
        return isEqual
    }

    func isLess(_ left: TemplateValue, _ right: TemplateValue) throws(TemplateError) -> Bool {
        let isLess = left.isLess(than: right, budget: &work)
        try checkWork()
        guard let isLess else { throw refusal(left, .less, right) }
        return isLess
    }

    func compare(
        _ left: TemplateValue, _ symbol: TemplateOperator, _ right: TemplateValue
    ) throws(TemplateError) -> Bool {
        switch symbol {
        case .equal: return try areEqual(left, right)
        case .notEqual: return !(try areEqual(left, right))
        case .isIn: return try contains(right, left)
        case .isNotIn: return !(try contains(right, left))
        default: break
        }
        if let a = left.number, let b = right.number, a.isNaN || b.isNaN { return false }
        switch symbol {
        case .less: return try isLess(left, right)
        case .greater: return try isLess(right, left)
        case .lessOrEqual: return try !isLess(right, left)
        default: return try !isLess(left, right)
        }
    }

    /// `item in container`.
    func contains(_ container: TemplateValue, _ item: TemplateValue) throws(TemplateError) -> Bool {
        if let text = container.text {
            guard let needle = item.text else { throw refusal("looking inside a string for", item) }
            try charge(bytes: 4 * (text.utf8.count + needle.utf8.count))
            return text.contains(scalars: needle)
        }
        if case .dictionary(let dictionary) = container { return dictionary[try key(item)] != nil }
        for other in try iterate(container) where try areEqual(item, other) { return true }
        return false
    }

    // MARK: Arithmetic

    func compute(
        _ left: TemplateValue, _ symbol: TemplateOperator, _ right: TemplateValue
    ) throws(TemplateError) -> TemplateValue {
        if let a = left.integer, let b = right.integer { return try compute(a, symbol, b) }
        if let a = left.number, let b = right.number { return .double(try compute(a, symbol, b)) }
        switch (left, symbol, right) {
        case (.string(let a), .add, .string(let b)):
            try charge(bytes: a.utf8.count + b.utf8.count)
            return .string(a + b)
        case (.markup(let a), .add, .markup(let b)): return .markup(try joined(a, b))
        case (.markup(let a), .add, .string(let b)): return .markup(try joined(a, b.escapedForHTML))
        case (.string(let a), .add, .markup(let b)): return .markup(try joined(a.escapedForHTML, b))
        case (.list(let a), .add, .list(let b)): return try list(a.items + b.items)
        case (.tuple(let a), .add, .tuple(let b)): return try tuple(a.items + b.items)
        case (.string(let format), .remainder, _): return .string(try formatPercent(format, right))
        case (_, .multiply, _):
            if let count = right.integer { return try repeated(left, count, refusal(left, symbol, right)) }
            if let count = left.integer { return try repeated(right, count, refusal(left, symbol, right)) }
        default: break
        }
        throw refusal(left, symbol, right)
    }

    private func joined(_ left: String, _ right: String) throws(TemplateError) -> String {
        try charge(bytes: left.utf8.count + right.utf8.count)
        return left + right
    }

    private func repeated(
        _ value: TemplateValue, _ count: Int, _ refusal: TemplateError
    ) throws(TemplateError) -> TemplateValue {
        let count = max(count, 0)
        switch value {
        case .string(let text):
            try charge(bytes: saturatingProduct(text.utf8.count, count))
            return .string(String(repeating: text, count: count))
        case .list(let list): return try self.list(try repeated(list.items, count))
        case .tuple(let tuple): return try self.tuple(try repeated(tuple.items, count))
        default: throw refusal
        }
    }

    private func repeated(_ items: [TemplateValue], _ count: Int) throws(TemplateError) -> [TemplateValue] {
        try charge(bytes: saturatingProduct(items.count * 24, count))
        return Array(repeatElement(items, count: count).joined())
    }

    private func compute(_ a: Int, _ symbol: TemplateOperator, _ b: Int) throws(TemplateError) -> TemplateValue {
        let result: (partialValue: Int, overflow: Bool)
        switch symbol {
        case .add: result = a.addingReportingOverflow(b)
        case .subtract: result = a.subtractingReportingOverflow(b)
        case .multiply: result = a.multipliedReportingOverflow(by: b)
        case .power:
            guard b >= 0 else { return .double(try compute(Double(a), symbol, Double(b))) }
            result = Self.power(a, b)
        case .divide:
            guard b != 0 else { throw fail("division by zero") }
            return .double(Double(a) / Double(b))
        default:
            guard b != 0 else { throw fail("division by zero") }
            // Python rounds down; the remainder has the divisor's sign.
            let (quotient, overflow) = a.dividedReportingOverflow(by: b)
            let remainder = overflow ? 0 : a % b
            let roundsDown = remainder != 0 && (remainder < 0) != (b < 0)
            result =
                symbol == .floorDivide
                ? (roundsDown ? quotient - 1 : quotient, overflow) : (roundsDown ? remainder + b : remainder, false)
        }
        guard !result.overflow else { throw fail("integers are limited to 64 bits") }
        return .integer(result.partialValue)
    }

    private static func power(_ base: Int, _ exponent: Int) -> (partialValue: Int, overflow: Bool) {
        if base == 0 || base == 1 { return (exponent == 0 ? 1 : base, false) }
        if base == -1 { return (exponent % 2 == 0 ? 1 : -1, false) }
        var result = (partialValue: 1, overflow: false)
        // At most 63 rounds before an overflow, as |base| is at least 2.
        for _ in 0..<min(exponent, 64) where !result.overflow {
            result = result.partialValue.multipliedReportingOverflow(by: base)
        }
        return result
    }

    private func compute(_ a: Double, _ symbol: TemplateOperator, _ b: Double) throws(TemplateError) -> Double {
        switch symbol {
        case .add: return a + b
        case .subtract: return a - b
        case .multiply: return a * b
        case .power:
            if a == 0, b < 0 { throw fail("zero cannot be raised to a negative power") }
            let result = pow(a, b)
            if result.isNaN, !a.isNaN, !b.isNaN { throw fail("complex numbers are not supported") }
            if result.isInfinite, a.isFinite, b.isFinite { throw fail("a number is too large") }
            return result
        default:
            guard b != 0 else { throw fail("division by zero") }
            if symbol == .divide { return a / b }
            var remainder = fmod(a, b)
            if remainder != 0, (remainder < 0) != (b < 0) { remainder += b }
            if remainder == 0 { remainder = copysign(0, b) }
            if symbol == .remainder { return remainder }
            let quotient = (a - remainder) / b
            guard quotient != 0 else { return copysign(0, a / b) }
            let whole = quotient.rounded(.down)
            return quotient - whole > 0.5 ? whole + 1 : whole
        }
    }
}

/// A product of sizes, or the largest integer where it does not fit one.
func saturatingProduct(_ left: Int, _ right: Int) -> Int {
    let (product, overflow) = left.multipliedReportingOverflow(by: right)
    return overflow ? .max : product
}
