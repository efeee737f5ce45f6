import ApusReport

/// How far a run is, as one line: step, loss, learning rate, tokens a second, share of the peak, time left. On a
/// terminal the line is written over; elsewhere each is a line of its own.
///
/// ```
/// step 120/1000  loss 4.812  lr 9.1e-4  5,612 tok/s  41.2 % of peak  3:07 min left
/// ```
public struct StatusLine {
    /// The figures of a step.
    public struct Figures: Sendable {
        /// The step, from 1, and how many there are.
        public var step: (done: Int, total: Int)
        /// The training loss in nats.
        public var loss: Double
        /// The learning rate.
        public var learningRate: Double
        /// Steps since the last update.
        public var steps: Int
        /// Tokens trained on since the last update.
        public var tokens: Int
        /// Seconds since the last update.
        public var seconds: Double
        /// Further figures that the objective shows.
        public var metrics: [TrainingMetric]

        /// Figures of a step.
        public init(
            step: Int, of total: Int, loss: Double, learningRate: Double, steps: Int, tokens: Int, seconds: Double,
            metrics: [TrainingMetric] = []
        ) {
            self.step = (step, total)
            self.loss = loss
            self.learningRate = learningRate
            self.steps = steps
            self.tokens = tokens
            self.seconds = seconds
            self.metrics = metrics
        }
    }

    /// Tokens a second, lately; nil before the first update.
    public private(set) var tokensPerSecond: Double?
    private let isTerminal: Bool
    private var secondsPerStep: Double?
    private let operationsPerToken: Double?
    private let peakFlops: Double?
    private let write: (String) -> Void
    private var isOpen = false

    /// - Parameters:
    ///   - isTerminal: whether what `write` writes goes to a terminal.
    ///   - operationsPerToken: floating-point operations that training on a token takes (6 a parameter and those of
    ///     attention).
    ///   - peakFlops: the machine's peak in FLOP/s.
    ///   - write: writes text as it is.
    public init(
        isTerminal: Bool, operationsPerToken: Double? = nil, peakFlops: Double? = nil,
        write: @escaping (String) -> Void
    ) {
        self.isTerminal = isTerminal
        self.operationsPerToken = operationsPerToken
        self.peakFlops = peakFlops
        self.write = write
    }

    /// The share of the peak that is reached, from 0 to 1, where the peak is known.
    public var shareOfPeak: Double? {
        guard let tokensPerSecond, let operationsPerToken, let peakFlops else { return nil }
        return tokensPerSecond * operationsPerToken / peakFlops
    }

    /// Shows the figures of a step.
    public mutating func update(_ figures: Figures) {
        let rate = Double(figures.tokens) / max(figures.seconds, 1e-9)
        // The mean of the last few updates, so that the time left does not jump.
        tokensPerSecond = tokensPerSecond.map { 0.8 * $0 + 0.2 * rate } ?? rate
        let seconds = figures.seconds / Double(max(figures.steps, 1))
        secondsPerStep = secondsPerStep.map { 0.8 * $0 + 0.2 * seconds } ?? seconds
        let text = text(figures)
        if isTerminal {
            write("\r" + text + "\u{1B}[K")
            isOpen = true
        } else {
            write(text + "\n")
        }
    }

    /// Writes a line of its own, such as an evaluation's, and leaves the status below it.
    public mutating func note(_ text: String) {
        end()
        write(text + "\n")
    }

    /// Ends the line on a terminal: the last status stays.
    public mutating func end() {
        if isOpen { write("\n") }
        isOpen = false
    }

    private func text(_ figures: Figures) -> String {
        let (step, total) = figures.step
        var parts = [
            "step \(step)/\(total)", "loss \(NumberText.fixed(figures.loss, 3))",
            "lr \(NumberText.scientific(figures.learningRate))",
        ]
        parts += figures.metrics.map { "\($0.name) \(NumberText.fixed($0.value, 3))" }
        if let rate = tokensPerSecond, rate > 0 {
            parts.append("\(NumberText.grouped(Int(rate.rounded()))) tok/s")
            if let shareOfPeak { parts.append("\(NumberText.fixed(shareOfPeak * 100, 1)) % of peak") }
        }
        if step < total, let secondsPerStep {
            parts.append("\(NumberText.duration(Double(total - step) * secondsPerStep)) left")
        }
        return parts.joined(separator: "  ")
    }
}
