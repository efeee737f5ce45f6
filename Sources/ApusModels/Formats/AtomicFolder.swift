#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A folder written under another name beside its final place and renamed into it only when complete. The temporary is
/// removed when writing stops with an error.
final class AtomicFolder {
    /// The final path.
    let path: String
    /// Where files go until ``publish()``.
    let temporary: String
    private var isPublished = false

    /// Creates the temporary. There must be nothing at `path`.
    init(path: String) throws {
        let path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        guard access(path, F_OK) != 0 else {
            throw ModelFileError.malformed(
                file: path, place: "output", expected: "a new folder", found: "one that exists")
        }
        self.path = path
        temporary = path + ".part-" + String(UInt32.random(in: 0...UInt32.max), radix: 16)
        guard mkdir(temporary, 0o777) == 0 else {
            throw ModelFileError.system(file: path, operation: "create a folder beside it", code: errno)
        }
    }

    deinit {
        guard !isPublished, let stream = opendir(temporary) else { return }
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { unlink(FilePath.join(temporary, name)) }
        }
        closedir(stream)
        rmdir(temporary)
    }

    /// Writes a file into it.
    func write(_ name: String, _ text: String) throws { try write(name, Array(text.utf8)) }

    /// Writes a file into it.
    func write(_ name: String, _ bytes: [UInt8]) throws {
        let file = try AtomicFile(path: FilePath.join(temporary, name))
        try file.write(bytes)
        try file.publish()
    }

    /// Gives the folder its name.
    func publish() throws {
        guard rename(temporary, path) == 0 else {
            throw ModelFileError.system(file: path, operation: "rename the finished folder", code: errno)
        }
        isPublished = true
    }
}
