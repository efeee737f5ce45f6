import ApusEngine
import ApusModels
import ApusSynchronization
import ApusTensor
import Dispatch
import Foundation
import Testing

/// What a request can ask for, and how it can end.
@Suite struct EngineRequestTests {
    let model: LanguageModel

    init() throws { model = try TestModels.load("smollm2") }

    private func engine(_ change: (inout EngineConfiguration) -> Void = { _ in }) throws -> Engine {
        var configuration = EngineConfiguration()
        (configuration.context, configuration.pageSize) = (256, 4)
        change(&configuration)
        return try Engine(model, configuration)
    }

    @Test func samplesShareThePromptAndDrawEachForItself() async throws {
        var parameters = TestModels.greedy(25)
        (parameters.temperature, parameters.seed, parameters.logprobs) = (1, 5, 2)
        let prompt = TestModels.prompt(seed: 3, count: 13)
        let engine = try engine()
        let together = await collect(
            try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters, samples: 4)))
        #expect(together.samples.count == 4)
        #expect(engine.metrics().promptTokens == 13, "the prompt is computed once")
        for index in 0..<4 {
            parameters.seed = 5 + UInt64(index)
            let alone = try TextSession(model).generate(prompt, parameters)
            #expect(together[index].tokens == alone.tokens)
            #expect(together[index].text == alone.text)
            #expect(together[index].statistics.generatedTokens == 25)
        }
        #expect(Set(together.samples.values.map(\.text)).count > 1)
        #expect(engine.metrics().usedPages == 0)
    }

    @Test(arguments: [1, 3, 64]) func promptLogprobsAreThoseOfTheWholePrompt(_ pageSize: Int) async throws {
        let prompt = TestModels.prompt(seed: 9, count: 150)
        let rows = try model.decoder.logits(of: prompt)
        var parameters = TestModels.greedy(0)
        parameters.maxTokens = 0
        let engine = try engine { ($0.stepTokens, $0.maxSequences, $0.pageSize) = (40, 8, pageSize) }
        for _ in 0..<2 {
            let result = await collect(
                try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters, promptLogprobs: 3)))
            #expect(result.promptLogprobs.map(\.token) == prompt)
            #expect(result.promptLogprobs[0].logprob == nil && result.promptLogprobs[0].alternatives.isEmpty)
            #expect(result[0].reason == .length && result[0].tokens.isEmpty)
            try #require(result.promptLogprobs.count == prompt.count)
            for place in 1..<prompt.count {
                let row = rows[place - 1].map(Double.init)
                let logSum = log(row.reduce(0) { $0 + exp($1) })
                let found = result.promptLogprobs[place]
                #expect(abs(found.logprob! - (row[Int(prompt[place])] - logSum)) < 1e-5)
                let best = row.indices.sorted { row[$0] > row[$1] || (row[$0] == row[$1] && $0 < $1) }.prefix(3)
                #expect(found.alternatives.map { Int($0.token) } == Array(best))
                #expect(abs(found.alternatives[0].logprob - (row[best[0]] - logSum)) < 1e-5)
            }
        }
    }

    @Test func aPromptThatComesAgainIsFound() async throws {
        let engine = try engine()
        let prompt = TestModels.prompt(seed: 4, count: 41)
        let first = await collect(try engine.submit(GenerationRequest(prompt: prompt, sampling: TestModels.greedy(9))))
        let again = await collect(try engine.submit(GenerationRequest(prompt: prompt, sampling: TestModels.greedy(9))))
        #expect(first.cached == 0)
        #expect(again.cached == 40)
        #expect(again[0].tokens == first[0].tokens)
        // The next turn of a chat finds what was generated, too.
        let longer = prompt + first[0].tokens.map(\.token) + [7, 8]
        let next = await collect(try engine.submit(GenerationRequest(prompt: longer, sampling: TestModels.greedy(1))))
        #expect(next.cached == 48)
        #expect(engine.metrics().prefixHits == 88)
        #expect(engine.metrics().prefixQueries == 41 + 41 + longer.count)
    }

    @Test func outOfPagesRequestsAreRecomputedAndGiveTheSame() async throws {
        let engine = try engine { ($0.context, $0.cacheTokens, $0.usesPrefixCache) = (96, 120, false) }
        let prompts = (0..<6).map { TestModels.prompt(seed: 100 + $0, count: 20) }
        let parameters = TestModels.greedy(60)
        let streams = try prompts.map { try engine.submit(GenerationRequest(prompt: $0, sampling: parameters)) }
        for (prompt, stream) in zip(prompts, streams) {
            let result = await collect(stream)
            #expect(result[0].tokens == (try TextSession(model).generate(prompt, parameters)).tokens)
        }
        #expect(engine.metrics().preemptions > 0)
    }

    @Test func cancellingFreesPagesAndLeavesOthersAlone() async throws {
        // The engine waits in its eighth step until the reader has cancelled, however late the reader runs.
        let (hasCancelled, steps) = (DispatchSemaphore(value: 0), Locked(0))
        let engine = try engine {
            $0.usesPrefixCache = false
            $0.deliver = { deliveries in
                deliveries()
                let step = steps.withLock { steps in
                    steps += 1
                    return steps
                }
                if step == 8 { hasCancelled.wait() }
            }
        }
        let parameters = TestModels.greedy(200)
        let prompt = TestModels.prompt(seed: 1, count: 10)
        let expected = try TextSession(model, context: 256).generate(prompt, parameters)
        let cancelled = try engine.submit(GenerationRequest(prompt: [1, 2, 3], sampling: parameters, samples: 2))
        let kept = try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters))
        var pieces = 0
        var reasons: [FinishReason] = []
        for await event in cancelled {
            if case .piece = event {
                pieces += 1
                if pieces == 5 {
                    cancelled.cancel()
                    hasCancelled.signal()
                }
            }
            if case .finished(_, let reason, _) = event { reasons.append(reason) }
        }
        #expect(reasons == [.cancelled, .cancelled])
        // A stream that is dropped is cancelled as well.
        _ = try engine.submit(GenerationRequest(prompt: [4, 5], sampling: parameters))
        #expect(await collect(kept)[0].tokens == expected.tokens)
        await engine.drain()
        #expect(engine.metrics().usedPages == 0)
        #expect(engine.metrics().finished[.cancelled] == 3)
    }

    @Test func aTaskThatIsCancelledEndsItsRequest() async throws {
        let engine = try engine()
        let stream = try engine.submit(GenerationRequest(prompt: [1], sampling: TestModels.greedy(250)))
        let task = Task { await collect(stream) }
        task.cancel()
        _ = await task.value
        await engine.drain()
        #expect(engine.metrics().finished.values.reduce(0, +) == 1)
    }

    @Test func theQueueIsBounded() async throws {
        // The engine stands still at its first delivery, so that the first request runs for as long as the others wait.
        let gate = DispatchSemaphore(value: 0)
        let engine = try engine {
            ($0.maxSequences, $0.maxQueuedRequests, $0.maxQueuedTokens) = (1, 2, 50)
            $0.deliver = { deliveries in
                gate.wait()
                gate.signal()
                deliveries()
            }
        }
        let long = GenerationRequest(prompt: [1], sampling: TestModels.greedy(255))
        let running = try engine.submit(long)
        while engine.metrics().running == 0 { try await Task.sleep(for: .milliseconds(1)) }
        let streams = try (0..<2).map { _ in try engine.submit(long) }
        #expect(throws: EngineError.queueFull(requests: 2, limit: 2)) { try engine.submit(long) }
        #expect(engine.metrics().refused == 1)
        gate.signal()
        for stream in streams { stream.cancel() }
        running.cancel()
        await engine.drain()
        #expect(throws: EngineError.draining) { try engine.submit(long) }
    }

    @Test func requestsThatCannotRunAreRefusedByName() throws {
        let engine = try engine()
        func refusal(_ change: (inout GenerationRequest) -> Void) -> EngineError? {
            var request = GenerationRequest(prompt: [1, 2], sampling: TestModels.greedy(4))
            change(&request)
            do {
                _ = try engine.submit(request)
                return nil
            } catch { return error }
        }
        #expect(refusal { $0.prompt = [] } == .prompt(.emptyPrompt))
        #expect(refusal { $0.prompt = [1, 67] } == .prompt(.unknownToken(67, vocabulary: 67)))
        #expect(refusal { $0.prompt = [-1] } == .prompt(.unknownToken(-1, vocabulary: 67)))
        #expect(
            refusal { $0.prompt = Array(repeating: 1, count: 256) }
                == .prompt(.promptTooLong(tokens: 256, context: 256)))
        #expect(refusal { $0.samples = 0 } == .outOfRange(name: "n", expected: "an integer from 1 to 64", found: 0))
        #expect(refusal { $0.promptLogprobs = -1 }?.description.hasPrefix("prompt logprobs:") == true)
        #expect(refusal { $0.sampling.topP = 2 }?.description.hasPrefix("top-p:") == true)
    }

    @Test func deadlinesEndRequests() async throws {
        let engine = try engine()
        let past = await collect(
            try engine.submit(GenerationRequest(prompt: [1], sampling: TestModels.greedy(5), deadline: .now)))
        #expect(past.error == .deadlineExceeded)
        let later = ContinuousClock.now + .seconds(600)
        let future = await collect(
            try engine.submit(GenerationRequest(prompt: [1], sampling: TestModels.greedy(5), deadline: later)))
        #expect(future.error == nil && future[0].tokens.count == 5)
    }

    @Test func shutdownEndsWhatRuns() async throws {
        let engine = try engine { $0.maxSequences = 1 }
        let streams = try (0..<3).map { _ in
            try engine.submit(GenerationRequest(prompt: [1, 2], sampling: TestModels.greedy(250)))
        }
        engine.shutdown()
        for stream in streams { #expect(await collect(stream).error == .shutDown) }
        #expect(throws: EngineError.shutDown) { try engine.submit(GenerationRequest(prompt: [1])) }
        await engine.drain()
    }

    @Test func stopStringsAndEndTokensEndSamples() async throws {
        let engine = try engine()
        var parameters = TestModels.greedy(40)
        let prompt = TestModels.prompt(seed: 2, count: 6)
        let whole = try TextSession(model).generate(prompt, parameters)
        parameters.stop = [String(whole.text.dropFirst(5).prefix(2))]
        let expected = try TextSession(model).generate(prompt, parameters)
        let found = await collect(try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters)))
        #expect(found[0].text == expected.text && found[0].reason == .stop)
        #expect(found[0].tokens == expected.tokens)
        parameters.stop = []
        parameters.ignoreEndOfSequence = false
        let ending = try TestModels.load("smollm2", endTokens: [whole.tokens[3].token])
        let ended = await collect(try Engine(ending).submit(GenerationRequest(prompt: prompt, sampling: parameters)))
        let first = whole.tokens.firstIndex { $0.token == whole.tokens[3].token }!
        #expect(ended[0].tokens.count == first + 1 && ended[0].reason == .stop)
    }

    @Test func constraintsAreKept() async throws {
        let engine = try engine()
        var parameters = TestModels.greedy(30)
        parameters.ignoreEndOfSequence = false
        let words = Alternating(count: 9)
        let result = await collect(
            try engine.submit(GenerationRequest(prompt: [5, 6], sampling: parameters, constraint: words)))
        #expect(result[0].tokens.map(\.token) == [40, 41, 40, 41, 40, 41, 40, 41, 40])
        #expect(result[0].reason == .stop)
        let dead = await collect(
            try engine.submit(
                GenerationRequest(prompt: [5, 6], sampling: parameters, constraint: Alternating(count: 3, ends: false)))
        )
        #expect(dead.error == .constraintDeadEnd(sample: 0, position: 3))
    }

    @Test func aStreamKeepsItsEngine() async throws {
        let stream = try engine().submit(GenerationRequest(prompt: [1, 2], sampling: TestModels.greedy(250)))
        #expect(await collect(stream)[0].tokens.count == 250)
    }
}

/// Tokens 40 and 41 in turn, `count` of them.
private struct Alternating: TokenConstraint {
    let count: Int
    var ends = true

    struct State: TokenConstraintState {
        let count: Int
        let ends: Bool
        var taken = 0

        var isComplete: Bool { ends && taken == count }

        func allowedMask() -> TokenMask {
            var mask = TokenMask(vocabularySize: TestModels.vocabulary)
            if taken < count { mask.insert(taken % 2 == 0 ? 40 : 41) } else if ends { mask.insert(2) }
            return mask
        }

        mutating func accept(_ token: Int32) -> Bool {
            taken += 1
            return true
        }
    }

    func makeState() -> any TokenConstraintState { State(count: count, ends: ends) }
}
