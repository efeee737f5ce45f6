import ApusTensor

/// AdamW over a model's parameters: decoupled weight decay on matrices, none on norms and biases; clipping by the norm of all
/// gradients together.
///
/// Source: Loshchilov and Hutter 2019 (arXiv 1711.05101). Moments are float32.
public final class AdamW {
    /// Constants of a run.
    public struct Settings: Sendable, Equatable {
        /// Decay rates of the two moments.
        public var betas: (Float, Float) = (0.9, 0.95)
        /// Added to the root of the second moment.
        public var epsilon: Float = 1e-8
        /// Decoupled weight decay.
        public var weightDecay: Float = 0.1
        /// Largest norm of all gradients together; 0 for any.
        public var clip: Float = 1

        /// The usual settings for language models.
        public init() {}

        /// Whether two settings are equal.
        public static func == (a: Settings, b: Settings) -> Bool {
            a.betas == b.betas && a.epsilon == b.epsilon && a.weightDecay == b.weightDecay && a.clip == b.clip
        }
    }

    /// One parameter with its moments.
    public struct Entry {
        /// Its name in the model.
        public let name: String
        /// What is trained.
        public let parameter: Parameter
        /// Running mean of the gradient.
        public let firstMoment: Tensor
        /// Running mean of its square.
        public let secondMoment: Tensor
    }

    /// The constants.
    public let settings: Settings
    /// Trainable parameters in the model's order.
    public let entries: [Entry]
    /// Steps made.
    public private(set) var step: Int
    private let backend: any DifferentiableBackend

    /// An optimiser of the model's trainable parameters, with moments of zero.
    public convenience init(_ model: some Module, _ settings: Settings, on backend: any DifferentiableBackend) {
        self.init(model, settings, on: backend, step: 0) { _, shape in
            let zero = Tensor(uninitialized: shape)
            zero.fillWithZeros()
            return (
                zero,
                {
                    let other = Tensor(uninitialized: shape); other.fillWithZeros(); return other
                }()
            )
        }
    }

    /// An optimiser that goes on after `step` steps.
    /// - Parameter moments: the first and second moment of a parameter, not shared with anybody.
    public init(
        _ model: some Module, _ settings: Settings, on backend: any DifferentiableBackend, step: Int,
        moments: (_ name: String, _ shape: Shape) throws -> (Tensor, Tensor)
    ) rethrows {
        self.settings = settings
        self.backend = backend
        self.step = step
        entries = try model.parameters().filter(\.parameter.isTrainable).map { name, parameter in
            let (first, second) = try moments(name, parameter.shape)
            return Entry(name: name, parameter: parameter, firstMoment: first, secondMoment: second)
        }
    }

    /// Norm of all gradients together (float64 sums); NaN or infinite if an element is.
    public func gradientNorm() -> Double {
        entries.reduce(0.0) { $0 + ($1.parameter.gradient.map(backend.sumOfSquares) ?? 0) }.squareRoot()
    }

    /// The first parameter whose gradient is not finite.
    public func firstNonFiniteGradient() -> String? {
        entries.first { !($0.parameter.gradient.map(backend.sumOfSquares) ?? 0).isFinite }?.name
    }

    /// Changes every parameter that has a gradient. The gradients are left as they are.
    /// - Parameters:
    ///   - learningRate: of this step.
    ///   - norm: what ``gradientNorm()`` gave, for clipping.
    public func update(learningRate: Float, norm: Double) {
        step += 1
        let scale = settings.clip > 0 && norm > Double(settings.clip) ? Double(settings.clip) / norm : 1
        for entry in entries {
            guard let gradient = entry.parameter.gradient else { continue }
            let step = AdamWStep(
                learningRate: learningRate, beta1: settings.betas.0, beta2: settings.betas.1,
                epsilon: settings.epsilon, weightDecay: entry.parameter.decays ? settings.weightDecay : 0,
                gradientScale: Float(scale), step: step)
            entry.parameter.update { value, narrow in
                backend.adamW(
                    step, gradient: gradient, values: value, firstMoment: entry.firstMoment,
                    secondMoment: entry.secondMoment, narrow: narrow)
                return narrow != nil
            }
        }
    }

    /// Sets all gradients to zero, keeping their memory.
    public func zeroGradients() {
        for entry in entries { entry.parameter.zeroGradient() }
    }
}
