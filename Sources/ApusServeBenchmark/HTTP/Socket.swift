#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A TCP socket that never blocks; the one place of this target that touches raw memory and file descriptors.
final class Socket {
    let descriptor: Int32
    private var isOpen = true

    enum Outcome {
        case bytes(Int)
        /// Nothing can be done now.
        case wouldBlock
        /// The other side has closed.
        case ended
        case failed(String)
    }

    /// Starts to connect.
    init(connectingTo address: SocketAddress) throws(SocketError) {
        let handle = socket(
            address.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue),
            0)
        guard handle >= 0 else { throw SocketError(reason: Self.reason(errno)) }
        descriptor = handle
        var yes: Int32 = 1
        setsockopt(handle, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
        let code = address.bytes.withUnsafeBytes {
            connect(handle, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
        guard code == 0 || errno == EINPROGRESS || errno == EINTR else {
            let reason = Self.reason(errno)
            closeNow()
            throw SocketError(reason: reason)
        }
    }

    deinit { closeNow() }

    func closeNow() {
        if isOpen { close(descriptor) }
        isOpen = false
    }

    /// The reason why connecting failed, or nil where it did not.
    var connectionError: String? {
        var code: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
        return code == 0 ? nil : Self.reason(code)
    }

    func write(_ bytes: ArraySlice<UInt8>) -> Outcome {
        let count = bytes.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        return count >= 0 ? .bytes(count) : failure()
    }

    /// Reads into the front of `buffer`.
    func read(into buffer: inout [UInt8]) -> Outcome {
        let count = buffer.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
        return count > 0 ? .bytes(count) : count == 0 ? .ended : failure()
    }

    private func failure() -> Outcome {
        errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? .wouldBlock : .failed(Self.reason(errno))
    }

    private static func reason(_ code: Int32) -> String { String(cString: strerror(code)) }

    /// Waits until one of the sockets is ready.
    /// - Parameter interest: sockets with whether they are to be written; all are to be read.
    /// - Returns: for each whether it is readable (or broken) and whether it is writable.
    static func wait(
        _ interest: [(descriptor: Int32, writes: Bool)], seconds: Double, _ scratch: inout [PollEntry]
    ) -> Int {
        scratch.removeAll(keepingCapacity: true)
        for (descriptor, writes) in interest {
            scratch.append(PollEntry(fd: descriptor, events: Int16(POLLIN) | (writes ? Int16(POLLOUT) : 0), revents: 0))
        }
        // Rounded up: waking before the time would only mean to ask again.
        let milliseconds = Int32(min(max((seconds * 1000).rounded(.up), 0), 60_000))
        let count = poll(&scratch, nfds_t(scratch.count), milliseconds)
        return max(Int(count), 0)
    }
}

/// What a socket is waited for, and what came of it.
typealias PollEntry = pollfd

extension PollEntry {
    var isWritable: Bool { revents & Int16(POLLOUT) != 0 }
    /// Whether reading would tell something, be it that the connection is broken.
    var isReadable: Bool { revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 }
}

/// Why a socket could not be made.
struct SocketError: Error {
    let reason: String
}

/// The system's monotonic clock.
enum Clock {
    /// Seconds since some time in the past.
    static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }

    /// Seconds of processor time that this process has used.
    static var processSeconds: Double {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
