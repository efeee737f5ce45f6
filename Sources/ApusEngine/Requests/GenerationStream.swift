import ApusSynchronization

/// The events of one request, for one reader.
///
/// A reader that waits is woken once a step, with all of that step's events. Dropping the stream and its iterators cancels the
/// request, as does cancelling the task that reads.
public struct GenerationStream: AsyncSequence, Sendable {
    /// ``GenerationEvent``.
    public typealias Element = GenerationEvent
    /// Never: failures are events.
    public typealias Failure = Never

    private let handle: StreamHandle

    init(cancel: @escaping @Sendable () -> Void) { handle = StreamHandle(cancel: cancel) }

    /// Where the engine puts events: it does not keep the stream alive.
    var mailbox: EventMailbox { handle.mailbox }

    /// Ends the request at the next step; samples that have not finished do so with ``FinishReason/cancelled``.
    public func cancel() { handle.cancel() }

    /// See `AsyncSequence`.
    public func makeAsyncIterator() -> Iterator { Iterator(handle: handle) }

    /// Reads the events.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let handle: StreamHandle
        private var pending = ArraySlice<GenerationEvent>()

        fileprivate init(handle: StreamHandle) { self.handle = handle }

        /// The next event, or nil after the last.
        public mutating func next() async -> GenerationEvent? {
            if pending.isEmpty {
                guard let events = await handle.next() else { return nil }
                pending = events[...]
            }
            return pending.popFirst()
        }

        /// All events that have come since the last call, at least one; nil after the last.
        public mutating func nextEvents() async -> [GenerationEvent]? {
            if pending.isEmpty { return await handle.next() }
            defer { pending = [] }
            return Array(pending)
        }
    }
}

/// What a stream and its iterators share; the request is cancelled when the last of them goes.
private final class StreamHandle: Sendable {
    let mailbox = EventMailbox()
    let cancel: @Sendable () -> Void

    init(cancel: @escaping @Sendable () -> Void) { self.cancel = cancel }

    deinit { cancel() }

    func next() async -> [GenerationEvent]? {
        await withTaskCancellationHandler {
            await mailbox.next()
        } onCancel: {
            cancel()
            mailbox.abandon()
        }
    }
}

/// Events on their way from the engine to a reader.
final class EventMailbox: Sendable {
    private struct State {
        var events: [GenerationEvent] = []
        var hasEnded = false
        var reader: UnsafeContinuation<[GenerationEvent]?, Never>?
    }

    private let state = Monitor(State())

    /// Adds events; `isLast` when none follow.
    func put(_ events: [GenerationEvent], isLast: Bool) {
        let reader = state.withLock { state in
            if state.hasEnded { return nil as (UnsafeContinuation<[GenerationEvent]?, Never>, [GenerationEvent])? }
            state.events += events
            state.hasEnded = isLast
            guard let reader = state.reader, !state.events.isEmpty else { return nil }
            state.reader = nil
            defer { state.events = [] }
            return (reader, state.events)
        }
        if let (reader, events) = reader { reader.resume(returning: events) }
    }

    /// Ends the stream for its reader, who does not wait for the engine.
    func abandon() {
        let reader = state.withLock { state in
            state.hasEnded = true
            state.events = []
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume(returning: nil)
    }

    /// Precondition: one reader at a time.
    func next() async -> [GenerationEvent]? {
        await withUnsafeContinuation { continuation in
            let ready: [GenerationEvent]?? = state.withLock { state in
                if !state.events.isEmpty {
                    defer { state.events = [] }
                    return .some(state.events)
                }
                if state.hasEnded { return .some(nil) }
                precondition(state.reader == nil, "a generation stream has one reader at a time")
                state.reader = continuation
                return nil
            }
            if let ready { continuation.resume(returning: ready) }
        }
    }
}
