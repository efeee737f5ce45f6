#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The few functions of real numbers that a report needs.
package enum ReportMath {
    package static func exponential(_ x: Double) -> Double { exp(x) }
    package static func binaryLogarithm(_ x: Double) -> Double { log2(x) }
    package static func power(_ base: Double, _ exponent: Double) -> Double { pow(base, exponent) }

    package static func rounded(_ x: Double, _ decimals: Int) -> Double {
        let scale = pow(10, Double(decimals))
        return (x * scale).rounded() / scale
    }
    package static func decimalLogarithm(_ x: Double) -> Double { log10(x) }
}
