#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The few functions of real numbers that evaluation needs.
enum RealPower {
    static func power(_ base: Double, _ exponent: Double) -> Double { pow(base, exponent) }
    static func sigmoid(_ x: Double) -> Double { 1 / (1 + exp(-x)) }
}
