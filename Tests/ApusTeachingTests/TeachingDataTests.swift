import ApusTeaching
import ApusText
import Foundation
import Testing

/// Rows of prompts and preferences, as people write them.
@Suite struct TeachingDataTests {
    private func file(_ rows: [String]) throws -> String {
        let path = FileManager.default.temporaryDirectory.appending(path: "apus-rows-\(UUID().uuidString).jsonl").path
        try Data(rows.joined(separator: "\n").utf8).write(to: URL(filePath: path))
        return path
    }

    @Test func promptsComeInThreeForms() throws {
        let path = try file([
            #"{"prompt": "What is 2 + 2?", "answer": "4"}"#,
            #"{"prompt": [{"role": "user", "content": "Hi"}]}"#,
            #"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}"#,
            #"{"question": "How many?", "answer": "so #### 3"}"#,
        ])
        defer { try? FileManager.default.removeItem(atPath: path) }
        let prompts = try RewardPrompt.read(path)
        #expect(
            prompts == [
                RewardPrompt(.text("What is 2 + 2?"), answer: "4"), RewardPrompt(.messages([.user("Hi")])),
                RewardPrompt(.messages([.user("Hi")])), RewardPrompt(.text("How many?"), answer: "so #### 3"),
            ])
    }

    @Test func preferencesComeInTheFormsOfTRL() throws {
        let path = try file([
            #"{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}"#,
            #"{"chosen": "The sky is blue.", "rejected": "The sky is green."}"#,
            #"""
            {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello"}], "rejected": [{"role": "assistant", "content": "No"}]}
            """#,
            #"""
            {"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}]}
            """#,
            #"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Hello", "rejected": "No"}"#,
        ])
        defer { try? FileManager.default.removeItem(atPath: path) }
        let hello = PreferencePair(
            prompt: RewardPrompt(.messages([.user("Hi")])), chosen: "Hello", rejected: "No")
        let sky = PreferencePair(prompt: RewardPrompt(.text("The sky is")), chosen: " blue.", rejected: " green.")
        #expect(try PreferencePair.read(path) == [sky, sky, hello, hello, hello])
        try #"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5}"#.write(
            toFile: path, atomically: true, encoding: .utf8)
        #expect(try PreferencePair.read(path).map(\.margin) == [0.5])
    }

    @Test(arguments: [
        #"{"prompt": "a", "chosen": "b"}"#, #"{"prompt": "a", "chosen": "b", "rejected": "b"}"#,
        #"{"chosen": "b", "rejected": "c"}"#, #"{"prompt": "a", "chosen": "b", "rejected": 3}"#,
        #"{"prompt": "", "chosen": "b", "rejected": "c"}"#, #"not json"#,
        #"{"chosen": [{"role": "user", "content": "Hi"}], "rejected": [{"role": "user", "content": "Ho"}]}"#,
        #"{"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": "c"}]}"#,
        #"{"prompt": [{"role": "robot", "content": "Hi"}], "chosen": "b", "rejected": "c"}"#,
        #"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": "large"}"#,
    ])
    func badPreferencesNameTheirLine(_ row: String) throws {
        let path = try file([#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, row])
        defer { try? FileManager.default.removeItem(atPath: path) }
        let error = #expect(throws: TeachingDataError.self) { try PreferencePair.read(path) }
        #expect("\(try #require(error))".contains("line 2"))
    }

    @Test func emptyFilesAreErrors() throws {
        let path = try file([])
        defer { try? FileManager.default.removeItem(atPath: path) }
        #expect(throws: (any Error).self) { try RewardPrompt.read(path) }
        #expect(throws: (any Error).self) { try PreferencePair.read(path) }
        #expect(throws: (any Error).self) { try RewardPrompt.read(path + ".none") }
    }
}
