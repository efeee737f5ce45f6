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

    /// Elements of a parameter that this optimiser changes, in row-major order: all of them, or a rank's part.
    public struct Slice {
        /// The parameter's name in the model.
        public let name: String
        /// What is trained.
        public let parameter: Parameter
        /// Which of its elements.
        public let elements: Range<Int>
        /// Their gradient; nil where none came.
        let gradient: () -> Tensor?

        /// Some elements of a parameter.
        init(name: String, parameter: Parameter, elements: Range<Int>, gradient: @escaping () -> Tensor?) {
            self.name = name
            self.parameter = parameter
            self.elements = elements
            self.gradient = gradient
        }

        /// All elements.
        init(name: String, parameter: Parameter) {
            self.init(name: name, parameter: parameter, elements: 0..<parameter.shape.count) { parameter.gradient }
        }

        var isWhole: Bool { elements.count == parameter.shape.count }
    }

    /// Elements of a parameter with their moments.
    public struct Entry {
        /// What is changed.
        let slice: Slice
        /// The parameter's name in the model.
        public var name: String { slice.name }
        /// What is trained.
        public var parameter: Parameter { slice.parameter }
        /// Which of its elements, in row-major order.
        public var elements: Range<Int> { slice.elements }
        /// Running mean of the gradient.
        public let firstMoment: Tensor
        /// Running mean of its square.
        public let secondMoment: Tensor
    }

    /// The constants.
    public let settings: Settings
    /// Trainable parameters in the model's order, or a rank's part of them.
    public let entries: [Entry]
    /// Steps made.
    public private(set) var step: Int
    private let backend: any DifferentiableBackend

    /// An optimiser of the model's trainable parameters, with moments of zero.
    public convenience init(_ model: some Module, _ settings: Settings, on backend: any DifferentiableBackend) {
        self.init(Self.slices(model), settings, on: backend, step: 0) { _, _ in nil }
    }

    /// An optimiser that goes on after `step` steps.
    /// - Parameter moments: the first and second moment of a parameter, not shared with anybody.
    public convenience init(
        _ model: some Module, _ settings: Settings, on backend: any DifferentiableBackend, step: Int,
        moments: (_ name: String, _ shape: Shape) throws -> (Tensor, Tensor)
    ) rethrows {
        try self.init(Self.slices(model), settings, on: backend, step: step, moments: moments)
    }

    /// An optimiser of slices.
    /// - Parameter moments: of a whole parameter; where they are nil, zeros.
    init(
        _ slices: [Slice], _ settings: Settings, on backend: any DifferentiableBackend, step: Int,
        moments: (_ name: String, _ shape: Shape) throws -> (Tensor, Tensor)?
    ) rethrows {
        self.settings = settings
        self.backend = backend
        self.step = step
        entries = try slices.map { slice in
            let shape = slice.isWhole ? slice.parameter.shape : [slice.elements.count]
            guard let (first, second) = try moments(slice.name, slice.parameter.shape) else {
                return Entry(
                    slice: slice, firstMoment: Self.zeros(shape, on: backend),
                    secondMoment: Self.zeros(shape, on: backend))
            }
            return Entry(
                slice: slice, firstMoment: Self.part(first, slice, on: backend),
                secondMoment: Self.part(second, slice, on: backend))
        }
    }

    /// The moments by the parameter's name. Precondition: every entry is a whole parameter.
    var moments: [String: (first: Tensor, second: Tensor)] {
        Dictionary(uniqueKeysWithValues: entries.map { ($0.name, ($0.firstMoment, $0.secondMoment)) })
    }

    static func slices(_ model: some Module) -> [Slice] {
        model.parameters().filter(\.parameter.isTrainable).map { Slice(name: $0, parameter: $1) }
    }

    private static func zeros(_ shape: Shape, on backend: any DifferentiableBackend) -> Tensor {
        let result = backend.makeTensor(shape, .f32)
        result.fillWithZeros()
        return result
    }

    /// The slice's elements in memory of their own; a whole moment as it is.
    private static func part(_ moment: Tensor, _ slice: Slice, on backend: any DifferentiableBackend) -> Tensor {
        guard !slice.isWhole else { return moment }
        let result = backend.makeTensor([slice.elements.count], .f32)
        backend.convert(moment.reshaped([moment.count]).rows(slice.elements), into: result)
        return result
    }

    /// Norm of all gradients together (float64 sums); NaN or infinite if an element is. Waits for the device.
    public func gradientNorm() -> Double { sumOfSquares().doubles[0].squareRoot() }

    /// The square of ``gradientNorm()``, float64 [1]: of slices, this rank's part of it.
    /// - Parameter factors: how elements of a parameter count, for those that several ranks have; empty: all fully.
    func sumOfSquares(
        _ factors: (_ name: String) -> [(elements: Range<Int>, factor: Double)] = { _ in [] }
    ) -> Tensor {
        var (whole, parts) = ([Tensor](), [Double: [Tensor]]())
        for entry in entries {
            guard let gradient = entry.slice.gradient() else { continue }
            let factors = factors(entry.name)
            if factors.allSatisfy({ $0.factor == 1 }) {
                whole.append(gradient)
                continue
            }
            let flat = gradient.reshaped([gradient.count])
            for part in factors {
                let range = part.elements.clamped(to: entry.elements)
                if range.isEmpty { continue }
                let first = range.lowerBound - entry.elements.lowerBound
                parts[part.factor, default: []].append(flat.rows(first..<first + range.count))
            }
        }
        let sum = backend.sumOfSquares(whole)
        guard !parts.isEmpty else { return sum }
        // A device is waited for once a factor, and there are few.
        return Tensor(
            parts.sorted { $0.key > $1.key }.reduce(sum.doubles[0]) { total, part in
                total + part.key * backend.sumOfSquares(part.value).doubles[0]
            })
    }

    /// The first parameter whose gradient is not finite.
    public func firstNonFiniteGradient() -> String? {
        entries.first { entry in
            guard let gradient = entry.slice.gradient() else { return false }
            return !backend.sumOfSquares([gradient]).doubles[0].isFinite
        }?.name
    }

    /// Changes every parameter that has a gradient. The gradients are left as they are.
    /// - Parameters:
    ///   - learningRate: of this step.
    ///   - norm: what ``gradientNorm()`` gave, for clipping; where it is not finite nothing changes.
    public func update(learningRate: Float, norm: Double) {
        update(learningRate: learningRate, squares: Tensor(norm * norm))
    }

    /// As ``update(learningRate:norm:)``, of the norm's square, which a device reads without anybody waiting for it.
    func update(learningRate: Float, squares: Tensor) {
        step += 1
        let step = AdamWStep(
            learningRate: learningRate, beta1: settings.betas.0, beta2: settings.betas.1, epsilon: settings.epsilon,
            step: step)
        var updates: [AdamWUpdate] = []
        for entry in entries {
            guard let gradient = entry.slice.gradient() else { continue }
            entry.parameter.update { value, narrow in
                let isWhole = entry.slice.isWhole
                updates.append(
                    AdamWUpdate(
                        gradient: gradient,
                        values: isWhole ? value : value.reshaped([value.count]).rows(entry.elements),
                        firstMoment: entry.firstMoment, secondMoment: entry.secondMoment,
                        narrow: isWhole ? narrow : nil,
                        weightDecay: entry.parameter.decays ? settings.weightDecay : 0))
                return isWhole && narrow != nil
            }
        }
        backend.adamW(step, updates, clip: settings.clip, squares: squares)
    }

    /// Sets all gradients to zero, keeping their memory.
    public func zeroGradients() {
        for entry in entries { entry.parameter.zeroGradient() }
    }
}
