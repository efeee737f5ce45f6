import ApusTeaching
import ApusText
import Testing

/// Rewards from another program: what it is told, and what becomes of one that does not answer as it should.
@Suite struct ExternalRewardTests {
    private let prompt = RewardPrompt(.text("2 + 2?"), answer: "4")

    @Test func aProgramIsAskedAgainAndAgain() throws {
        // Counts its questions, and says which number each answer has.
        let reward = try ProcessReward(
            command: #"n=0; while read -r line; do n=$((n+1)); echo "{\"rewards\": [$n, 0.5]}"; done"#)
        for number in 1...3 {
            #expect(try reward.rewards(of: ["a", "b"], prompt: prompt) == [Double(number), 0.5])
        }
        let outputs = (0..<2).map { String(repeating: "long \($0) ", count: 50_000) }
        #expect(try reward.rewards(of: outputs, prompt: prompt) == [4, 0.5])
    }

    /// The question holds everything: a program that gives it back as its error.
    @Test func theQuestionHoldsPromptAnswerAndOutputs() throws {
        let reward = try ProcessReward(command: #"read -r line; printf '{"error": %s}\n' "$line""#)
        let error = #expect(throws: RewardError.self) { try reward.rewards(of: ["four", "\n\""], prompt: prompt) }
        let text = "\(try #require(error))"
        #expect(text.contains(#""prompt":"2 + 2?""#) && text.contains(#""answer":"4""#), "\(text)")
        #expect(text.contains(#""outputs":["four","\n\""]"#), "\(text)")
    }

    @Test(
        arguments: [
            ("sleep 30", "within"), ("exit 3", "exit status 3"), ("read -r line; kill -9 $$", "signal 9"),
            ("read -r line; echo no", "found no"), (#"read -r line; echo '{"rewards": [1]}'"#, "2 rewards, found 1"),
            (#"read -r line; echo '{"rewards": [1, NaN]}'"#, "NaN"),
            (#"read -r line; echo '{"rewards": [1, "2"]}'"#, "a number"), ("no-such-program-here", "exit status 127"),
        ])
    func whatIsNoAnswerIsAnError(_ command: String, _ expected: String) throws {
        let reward = try ProcessReward(command: "exec 2>/dev/null; \(command)", timeOut: .seconds(2))
        let error = #expect(throws: RewardError.self) {
            _ = try reward.checkedRewards(of: ["a", "b"], prompt: prompt, index: 17)
        }
        let text = "\(try #require(error))"
        #expect(text.contains("prompt 17") && text.contains(expected), "\(text)")
    }

    @Test func afterAFailureTheProgramStartsAnew() throws {
        let reward = try ProcessReward(
            command: #"read -r line; echo '{"rewards": [1, 2]}'; read -r line; exit 0"#, timeOut: .seconds(5))
        #expect(try reward.rewards(of: ["a", "b"], prompt: prompt) == [1, 2])
        #expect(throws: RewardError.self) { try reward.rewards(of: ["a", "b"], prompt: prompt) }
        #expect(try reward.rewards(of: ["a", "b"], prompt: prompt) == [1, 2])
    }

    @Test(arguments: [
        "http://", "http:///x", "http://a:b/", "http://a:0/", "http://[::1", "http://a b/", "length:0", "process: ",
        "inf*exact", "pattern:(",
    ])
    func textsThatNameNoRewardAreRefused(_ text: String) {
        #expect(throws: RewardError.self) { _ = try RewardSpecification.sum([text]) }
    }

    @Test func sumsHaveWeights() throws {
        let sum = try RewardSpecification.sum(["0.5*length:2", "exact", "-2*pattern:x*y"])
        #expect(try sum.rewards(of: ["4", "a b", "xy"], prompt: prompt) == [0.75, 0, -2.25])
    }

    @Test func nobodyAtAnAddressIsAnError() throws {
        // A port that nothing listens on.
        let reward = try HTTPReward(address: "http://127.0.0.1:9/score", timeOut: .seconds(5))
        #expect(throws: RewardError.self) { try reward.rewards(of: ["a"], prompt: prompt) }
    }
}
