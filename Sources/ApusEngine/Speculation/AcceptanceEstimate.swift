/// The probability that a drafted token is accepted, from what happened lately.
struct AcceptanceEstimate {
    private let prior: Double
    private var accepted: Double
    private var tried = 2.0

    init(prior: Double) {
        self.prior = prior
        accepted = 2 * prior
    }

    /// The estimate.
    var probability: Double { accepted / tried }

    /// Of `drafted` tokens the first `accepted` were; those after the first that was not do not count.
    mutating func observe(drafted: Int, accepted count: Int) {
        let memory = 0.9
        accepted = accepted * memory + Double(count)
        tried = tried * memory + Double(min(count + 1, drafted))
    }

    /// Nothing was drafted though it could have been: the estimate moves back, so that it is tried again one day.
    mutating func rest() { accepted += 0.01 * (prior * tried - accepted) }
}
