import ApusEngine
import Foundation
import Testing

@Suite struct SamplerTests {
    /// Probabilities by the plainest possible reading of the documented order.
    static func reference(_ logits: [Float], _ parameters: SamplingParameters) -> [Double] {
        let tempered = logits.map { Double($0) / parameters.temperature }
        let top = tempered.max()!
        var weights = tempered.map { exp($0 - top) }
        let order = weights.indices.sorted { logits[$0] > logits[$1] || (logits[$0] == logits[$1] && $0 < $1) }
        if parameters.topK > 0 { for index in order.dropFirst(parameters.topK) { weights[index] = 0 } }
        let total = weights.reduce(0, +)
        var sum = 0.0
        for index in order {
            if parameters.topP < 1 && sum >= parameters.topP * total { weights[index] = 0 }
            sum += weights[index]
        }
        weights = weights.map { $0 >= parameters.minP ? $0 : 0 }
        let kept = weights.reduce(0, +)
        return weights.map { $0 / kept }
    }

    static func logits(_ count: Int, seed: UInt64) -> [Float] {
        var state = seed
        return (0..<count).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float(state >> 40) / Float(1 << 24) * 8 - 4
        }
    }

    static let settings: [SamplingParameters] = [
        (1.0, 0, 1.0, 0.0), (0.7, 0, 1.0, 0.0), (1.3, 5, 1.0, 0.0), (1.0, 0, 0.8, 0.0), (0.9, 0, 0.999, 0.0),
        (1.0, 0, 1.0, 0.1), (1.0, 12, 0.5, 0.02), (2.0, 300, 0.95, 0.05), (1.0, 1000, 1.0, 0.0),
    ].map { temperature, topK, topP, minP in
        var parameters = SamplingParameters()
        (parameters.temperature, parameters.topK, parameters.topP, parameters.minP) = (temperature, topK, topP, minP)
        return parameters
    }

    @Test(arguments: settings) func drawsFollowTheFilteredDistribution(_ base: SamplingParameters) throws {
        let logits = Self.logits(257, seed: 11)
        let expected = Self.reference(logits, base)
        let draws = 20_000
        var counts = [Int](repeating: 0, count: logits.count)
        for seed in 0..<draws {
            var parameters = base
            parameters.seed = UInt64(seed)
            var sampler = try Sampler(parameters)
            var copy = logits
            let token = try copy.withUnsafeMutableBufferPointer { try sampler.next($0) }.token
            counts[Int(token)] += 1
        }
        for (token, probability) in expected.enumerated() {
            if probability == 0 {
                #expect(counts[token] == 0, "token \(token) was filtered out")
            } else {
                let deviation = (Double(draws) * probability * (1 - probability)).squareRoot()
                #expect(abs(Double(counts[token]) - Double(draws) * probability) < 5 * deviation + 3)
            }
        }
    }

    @Test func greedyTakesTheFirstOfTheLargest() throws {
        var sampler = try Sampler(SamplingParameters())
        var logits: [Float] = [0, 3, -1, 3]
        #expect(try logits.withUnsafeMutableBufferPointer { try sampler.next($0) }.token == 1)
    }

    @Test func sameSeedSameTokensWhateverWasDrawnElsewhere() throws {
        var parameters = SamplingParameters()
        (parameters.temperature, parameters.seed) = (1, 42)
        func run() throws -> [Int32] {
            var sampler = try Sampler(parameters)
            return try (0..<50).map { step in
                var logits = Self.logits(100, seed: UInt64(step))
                return try logits.withUnsafeMutableBufferPointer { try sampler.next($0) }.token
            }
        }
        let first = try run()
        #expect(try run() == first)
        #expect(Set(first).count > 10)
        parameters.seed = 43
        #expect(try run() != first)
    }

    @Test func penaltiesFollowTheirFormulas() throws {
        var parameters = SamplingParameters()
        (parameters.repetitionPenalty, parameters.presencePenalty, parameters.frequencyPenalty) = (2, 0.25, 0.5)
        var sampler = try Sampler(parameters, prompt: [1, 2])
        sampler.record(3)
        sampler.record(3)
        var logits: [Float] = [0.5, 4, -1, 3, 1]
        _ = try logits.withUnsafeMutableBufferPointer { try sampler.next($0) }
        #expect(logits == [0.5, 2, -2, 3 / 2 - 1.25, 1])
    }

    @Test func logprobsAreOfTheUnpenalisedModel() throws {
        var parameters = SamplingParameters()
        (parameters.logprobs, parameters.presencePenalty) = (2, 1)
        var sampler = try Sampler(parameters)
        sampler.record(0)
        var logits: [Float] = [1, 0.9, -1]
        let total = log(exp(1.0) + exp(0.9) + exp(-1.0))
        let drawn = try logits.withUnsafeMutableBufferPointer { try sampler.next($0) }
        #expect(drawn.token == 1)
        #expect(abs(drawn.logprob! - (0.9 - total)) < 1e-6)
        #expect(drawn.alternatives.map(\.token) == [0, 1])
        #expect(abs(drawn.alternatives[0].logprob - (1 - total)) < 1e-6)
    }

    @Test(arguments: [[Float.nan, 1], [-.infinity, -.infinity], [.infinity, 1], [1, .infinity, -.infinity]])
    func logitsThatAreNotFiniteAreAnError(_ values: [Float]) throws {
        var sampler = try Sampler(SamplingParameters())
        var logits = values
        #expect(throws: SamplingError.notFinite(position: 0)) {
            try logits.withUnsafeMutableBufferPointer { try sampler.next($0) }
        }
    }

    @Test func maskedLogitsAreNeverDrawn() throws {
        var parameters = SamplingParameters()
        parameters.temperature = 5
        for seed in 0..<200 {
            parameters.seed = UInt64(seed)
            var sampler = try Sampler(parameters)
            var logits: [Float] = [0, -.infinity, 0, -.infinity]
            #expect(try [0, 2].contains(logits.withUnsafeMutableBufferPointer { try sampler.next($0) }.token))
        }
    }

    @Test func parametersOutOfRangeAreNamed() {
        let cases: [(WritableKeyPath<SamplingParameters, Double>, Double, String)] = [
            (\.temperature, -1, "temperature"), (\.temperature, .nan, "temperature"), (\.topP, 0, "top-p"),
            (\.topP, 1.5, "top-p"), (\.minP, -0.1, "min-p"), (\.repetitionPenalty, 0, "repetition penalty"),
            (\.presencePenalty, .infinity, "presence penalty"),
        ]
        for (path, value, name) in cases {
            var parameters = SamplingParameters()
            parameters[keyPath: path] = value
            #expect(performing: { try parameters.validate() }, throws: { "\($0)".hasPrefix(name + ":") })
        }
    }
}

@Suite struct StopMatcherTests {
    @Test(arguments: 1...7) func anyPiecesGiveTheSameText(_ size: Int) {
        let text = Array("one two STOP three")
        var matcher = StopMatcher(["STOP", "never"])
        var shown = ""
        var stopped = false
        for start in stride(from: 0, to: text.count, by: size) where !stopped {
            let piece = matcher.push(String(text[start..<min(start + size, text.count)]))
            shown += piece.text
            stopped = piece.stopped
        }
        #expect(stopped)
        #expect(shown == "one two ")
    }

    @Test func whatOnlyBeganIsShownAtTheEnd() {
        var matcher = StopMatcher(["<end>"])
        #expect(matcher.push("a <en").text == "a ")
        #expect(matcher.push("dless").text == "<endless")
        #expect(matcher.push("<e").text == "")
        #expect(matcher.finish() == "<e")
    }

    @Test func theEarliestMatchWins() {
        var matcher = StopMatcher(["bc", "ab"])
        let result = matcher.push("xabc")
        #expect(result.text == "x")
        #expect(result.stopped)
    }
}
