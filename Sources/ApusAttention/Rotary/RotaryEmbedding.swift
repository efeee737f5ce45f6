import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Which elements of a head form a rotated pair.
public enum RotaryStyle: String, Sendable, Hashable {
    /// Element i with element i + width/2 (Hugging Face, GPT-NeoX).
    case halfSplit
    /// Element 2i with element 2i + 1 (GGUF files of the `llama` architecture, DeepSeek).
    case interleaved
}

/// How a model stretches its rotary frequencies to contexts beyond the trained one.
public enum RotaryScaling: Sendable, Hashable {
    /// Frequencies as trained.
    case none
    /// All frequencies divided by `factor` (position interpolation, Chen et al. 2023).
    case linear(factor: Double)
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, in between interpolated.
    case llama3(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, originalContext: Int)
    /// YaRN (Peng et al. 2023); `attentionFactor` multiplies cosine and sine.
    case yarn(factor: Double, betaFast: Double, betaSlow: Double, originalContext: Int, attentionFactor: Double)
    /// A divisor for each frequency, as GGUF stores them (`rope_freqs.weight`).
    case perFrequency([Float])
    /// LongRoPE (Ding et al. 2024): a divisor for each frequency, one set for sequences up to `originalContext` tokens and
    /// one for longer ones; `attentionFactor` multiplies cosine and sine.
    case longRope(short: [Float], long: [Float], originalContext: Int, attentionFactor: Double)
}

/// Rotary position embedding (Su et al. 2021): cosine and sine computed in float64, stored in float32.
public struct RotaryEmbedding: Sendable {
    /// Elements of a head that are rotated (even; the first ones of the head).
    public let width: Int
    /// Which elements form pairs.
    public let style: RotaryStyle
    /// Angle per position of each pair, radians.
    public let inverseFrequencies: [Double]
    /// Factor on cosine and sine (YaRN's attention factor; 1 otherwise).
    public let magnitude: Double

    /// The embedding of one kind of layer.
    /// - Parameters:
    ///   - width: rotated elements per head, even.
    ///   - theta: base of the geometric frequency series.
    ///   - length: tokens of the sequence, which LongRoPE goes by.
    public init(width: Int, theta: Double, scaling: RotaryScaling = .none, style: RotaryStyle, length: Int = 0) {
        precondition(width >= 0 && width % 2 == 0, "rotary width \(width) is odd")
        self.width = width
        self.style = style
        let base = (0..<width / 2).map { pow(theta, -2 * Double($0) / Double(width)) }
        (inverseFrequencies, magnitude) = Self.scaled(base, width: width, theta: theta, scaling, length: length)
    }

    /// Cosine and sine of the given positions, float32 [positions.count, width/2] each.
    ///
    /// Computed once per step and shared by the layers: about 40 ns an angle, so no table is kept for long contexts.
    public func rows(_ positions: [Int32]) -> (cosine: Tensor, sine: Tensor) {
        let pairs = width / 2
        let cosine = Tensor(uninitialized: [positions.count, pairs])
        let sine = Tensor(uninitialized: [positions.count, pairs])
        cosine.withMutableElements(of: Float.self) { c in
            sine.withMutableElements(of: Float.self) { s in
                for (row, position) in positions.enumerated() {
                    for pair in 0..<pairs {
                        let angle = Double(position) * inverseFrequencies[pair]
                        c[row * pairs + pair] = Float(cos(angle) * magnitude)
                        s[row * pairs + pair] = Float(sin(angle) * magnitude)
                    }
                }
            }
        }
        return (cosine, sine)
    }

    private static func scaled(
        _ base: [Double], width: Int, theta: Double, _ scaling: RotaryScaling, length: Int
    ) -> ([Double], Double) {
        switch scaling {
        case .none: return (base, 1)
        case .linear(let factor): return (base.map { $0 / factor }, 1)
        case .perFrequency(let factors): return (zip(base, factors).map { $0 / Double($1) }, 1)
        case .longRope(let short, let long, let original, let attentionFactor):
            return (zip(base, length > original ? long : short).map { $0 / Double($1) }, attentionFactor)
        case .llama3(let factor, let low, let high, let original):
            let longest = Double(original) / low
            let shortest = Double(original) / high
            return (
                base.map { frequency in
                    let wavelength = 2 * Double.pi / frequency
                    if wavelength < shortest { return frequency }
                    if wavelength > longest { return frequency / factor }
                    let smooth = (Double(original) / wavelength - low) / (high - low)
                    return (1 - smooth) * frequency / factor + smooth * frequency
                }, 1
            )
        case .yarn(let factor, let betaFast, let betaSlow, let original, let attentionFactor):
            func dimension(_ rotations: Double) -> Double {
                Double(width) * log(Double(original) / (rotations * 2 * Double.pi)) / (2 * log(theta))
            }
            let low = max(dimension(betaFast).rounded(.down), 0)
            var high = min(dimension(betaSlow).rounded(.up), Double(width - 1))
            if low == high { high += 0.001 }
            return (
                base.enumerated().map { index, frequency in
                    let ramp = min(max((Double(index) - low) / (high - low), 0), 1)
                    return frequency / factor * ramp + frequency * (1 - ramp)
                }, attentionFactor
            )
        }
    }
}
