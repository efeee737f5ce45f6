import ApusReport
import ApusAttention

/// A comparison of training runs: attention variants on the same data, perhaps with several seeds each.
///
/// ``html`` draws it as one self-contained page, ``json`` holds the figures.
public struct ComparisonReport: Sendable {
    /// A loss on the way.
    public struct Point: Sendable, Equatable {
        /// Tokens trained on so far.
        public var tokens: Int
        /// Cross-entropy in nats a token.
        public var loss: Double

        /// A loss after so many tokens.
        public init(tokens: Int, loss: Double) {
            self.tokens = tokens
            self.loss = loss
        }
    }

    /// One training run.
    public struct Run: Sendable {
        /// The variant's name, such as GLA-2: runs of one name differ in their seeds alone.
        public var variant: String
        /// The seed.
        public var seed: Int
        /// Parameters of the model.
        public var parameters: Int
        /// Decoder layers.
        public var layers: Int
        /// What a token leaves in the cache of a layer.
        public var geometry: CacheGeometry
        /// Training losses in the order of the steps.
        public var training: [Point]
        /// Losses on held-out text in the order of the steps; the last one is the result.
        public var validation: [Point]
        /// Speed of training; nil where it was not measured.
        public var tokensPerSecond: Double?

        /// A run.
        public init(
            variant: String, seed: Int, parameters: Int, layers: Int, geometry: CacheGeometry, training: [Point],
            validation: [Point], tokensPerSecond: Double? = nil
        ) {
            self.variant = variant
            self.seed = seed
            self.parameters = parameters
            self.layers = layers
            self.geometry = geometry
            self.training = training
            self.validation = validation
            self.tokensPerSecond = tokensPerSecond
        }
    }

    /// The page's heading.
    public var title: String
    /// What all runs share, as names and values: data, tokens, sizes.
    public var setting: [(name: String, value: String)]
    /// The runs; variants appear in the order of their first runs, and the first one is what differences refer to.
    public var runs: [Run]
    /// Bytes of a cached element: 2 for bf16.
    public var bytesPerElement: Double

    /// A report.
    public init(title: String, setting: [(name: String, value: String)], runs: [Run], bytesPerElement: Double = 2) {
        self.title = title
        self.setting = setting
        self.runs = runs
        self.bytesPerElement = bytesPerElement
    }

    /// Tensor-parallel ranks for which cache bytes are given.
    static let ranks = [1, 2, 4, 8]

    /// The variants in order, each with its runs.
    var variants: [Variant] {
        var result: [Variant] = []
        for run in runs {
            if let index = result.firstIndex(where: { $0.name == run.variant }) {
                result[index].runs.append(run)
            } else {
                result.append(Variant(name: run.variant, index: result.count, runs: [run]))
            }
        }
        return result
    }

    /// The runs of one variant.
    struct Variant {
        let name: String
        /// The place in the order, which also picks the colour.
        let index: Int
        var runs: [Run]

        /// The last held-out losses of the runs that have one.
        var losses: [Double] { runs.compactMap { $0.validation.last?.loss } }
        var loss: Statistics? { Statistics(losses) }
        var perplexity: Statistics? {
            Statistics(losses.map { ReportMath.exponential($0) })
        }

        /// Bytes that a token leaves in the cache of all layers of one device; nil where the ranks do not divide it.
        func cacheBytes(ranks: Int, bytesPerElement: Double) -> Double? {
            guard let run = runs.first, let share = try? run.geometry.sharded(over: ranks) else { return nil }
            return share.local.bytesPerToken(bytesPerElement: bytesPerElement) * Double(run.layers)
        }

        /// The mean over the runs of the loss at each token count that all of them have.
        func meanCurve(_ curve: (Run) -> [Point]) -> [Point] {
            guard let first = runs.first else { return [] }
            let rest = runs.dropFirst().map { run in
                Dictionary(curve(run).map { ($0.tokens, $0.loss) }, uniquingKeysWith: { _, last in last })
            }
            return curve(first).compactMap { point in
                let others = rest.compactMap { $0[point.tokens] }
                guard others.count == rest.count else { return nil }
                return Point(
                    tokens: point.tokens, loss: (point.loss + others.reduce(0, +)) / Double(runs.count))
            }
        }
    }
}

/// Mean and spread of a few values.
struct Statistics {
    let mean: Double
    /// The sample standard deviation; nil for a single value.
    let deviation: Double?
    let lowest: Double
    let highest: Double

    /// Nil where there is no value.
    init?(_ values: [Double]) {
        guard let lowest = values.min(), let highest = values.max() else { return nil }
        self.lowest = lowest
        self.highest = highest
        let mean = values.reduce(0, +) / Double(values.count)
        self.mean = mean
        if values.count > 1 {
            let squares = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
            deviation = (squares / Double(values.count - 1)).squareRoot()
        } else {
            deviation = nil
        }
    }
}
