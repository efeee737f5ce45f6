import ApusText
import ApusTraining

/// Outputs on disk, a prompt a line, so that a later run goes on from them or reuses them.
final class OutputStore {
    private let log: RunLog
    /// What is there already, by prompt.
    private(set) var outputs: [Int: [PolicyOutputs.Output]] = [:]

    /// Opens or makes a store.
    /// - Throws: ``OutputStoreError`` when it holds outputs of something else; `RunLogError`.
    init(path: String, setting: JSONObject) throws {
        // Opening keeps every whole line and drops a torn one.
        log = try RunLog(path: path, resumingAfter: Int.max)
        let entries = try RunLog.read(path)
        guard let head = entries.first else {
            var object: JSONObject = ["step": 0]
            for member in setting { object[member.key] = member.value }
            try log.append(object)
            return
        }
        for member in setting {
            let found = head[member.key]
            guard let found, found.serialized() == member.value.serialized() else {
                throw OutputStoreError.otherSetting(
                    file: path, key: member.key, expected: member.value.serialized(),
                    found: found?.serialized() ?? "nothing")
            }
        }
        for (index, entry) in entries.dropFirst().enumerated() {
            do {
                let node = JSONNode(.object(entry), name: "row")
                let prompt = try node.int("prompt")
                outputs[prompt] = try node.child("outputs").elements().map { element in
                    PolicyOutputs.Output(
                        text: try element.string("text"), tokens: try element.int("tokens"),
                        isComplete: try element.child("complete").bool())
                }
            } catch let error as JSONError {
                throw OutputStoreError.row(file: path, line: index + 2, problem: "\(error)")
            }
        }
    }

    /// Opens or makes the store of a policy's outputs.
    /// - Parameter tokens: of all prompts.
    /// - Throws: as ``init(path:setting:)``.
    convenience init(path: String, policy: String, _ plan: SamplingPlan, _ tokens: [[Int32]]) throws {
        // FNV-1a over all tokens: other prompts, or another template, are other outputs.
        var digest: UInt64 = 0xcbf2_9ce4_8422_2325
        for prompt in tokens {
            for token in prompt + [-1] {
                digest = (digest ^ UInt64(bitPattern: Int64(token))) &* 0x0000_0100_0000_01b3
            }
        }
        try self.init(
            path: path,
            setting: [
                "policy": .string(policy), "prompts": .string(String(digest, radix: 16)),
                "outputsPerPrompt": .integer(Int64(plan.outputs)), "temperature": .double(plan.temperature),
                "topP": .double(plan.topP), "maxTokens": .integer(Int64(plan.maxTokens)),
                "seed": .string(String(plan.seed)),
            ])
    }

    func append(prompt: Int, _ outputs: [PolicyOutputs.Output]) throws {
        self.outputs[prompt] = outputs
        let rows: [JSONValue] = outputs.map {
            .object([
                "text": .string($0.text), "tokens": .integer(Int64($0.tokens)), "complete": .bool($0.isComplete),
            ])
        }
        try log.append([
            "step": .integer(Int64(prompt) + 1), "prompt": .integer(Int64(prompt)), "outputs": .array(rows),
        ])
    }
}

/// Stored outputs that cannot be used.
public enum OutputStoreError: Error, Equatable, CustomStringConvertible {
    /// They were drawn from another policy, other prompts or in another way.
    case otherSetting(file: String, key: String, expected: String, found: String)
    /// A row that is damaged.
    case row(file: String, line: Int, problem: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .otherSetting(let file, let key, let expected, let found):
            "\(file): holds outputs of another run: expected \(key) \(expected), found \(found); give another folder for the output"
        case .row(let file, let line, let problem): "\(file), line \(line): \(problem)"
        }
    }
}
