extension Double {
    /// The number as Python's `repr` writes it: the fewest digits that read back the same, an exponent below 1e-4
    /// and from 1e16 on, `.0` after whole numbers, `nan`, `inf`.
    package var pythonRepr: String {
        guard isFinite else { return isNaN ? "nan" : self < 0 ? "-inf" : "inf" }
        let (digits, pointPosition) = shortestDigits
        let sign = self.sign == .minus ? "-" : ""
        let exponent = pointPosition - 1
        if exponent < -4 || exponent >= 16 {
            let mantissa = digits.count > 1 ? "\(digits.prefix(1)).\(digits.dropFirst())" : digits
            let magnitude = Swift.abs(exponent)
            return "\(sign)\(mantissa)e\(exponent < 0 ? "-" : "+")\(magnitude < 10 ? "0" : "")\(magnitude)"
        }
        if pointPosition <= 0 { return "\(sign)0.\(String(repeating: "0", count: -pointPosition))\(digits)" }
        if digits.count <= pointPosition {
            return "\(sign)\(digits)\(String(repeating: "0", count: pointPosition - digits.count)).0"
        }
        return "\(sign)\(digits.prefix(pointPosition)).\(digits.dropFirst(pointPosition))"
    }

    /// Significant digits without leading or trailing zeros, and how many of them stand before the decimal point.
    private var shortestDigits: (digits: String, pointPosition: Int) {
        let parts = magnitude.description.split(separator: "e")
        let number = parts[0].split(separator: ".", omittingEmptySubsequences: false)
        let whole = number[0]
        let all = whole + (number.count > 1 ? number[1] : "")
        let leading = all.prefix { $0 == "0" }.count
        guard leading < all.count else { return ("0", 1) }
        let trailing = all.reversed().prefix { $0 == "0" }.count
        let exponent = parts.count > 1 ? Int(parts[1])! : 0
        return (String(all.dropFirst(leading).dropLast(trailing)), whole.count - leading + exponent)
    }
}
