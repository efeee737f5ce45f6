import ApusModels
import ApusTeaching
import ApusTensor
import ApusText
import Foundation
import Testing

/// Rewards of outputs: score heads, verifiers, sums.
@Suite struct RewardTests {
    private static let models = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/models")

    /// Sequences that share a beginning, one that is the beginning of another, one token alone: each as if scored alone.
    @Test func sharedBeginningsChangeNoScore() throws {
        let path = Self.models.appending(path: "llama-reward").path
        let decoder = try Decoder(checkpoint: try Checkpoints.open(path), backend: CPUBackend(threads: 2))
        let scorer = SequenceScorer(decoder)
        let vocabulary = Int32(decoder.configuration.vocabularySize)
        let prompt = (0..<37).map { Int32($0 * 7) % vocabulary }
        let groups: [[[Int32]]] = [
            [prompt + [1, 2, 3], prompt + [4], prompt + [1, 2, 3, 5, 6], prompt, prompt + [1, 2, 3]],
            [[3], [3, 4], [5]], [[9]], [],
        ]
        for sequences in groups {
            let found = try scorer.scores(sequences)
            let expected = try sequences.map { Double(try decoder.logits(of: $0).last![0]) }
            #expect(found.count == expected.count)
            for (one, other) in zip(found, expected) { #expect(abs(one - other) <= 1e-5 * max(1, abs(other))) }
        }
        #expect(throws: RewardError.self) {
            try SequenceScorer(decoder, context: 8).scores([Array(repeating: 1, count: 9)])
        }
        #expect(throws: DecoderError.self) { try scorer.scores([[vocabulary]]) }
    }

    /// The training form in packed batches scores as the decoder does.
    @Test func batchesScoreAsTheDecoder() throws {
        let checkpoint = try Checkpoints.open(Self.models.appending(path: "llama-reward").path)
        let backend = CPUBackend(threads: 2)
        let decoder = try Decoder(checkpoint: checkpoint, backend: backend)
        let scorer = BatchScorer(
            try TrainableDecoder(checkpoint, on: DifferentiableOperations(on: backend)), context: 64)
        let vocabulary = Int32(decoder.configuration.vocabularySize)
        let sequences = (1...40).map { length in (0..<Int32(length)).map { ($0 * 11 + Int32(length)) % vocabulary } }
        let found = try scorer.scores(sequences)
        let expected = try SequenceScorer(decoder).scores(sequences)
        for (one, other) in zip(found, expected) { #expect(abs(one - other) <= 1e-5 * max(1, abs(other))) }
        #expect(found.count == expected.count)
        #expect(try scorer.scores([]) == [])
        #expect(throws: RewardError.self) { try scorer.scores([Array(repeating: 1, count: 65)]) }
        #expect(throws: DecoderError.self) { try scorer.scores([[1], [vocabulary]]) }
        #expect(throws: DecoderError.self) { try scorer.scores([[]]) }
    }

    @Test func aLanguageModelIsNoRewardModel() {
        #expect(throws: RewardError.self) { try RewardModel(path: Self.models.appending(path: "llama2").path) }
    }

    @Test(
        arguments: [
            ("The answer is 42.", 42), ("#### 1,234", 1234), ("so 3 + 4 = 7\n#### 7", 7), ("it is -5", -5), ("3-5", 5),
            ("no number", nil), ("cost: $2.50 or 1.5e", 1.5), ("#### none, but 8", 8), ("8 #### none", 8),
            ("1.2.3", 2.3),
            ("12,5", 125), (",5", 5), ("", nil),
        ] as [(String, Double?)])
    func numbersAreFoundAtTheEnd(_ text: String, _ expected: Double?) throws {
        let goal = expected.map { "\($0)" } ?? "77"
        let prompt = RewardPrompt(.text("?"), answer: goal)
        #expect(try NumericAnswer().rewards(of: [text], prompt: prompt) == [expected == nil ? 0 : 1])
        #expect(try NumericAnswer().rewards(of: ["31337"], prompt: prompt) == [0])
    }

    @Test func verifiersGiveWhatTheySay() throws {
        let prompt = RewardPrompt(.text("Capital of France?"), answer: "Paris")
        #expect(try ExactAnswer().rewards(of: [" Paris\n", "paris", "Paris."], prompt: prompt) == [1, 0, 0])
        #expect(try PatternReward("[0-9]{3}").rewards(of: ["a123", "12"], prompt: prompt) == [1, 0])
        #expect(try LengthReward(words: 4).rewards(of: ["a b c d", "a b", ""], prompt: prompt) == [0, -0.5, -1])
        let sum = WeightedReward([(2, ExactAnswer()), (1, LengthReward(words: 1))])
        #expect(try sum.rewards(of: ["Paris", "no way"], prompt: prompt) == [2, -1])
        #expect(throws: RewardError.self) { try PatternReward("(") }
        #expect(throws: RewardError.self) {
            try ExactAnswer().rewards(of: ["x"], prompt: RewardPrompt(.text("?")))
        }
    }

    private struct Broken: RewardFunction {
        let name = "broken"
        let values: [Double]
        func rewards(of outputs: [String], prompt: RewardPrompt) -> [Double] { values }
    }

    /// Gives the lengths of outputs of several prompts together.
    private struct Together: RewardFunction {
        let name = "together"
        var factor = 1.0
        func rewards(of outputs: [String], prompt: RewardPrompt) -> [Double] { [] }
        func rewards(of groups: [RewardGroup]) -> [[Double]]? {
            groups.map { $0.outputs.map { Double($0.count) * factor } }
        }
    }

    @Test func rewardsOfSeveralPromptsComeTogether() throws {
        let prompt = RewardPrompt(.text("?"), answer: "ab")
        let groups = [["ab", "c"], ["def"]].enumerated().map {
            RewardGroup(index: $0 + 30, prompt: prompt, outputs: $1)
        }
        #expect(try ExactAnswer().rewards(of: groups) == nil)
        #expect(try ExactAnswer().checkedRewards(of: groups) == [[1, 0], [0]])
        #expect(try Together().checkedRewards(of: groups) == [[2, 1], [3]])
        #expect(try WeightedReward([(2, ExactAnswer())]).rewards(of: groups) == nil)
        let sum = WeightedReward([(10, ExactAnswer()), (0.5, Together())])
        #expect(try sum.checkedRewards(of: groups) == [[11, 0.5], [1.5]])
        let error = #expect(throws: RewardError.self) {
            _ = try Together(factor: .infinity).checkedRewards(of: groups)
        }
        #expect("\(try #require(error))".contains("output 0 of prompt 30"))
    }

    @Test func aRewardThatIsNoNumberNamesItsPrompt() throws {
        let prompt = RewardPrompt(.text("?"))
        let found = #expect(throws: RewardError.self) {
            try Broken(values: [0, .nan]).checkedRewards(of: ["a", "b"], prompt: prompt, index: 17)
        }
        #expect("\(try #require(found))".contains("output 1 of prompt 17"))
        #expect(throws: RewardError.self) {
            try Broken(values: [0]).checkedRewards(of: ["a", "b"], prompt: prompt, index: 0)
        }
        #expect(try Broken(values: [1, 2]).checkedRewards(of: ["a", "b"], prompt: prompt, index: 0) == [1, 2])
    }
}
