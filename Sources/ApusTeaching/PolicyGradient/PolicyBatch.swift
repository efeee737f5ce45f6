import ApusText

/// What a policy learns from one output.
public struct TrainingOutput: Sendable, Equatable {
    /// Its prompt's place among the prompts to train on.
    public var prompt: Int
    /// The tokens drawn.
    public var tokens: [Int32]
    /// Their log-probabilities when they were drawn, by the engine.
    public var drawn: [Float]
    /// Their log-probabilities before the first update, by the trainer; nil where there is one update only.
    public var old: [Float]?
    /// Under the reference; nil without one.
    public var reference: [Float]?
    /// Of each token.
    public var advantages: [Float]
    /// PPO: what was expected before each token.
    public var values: [Float]?
    /// PPO: what should have been.
    public var returns: [Float]?

    /// An output.
    public init(prompt: Int, tokens: [Int32], drawn: [Float], advantages: [Float] = []) {
        self.prompt = prompt
        self.tokens = tokens
        self.drawn = drawn
        self.advantages = advantages
    }
}

/// The outputs of one rollout by group, with what is the same for all its updates.
public struct PolicyBatch: Sendable, Equatable {
    /// Which rollout, from 0.
    public var number: Int
    /// By group: the outputs of one prompt. Groups with nothing to learn from may be missing.
    public var groups: [[TrainingOutput]]

    /// The groups of one update: one of `count` parts, in an order of each epoch's own.
    func minibatch(_ phase: Int, of count: Int, order: (Int) -> [Int]) -> [[TrainingOutput]] {
        let (epoch, part) = (phase / count, phase % count)
        let places = order(epoch)
        let range = groups.count * part / count..<groups.count * (part + 1) / count
        return range.map { groups[places[$0]] }
    }
}

/// Where a policy gradient stands beyond weights and steps: what a checkpoint keeps.
struct PolicyProgress: Equatable {
    /// Prompts that have been taken from the endless order.
    var position = 0
    /// REINFORCE's baseline: outputs and their rewards so far.
    var baseline = (count: 0.0, sum: 0.0)
    /// Mean and deviation that rewards are normalised with, once measured.
    var normalization: (mean: Double, deviation: Double)?
    /// Evaluations so far, the initial policy's first.
    var evaluations: [PolicyEvaluation] = []
    /// The rollout whose updates are not all made.
    var batch: PolicyBatch?

    static func == (a: PolicyProgress, b: PolicyProgress) -> Bool {
        a.position == b.position && a.baseline == b.baseline && a.normalization?.mean == b.normalization?.mean
            && a.normalization?.deviation == b.normalization?.deviation && a.evaluations == b.evaluations
            && a.batch == b.batch
    }
}

extension PolicyProgress {
    /// As JSON. Numbers come back bit for bit: each is written with as many digits as tell it apart.
    var json: JSONValue {
        var object: JSONObject = [
            "position": .integer(Int64(position)),
            "baseline": .array([.double(baseline.count), .double(baseline.sum)]),
            "evaluations": .array(evaluations.map(\.json)),
        ]
        if let normalization {
            object["normalization"] = .array([.double(normalization.mean), .double(normalization.deviation)])
        }
        if let batch {
            object["rollout"] = .integer(Int64(batch.number))
            object["groups"] = .array(batch.groups.map { .array($0.map(\.json)) })
        }
        return .object(object)
    }

    init(_ json: JSONValue) throws {
        do throws(JSONError) {
            let node = JSONNode(json, name: "objective")
            position = try node.int("position")
            let base = try node.child("baseline").doubles(count: 2)
            baseline = (base[0], base[1])
            if let values = try node.optional("normalization")?.doubles(count: 2) {
                normalization = (values[0], values[1])
            }
            for element in try node.child("evaluations").elements() {
                evaluations.append(try PolicyEvaluation(element))
            }
            if let groups = try node.optional("groups") {
                var batch = PolicyBatch(number: try node.int("rollout"), groups: [])
                for group in try groups.elements() {
                    var outputs: [TrainingOutput] = []
                    for element in try group.elements() { outputs.append(try TrainingOutput(element)) }
                    batch.groups.append(outputs)
                }
                self.batch = batch
            }
        } catch {
            throw PolicyGradientError.state("\(error)")
        }
    }
}

extension TrainingOutput {
    fileprivate var json: JSONValue {
        func numbers(_ values: [Float]) -> JSONValue { .array(values.map { .double(Double($0)) }) }
        var object: JSONObject = [
            "prompt": .integer(Int64(prompt)), "tokens": .array(tokens.map { .integer(Int64($0)) }),
            "drawn": numbers(drawn), "advantages": numbers(advantages),
        ]
        for (key, values) in [("old", old), ("reference", reference), ("values", values), ("returns", returns)] {
            if let values { object[key] = numbers(values) }
        }
        return .object(object)
    }

    fileprivate init(_ node: JSONNode) throws(JSONError) {
        func numbers(_ node: JSONNode) throws(JSONError) -> [Float] { try node.doubles().map { Float($0) } }
        var tokens: [Int32] = []
        for element in try node.child("tokens").elements() {
            tokens.append(Int32(try element.int(in: 0...Int(Int32.max))))
        }
        self.init(
            prompt: try node.int("prompt"), tokens: tokens, drawn: try numbers(try node.child("drawn")),
            advantages: try numbers(try node.child("advantages")))
        if let member = try node.optional("old") { old = try numbers(member) }
        if let member = try node.optional("reference") { reference = try numbers(member) }
        if let member = try node.optional("values") { values = try numbers(member) }
        if let member = try node.optional("returns") { returns = try numbers(member) }
        for list in [drawn, advantages, old, reference, values, returns].compactMap({ $0 })
        where list.count != tokens.count {
            throw node.error(expected: "\(tokens.count) numbers of each kind, found \(list.count)")
        }
    }
}

extension JSONNode {
    /// All elements as numbers; as many as `count` says.
    fileprivate func doubles(count: Int? = nil) throws(JSONError) -> [Double] {
        var result: [Double] = []
        for element in try elements() { result.append(try element.double()) }
        guard count == nil || result.count == count else { throw error(expected: "\(count!) numbers") }
        return result
    }
}
