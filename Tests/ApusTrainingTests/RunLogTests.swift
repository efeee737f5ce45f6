import ApusText
import ApusTraining
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct RunLogTests {
    @Test func aResumedLogHoldsEachStepOnce() throws {
        try withPath { path in
            let log = try RunLog(path: path)
            try log.append(["run": "gla", "parameters": 5])
            for step in 1...6 { try log.append(["step": .integer(Int64(step)), "loss": .double(1 / Double(step))]) }
            let whole = try String(contentsOf: URL(filePath: path), encoding: .utf8)
            // A kill within the last entry.
            try Data(whole.dropLast(9).utf8).write(to: URL(filePath: path))
            #expect(try RunLog.read(path).count == 6)
            let again = try RunLog(path: path, resumingAfter: 4)
            #expect(try RunLog.read(path).map { $0["step"]?.intValue } == [nil, 1, 2, 3, 4])
            for step in 5...6 { try again.append(["step": .integer(Int64(step)), "loss": .double(1 / Double(step))]) }
            #expect(try String(contentsOf: URL(filePath: path), encoding: .utf8) == whole)
            // Every place a kill can cut at.
            for count in 0...whole.utf8.count {
                try Data(Array(whole.utf8)[..<count]).write(to: URL(filePath: path))
                _ = try RunLog(path: path, resumingAfter: 100)
                let kept = try String(contentsOf: URL(filePath: path), encoding: .utf8)
                #expect(whole.hasPrefix(kept) && (kept.isEmpty || kept.hasSuffix("}\n")))
                #expect(kept.utf8.count + 60 > count)
            }
            _ = try RunLog(path: path)
            #expect(try RunLog.read(path).isEmpty)
        }
    }

    @Test func numbersThatAreNoneStayReadable() throws {
        try withPath { path in
            try RunLog(path: path).append(["step": 1, "loss": .double(.nan)])
            #expect(try RunLog.read(path) == [["step": 1, "loss": "nan"]])
        }
    }

    @Test func aDamagedLogIsAnError() throws {
        try withPath { path in
            try Data("{\"step\": 1}\nx\n{\"step\": 2}\n".utf8).write(to: URL(filePath: path))
            #expect(throws: RunLogError.entry(file: path, line: 2)) { try RunLog.read(path) }
            #expect(throws: RunLogError.self) { try RunLog.read(path + "/none") }
        }
    }
}

@Suite struct StatusLineTests {
    @Test func linesSayWhereTheRunIs() {
        var written = ""
        var line = StatusLine(
            isTerminal: false, operationsPerToken: 33e6, peakFlops: 450e9, write: { written += $0 }
        )
        line.update(
            .init(step: 10, of: 200, loss: 4.8126, learningRate: 9.14e-4, steps: 10, tokens: 40_960, seconds: 8))
        #expect(
            written == "step 10/200  loss 4.813  lr 9.1e-4  5,120 tok/s  37.5 % of peak  2:32 min left\n")
        line.update(.init(step: 200, of: 200, loss: .nan, learningRate: 0, steps: 190, tokens: 40_960, seconds: 8))
        #expect(written.hasSuffix("step 200/200  loss nan  lr 0.0  5,120 tok/s  37.5 % of peak\n"))
    }

    @Test func terminalsKeepOneLine() {
        var written = ""
        var line = StatusLine(isTerminal: true, write: { written += $0 })
        line.update(.init(step: 1, of: 2, loss: 1, learningRate: 1e-3, steps: 1, tokens: 1_500_000, seconds: 1))
        line.note("evaluation")
        line.update(.init(step: 2, of: 2, loss: 1, learningRate: 1e-3, steps: 1, tokens: 1_500_000, seconds: 1))
        line.end()
        #expect(
            written == "\rstep 1/2  loss 1.000  lr 1.0e-3  1,500,000 tok/s  1 s left\u{1B}[K\nevaluation\n"
                + "\rstep 2/2  loss 1.000  lr 1.0e-3  1,500,000 tok/s\u{1B}[K\n")
    }
}

private func withPath(_ body: (String) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.path + "/apus-log-\(UInt64.random(in: 0 ... .max))"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
}
