/// What one group of devices computes in a step, in the numbers that its time depends on.
public struct StepWork: Sendable, Hashable {
    /// Sequences that decode: one token each.
    public var decodeRows = 0
    /// Tokens that those read from the cache, their own among them, over all of them.
    public var decodeContext = 0
    /// The same in layers with a sliding window.
    public var windowedDecodeContext = 0
    /// Tokens of prompts.
    public var promptTokens = 0
    /// Pairs of a query and a key that they compute.
    public var promptPairs = 0
    /// The same in layers with a sliding window.
    public var windowedPromptPairs = 0
    /// Cached tokens before the prompts' chunks, read once a chunk.
    public var promptCached = 0
    /// The same in layers with a sliding window.
    public var windowedPromptCached = 0
    /// Rows of logits.
    public var logitRows = 0

    /// Nothing.
    public init() {}

    /// Tokens of the step.
    public var tokens: Int { decodeRows + promptTokens }
    /// Whether there is nothing to compute.
    public var isEmpty: Bool { tokens == 0 }

    /// Adds one token of a sequence that reads `context` tokens, itself included.
    public mutating func addDecode(context: Int, window: Int) {
        decodeRows += 1
        decodeContext += context
        windowedDecodeContext += min(context, window)
        logitRows += 1
    }

    /// Adds `count` tokens of a prompt after `start` cached ones.
    public mutating func addPrompt(start: Int, count: Int, window: Int, reachesEnd: Bool) {
        promptTokens += count
        promptPairs += Self.pairs(start, count)
        promptCached += start
        // The first queries see all before them, as long as that is less than the window.
        let growing = max(min(window - start, count), 0)
        windowedPromptPairs += Self.pairs(start, growing) + (count - growing) * min(window, start + count)
        windowedPromptCached += min(start, window)
        if reachesEnd { logitRows += 1 }
    }

    private static func pairs(_ start: Int, _ count: Int) -> Int { count * start + count * (count + 1) / 2 }
}

/// Tells how long steps take.
public protocol StepCost: Sendable {
    /// The sliding window that windowed figures of ``StepWork`` are counted with; Int.max / 4 without one.
    var window: Int { get }

    /// Seconds of a step of all groups that take it together, one entry a group.
    func seconds(_ groups: [StepWork]) -> Double
}
