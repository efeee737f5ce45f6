import Synchronization

/// Requests by route, method and status.
final class HTTPCounters: Sendable {
    struct Key: Hashable, Comparable {
        let route: String
        let method: String
        let status: Int

        static func < (a: Key, b: Key) -> Bool { (a.route, a.method, a.status) < (b.route, b.method, b.status) }
    }

    private let counts = Mutex<[Key: Int]>([:])

    func count(_ key: Key) { counts.withLock { $0[key, default: 0] += 1 } }

    var all: [(key: Key, count: Int)] {
        counts.withLock { $0.map { (key: $0.key, count: $0.value) } }.sorted { $0.key < $1.key }
    }
}
