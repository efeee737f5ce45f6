import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Whole files of a cache folder, read and replaced at once.
enum CacheFile {
    private static let counter = Atomic<Int>(0)
    private static let largest = 1 << 30

    /// The file's bytes, or nil when it cannot be read.
    static func read(_ path: String) -> [UInt8]? {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var information = stat()
        guard fstat(file, &information) == 0, information.st_mode & S_IFMT == S_IFREG, information.st_size <= largest
        else {
            return nil
        }
        let size = Int(information.st_size)
        var bytes = [UInt8](repeating: 0, count: size)
        let complete = bytes.withUnsafeMutableBytes { buffer in
            transfer(size) { posixRead(file, buffer.baseAddress! + $0, size - $0) }
        }
        return complete ? bytes : nil
    }

    /// Writes the bytes beside `path`, syncs them, and renames them into place. Returns what went wrong, or nil.
    static func write(_ bytes: [UInt8], to path: String) -> String? {
        let folder = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        makeFolders(folder)
        let number = counter.add(1, ordering: .relaxed).newValue
        let beside = "\(path).\(getpid()).\(number).part"
        let file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { return "cannot write to \(folder): \(String(cString: strerror(errno)))" }
        var complete = bytes.withUnsafeBytes { buffer in
            transfer(buffer.count) { posixWrite(file, buffer.baseAddress! + $0, buffer.count - $0) }
        }
        complete = complete && fsync(file) == 0
        complete = close(file) == 0 && complete
        if complete && rename(beside, path) == 0 { return nil }
        let problem = "cannot write \(path): \(String(cString: strerror(errno)))"
        unlink(beside)
        return problem
    }

    /// Repeats a read or write until `count` bytes are done; false when it fails or ends early.
    private static func transfer(_ count: Int, _ step: (Int) -> Int) -> Bool {
        var done = 0
        while done < count {
            let moved = step(done)
            if moved < 0 && errno == EINTR { continue }
            guard moved > 0 else { return false }
            done += moved
        }
        return true
    }

    private static func makeFolders(_ folder: String) {
        var path = ""
        for part in folder.split(separator: "/", omittingEmptySubsequences: true) {
            path += (path.isEmpty && !folder.hasPrefix("/") ? "" : "/") + part
            mkdir(path, 0o700)
        }
    }
}

private func posixRead(_ file: Int32, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> Int {
    read(file, bytes, count)
}

private func posixWrite(_ file: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Int { write(file, bytes, count) }
