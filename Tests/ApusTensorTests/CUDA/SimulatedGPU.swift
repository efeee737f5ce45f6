import ApusSynchronization
import ApusTensor

/// A GPU of a given memory, without one: streams and events are vector clocks, so that a use of memory that is not ordered
/// behind an earlier use is seen, whatever the timing would have been.
final class SimulatedGPU: CUDADeviceMemory {
    /// How many operations of each stream are known to be done.
    typealias Clock = [UInt: Int]

    struct State {
        var allocations: [UInt64: Int] = [:]
        var nextAddress: UInt64 = 1 << 20
        var used = 0
        var clocks: [UInt: Clock] = [:]
        var host: Clock = [:]
        var events: [UInt: Clock] = [:]
        var nextEvent: UInt = 1
        var capturing: Set<UInt> = []
        var violations: [String] = []
        var random: SplitMix
    }

    let capacity: Int
    private let state: Locked<State>

    init(capacity: Int, seed: UInt64) {
        self.capacity = capacity
        state = Locked(State(random: SplitMix(state: seed)))
    }

    var violations: [String] { state.withLock { $0.violations } }
    var allocatedBytes: Int { state.withLock { $0.used } }
    var liveEvents: Int { state.withLock { $0.events.count } }

    /// Whether the range lies in one allocation.
    func contains(_ address: UInt64, _ count: Int) -> Bool {
        state.withLock { state in
            state.allocations.contains { $0.key <= address && address + UInt64(count) <= $0.key + UInt64($0.value) }
        }
    }

    // MARK: Work

    /// Queues an operation and gives its number in the stream.
    func work(on stream: UInt) -> Int {
        state.withLock { state in
            var clock = merge(state.clocks[stream] ?? [:], state.host)
            clock[stream, default: 0] += 1
            state.clocks[stream] = clock
            return clock[stream]!
        }
    }

    /// Whether work queued on `stream` now comes after operation `number` of `other`.
    func isOrdered(_ stream: UInt, after number: Int, of other: UInt) -> Bool {
        state.withLock { merge($0.clocks[stream] ?? [:], $0.host)[other] ?? 0 >= number }
    }

    func setCapturing(_ stream: UInt, _ value: Bool) {
        state.withLock { state in
            if value { state.capturing.insert(stream) } else { state.capturing.remove(stream) }
        }
    }

    // MARK: CUDADeviceMemory

    func allocate(byteCount: Int) throws -> UInt64? {
        state.withLock { state in
            guard state.used + byteCount <= capacity else { return nil }
            let address = state.nextAddress
            state.nextAddress += UInt64((byteCount + 0x1fffff) & ~0x1fffff) + (1 << 21)
            state.allocations[address] = byteCount
            state.used += byteCount
            return address
        }
    }

    func free(_ address: UInt64) {
        state.withLock { state in
            guard let size = state.allocations.removeValue(forKey: address) else {
                state.violations.append("free of \(address), which is not allocated")
                return
            }
            for (stream, clock) in state.clocks where clock[stream] ?? 0 > state.host[stream] ?? 0 {
                state.violations.append("free of \(address) while stream \(stream) runs")
            }
            state.used -= size
        }
    }

    func available() -> (free: Int, total: Int) {
        state.withLock { (capacity - $0.used, capacity) }
    }

    func record(stream: UInt) throws -> UInt {
        state.withLock { state in
            if state.capturing.contains(stream) { state.violations.append("event in stream \(stream), which records") }
            let event = state.nextEvent
            state.nextEvent += 1
            state.events[event] = merge(state.clocks[stream] ?? [:], state.host)
            return event
        }
    }

    func wait(stream: UInt, for event: UInt) throws {
        state.withLock { state in
            if state.capturing.contains(stream) { state.violations.append("wait of stream \(stream), which records") }
            state.clocks[stream] = merge(state.clocks[stream] ?? [:], state.events[event] ?? [:])
        }
    }

    /// True at random; from then on the host, and all work queued later, comes after the event.
    func isComplete(event: UInt) -> Bool {
        state.withLock { state in
            guard let clock = state.events[event] else {
                state.violations.append("query of event \(event), which is destroyed")
                return true
            }
            let done = clock.allSatisfy { state.host[$0.key] ?? 0 >= $0.value } || state.random.next(4) == 0
            if done { state.host = merge(state.host, clock) }
            return done
        }
    }

    func destroy(event: UInt) {
        state.withLock { state in
            if state.events.removeValue(forKey: event) == nil {
                state.violations.append("event \(event) destroyed twice")
            }
        }
    }

    func synchronize() {
        state.withLock { state in
            if !state.capturing.isEmpty { state.violations.append("wait for the GPU while a stream records") }
            for clock in state.clocks.values { state.host = merge(state.host, clock) }
        }
    }
}

private func merge(_ a: SimulatedGPU.Clock, _ b: SimulatedGPU.Clock) -> SimulatedGPU.Clock {
    a.merging(b) { max($0, $1) }
}

extension SplitMix {
    /// A number below `bound`.
    mutating func next(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }
}
