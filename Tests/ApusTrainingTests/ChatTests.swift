import ApusText
import ApusTraining
import Foundation
import Testing

@Suite struct ChatTests {
    private func tokenizer() throws -> Tokenizer {
        var trainer = BPETrainer(vocabularySize: 300)
        trainer.specialTokens = ["<|im_start|>", "<|im_end|>"]
        return try trainer.train([String(repeating: "the swift flies over the roof and the river. ", count: 20)])
            .tokenizer()
    }

    private let template = """
        {% for m in messages %}<|im_start|>{{ m.role }}
        {{ m.content }}<|im_end|>
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
        {% endif %}
        """

    @Test func onlyAnswersAreLearnt() throws {
        let tokenizer = try tokenizer()
        let encoder = ChatEncoder(template: try ChatTemplate(source: template), tokenizer: tokenizer)
        let messages: [ChatMessage] = [
            .user("the river"), .assistant("over the roof"), .user("and"), .assistant("flies"), .user("never answered"),
        ]
        let example = try #require(try encoder.encode(messages, file: "f", line: 1))
        func text(_ learnt: Bool) -> String {
            tokenizer.decode(zip(example.tokens, example.isAnswer).filter { $1 == learnt }.map(\.0))
        }
        #expect(text(true).contains("over the roof") && text(true).contains("flies"))
        #expect(!text(true).contains("river") && !text(true).contains("assistant"))
        #expect(text(false).contains("the river") && !tokenizer.decode(example.tokens).contains("never"))
        #expect(try encoder.encode([.user("alone")], file: "f", line: 1) == nil)
    }

    @Test func aTemplateThatRewritesAnswersIsNamed() throws {
        let encoder = ChatEncoder(
            template: try ChatTemplate(source: "{% if add_generation_prompt %}ask{% else %}other{% endif %}"),
            tokenizer: try tokenizer())
        #expect(throws: ChatDataError.template(file: "f", line: 3, turn: 1)) {
            _ = try encoder.encode([.user("a"), .assistant("b")], file: "f", line: 3)
        }
    }

    @Test func packingServesEveryConversationOnceAnEpoch() throws {
        let examples = (0..<40).map { index in
            let count = 3 + index * 7 % 23
            return ChatExample(
                tokens: (0..<count).map { Int32(index * 100 + $0) }, isAnswer: (0..<count).map { $0 > count / 2 })
        }
        let batches = try ChatBatches(
            train: examples, validation: Array(examples[..<5]), length: 32, rows: 3, accumulation: 2, seed: 1,
            files: ["f"])
        #expect(batches.omitted == 0)
        // As many steps as have surely served two epochs.
        var seen: [Int32: Int] = [:]
        for step in 0..<40 {
            for part in 0..<2 {
                let batch = batches.batch(step: step, part: part)
                #expect(batch == batches.batch(step: step, part: part))
                for (start, end) in zip(batch.starts, batch.starts.dropFirst()) {
                    let first = batch.tokens[start]
                    let example = examples[Int(first / 100)]
                    #expect(Array(batch.tokens[start..<end]) == Array(example.tokens.dropLast()))
                    let expected = zip(example.tokens, example.isAnswer).dropFirst().map { $1 ? $0 : -1 }
                    #expect(Array(batch.targets[start..<end]) == expected)
                    seen[first, default: 0] += 1
                }
            }
        }
        let times = examples.map { seen[$0.tokens[0]] ?? 0 }
        #expect(times.min()! > 0 && times.max()! - times.min()! <= 1)
        #expect((0..<batches.evaluationBatches).reduce(0) { $0 + batches.evaluationBatch($1).starts.count - 1 } == 5)
    }

    @Test func conversationsThatFitNowhereAreCounted() throws {
        let long = ChatExample(tokens: Array(0..<50), isAnswer: Array(repeating: true, count: 50))
        let short = ChatExample(tokens: [1, 2, 3], isAnswer: [false, true, true])
        func make(_ examples: [ChatExample]) throws -> ChatBatches {
            try ChatBatches(
                train: examples, validation: [], length: 32, rows: 1, accumulation: 1, seed: 1, files: ["f"])
        }
        #expect(try make([long, short]).omitted == 1)
        #expect(throws: ChatDataError.empty(files: ["f"], longest: 32)) { _ = try make([long]) }
    }
}
