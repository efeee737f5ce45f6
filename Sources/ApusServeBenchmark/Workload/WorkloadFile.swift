import ApusText

/// A workload from a file of JSON lines.
struct WorkloadFile {
    private let path: String
    private let lines: [[UInt8]]

    init(_ path: String) throws(ServeBenchmarkError) {
        self.path = path
        var bytes: [UInt8] = []
        do {
            let source = try ByteSource(path: path)
            while try source.append(to: &bytes) {}
        } catch {
            throw .workload(file: path, line: 0, expected: "a readable file", found: "\(error)")
        }
        lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false).map { Array($0) }
    }

    func requests(count: Int?, output: Int) throws(ServeBenchmarkError) -> [BenchmarkRequest] {
        var result: [BenchmarkRequest] = []
        for (index, line) in lines.enumerated() where !line.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }) {
            if let count, result.count == count { break }
            result.append(try request(line, index + 1, output))
        }
        guard !result.isEmpty else { throw .workload(file: path, line: 1, expected: "a request a line", found: "none") }
        // A file with fewer requests than asked for is gone through again.
        guard let count, count > result.count else { return result }
        return (0..<count).map { result[$0 % result.count] }
    }

    private func request(_ line: [UInt8], _ number: Int, _ output: Int) throws(ServeBenchmarkError) -> BenchmarkRequest
    {
        let node: JSONNode
        do {
            node = JSONNode(try JSONValue(parsing: line), name: path)
        } catch {
            throw .workload(file: path, line: number, expected: "a JSON object", found: "\(error)")
        }
        do throws(JSONError) {
            let limit = try node.optional("max_tokens")?.int(in: 1...(1 << 24)) ?? output
            if let messages = try node.optional("messages") {
                return BenchmarkRequest(prompt: .messages(try messages.array()), promptTokens: nil, outputTokens: limit)
            }
            let prompt = try node.child("prompt", expected: "a text, or an array of token ids")
            if let ids = prompt.value.arrayValue {
                let tokens = try prompt.elements().map { id throws(JSONError) in Int32(try id.int(in: 0...(1 << 24))) }
                return BenchmarkRequest(prompt: .tokens(tokens), promptTokens: ids.count, outputTokens: limit)
            }
            return BenchmarkRequest(prompt: .text(try prompt.string()), promptTokens: nil, outputTokens: limit)
        } catch {
            throw .workload(file: path, line: number, expected: "a request", found: "\(error)")
        }
    }
}
